"""From what a user names to a model that is opened when it is first needed, here or on a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Protocol

from icm_fast.errors import InputError
from icm_fast.model.lazy import LazyModel
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.servers.address import is_address
from icm_fast.scoring.servers.in_process import LazyEngine
from icm_fast.scoring.servers.lazy import LazyServer, ServedModel

if TYPE_CHECKING:
    from icm_fast.model.loaded import LoadedModel, ModelSpec

    ScoringModel = LoadedModel | ServedModel | ModelElsewhere
    """What :func:`icm_fast.scoring.factory.make_scorer` makes scorers of."""

Opened = LazyModel | LazyServer | ModelElsewhere
"""A model that is loaded, or a server or other processes that are asked, on first use."""

TOKENIZING = RLock()
"""Tokenizers keep state; of a model that is not in this process nothing else here does."""


class Choice(Protocol):
    """The settings that say how a model is opened, of a search or a labelling."""

    @property
    def dtype(self) -> str:
        """Dtype of local weights."""

    @property
    def device(self) -> str:
        """Device of local weights."""

    @property
    def engine(self) -> str:
        """What computes the scores of a model that is not behind an address."""

    @property
    def server(self) -> str:
        """The kind of server."""

    @property
    def tokenizer(self) -> str:
        """The tokenizer of a server's model."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model and how it is opened; no weights and no keys. Equal ones open the same model.

    Attributes:
        path: Hub id, path, embedded name or address, as the process that opens it reads it.
        dtype: See :class:`icm_fast.SearchConfig`.
        device: See :class:`icm_fast.SearchConfig`.
        engine: See :class:`icm_fast.SearchConfig`.
        server: See :class:`icm_fast.SearchConfig`.
        tokenizer: See :class:`icm_fast.SearchConfig`.
    """

    path: str
    dtype: str
    device: str
    engine: str
    server: str
    tokenizer: str

    @classmethod
    def of(cls, path: str, config: Choice) -> ModelChoice:
        """A model, opened as settings say."""
        return cls(
            path,
            dtype=config.dtype,
            device=config.device,
            engine=config.engine,
            server=config.server,
            tokenizer=config.tokenizer,
        )


OpenModel = Callable[[str, Choice], Opened]
"""Opens a model by its name, as settings say: :func:`open_model`, or workers that hold it."""


def open_model(model: ModelSpec | Opened | ServedModel, config: Choice) -> Opened:
    """Return what opens a model on first use.

    Args:
        model: See :func:`icm_fast.model.load_model`; also the address of a server.
        config: How it is opened.

    Raises:
        InputError: An address that cannot be used, or settings of servers for another model.
    """
    if isinstance(model, LazyModel | LazyServer | ModelElsewhere):
        return model
    if isinstance(model, ServedModel):
        return LazyServer.of(model)
    if config.engine == "vllm":
        _refuse_others(config)
        return LazyEngine(model, dtype=config.dtype, tokenizer=config.tokenizer)
    if is_address(model):
        return LazyServer(str(model), server=config.server, tokenizer=config.tokenizer)
    for name, value in (("server", config.server), ("tokenizer", config.tokenizer)):
        if value not in ("", "auto"):
            raise InputError(
                f"{name}={value} is for models on a server, but the model is not an address such "
                f"as http://localhost:8000; drop {name}"
            )
    return LazyModel(model, dtype=config.dtype, device=config.device)


def reads_texts(model: Opened) -> bool:
    """Whether the model can say how probable a text is; a server is opened to know it."""
    return isinstance(model, LazyModel) or model.reads_texts


def _refuse_others(config: Choice) -> None:
    """Raise InputError for settings that vLLM in this process does not follow."""
    for name, value, fix in (
        ("device", config.device, "choose devices by CUDA_VISIBLE_DEVICES"),
        ("server", config.server, "drop server"),
    ):
        if value != "auto":
            raise InputError(f"{name}={value} does not go with engine=vllm; {fix}")


def width_of(model: Opened) -> int:
    """Calls of a model that are worth making at once."""
    return model.width if isinstance(model, ModelElsewhere) else 1


def local_weights(model: ScoringModel, what: str) -> LoadedModel:
    """The model, if its weights are in this process.

    Args:
        model: A model.
        what: What needs the weights, for the message.

    Raises:
        InputError: It is on a server, or in other processes.
    """
    if isinstance(model, ModelElsewhere):
        raise InputError(
            f"{what} needs the weights of the model, but {model.name} is held by the workers of "
            "--ray; drop --ray"
        )
    if isinstance(model, ServedModel):
        raise InputError(
            f"{what} needs the weights of the model, but {model.name} is a server; pass a hub id, "
            "a folder or a .gguf file"
        )
    return model
