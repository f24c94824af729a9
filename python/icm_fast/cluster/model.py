"""A model that the workers of a cluster hold, for searches, labellings and experiments."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from icm_fast.assets.locate import EMBEDDED_MODELS
from icm_fast.cluster.following import Following
from icm_fast.cluster.pool import Pool
from icm_fast.cluster.worker import Facts
from icm_fast.engine.chains import make_search_engine
from icm_fast.engine.progress import Quiet
from icm_fast.engine.protocol import SearchesElsewhere
from icm_fast.engine.search import search_into, search_settings
from icm_fast.runs.store import MemoryStore, open_store
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.lazy import LazyScorer
from icm_fast.scoring.models import Choice, ModelChoice, open_model
from icm_fast.scoring.servers.address import is_address
from icm_fast.tracking import tracked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icm_fast.config import SearchConfig
    from icm_fast.engine.result import SearchResult
    from icm_fast.model.lazy import ModelIdentity
    from icm_fast.runs.score_log import ScoredLabelling
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.scoring.protocol import ReadingScorer
    from icm_fast.tasks.source import TaskSource
    from icm_fast.tracking import TrackLike
    from icm_fast.types import Dataset, Reporter

P = ParamSpec("P")
R = TypeVar("R")


class ClusterModel(SearchesElsewhere):
    """A model that each worker opens when it first needs it.

    Args:
        name: Hub id, folder, ``.gguf`` file, embedded name, or address of a server, as each worker
            can reach it.
        pool: The workers.
        config: How it is opened.

    Raises:
        InputError: An address that cannot be used, or settings of servers for another model.
    """

    def __init__(self, name: str | os.PathLike[str], pool: Pool, config: Choice) -> None:
        open_model(name, config)  # refuses now what a worker would refuse
        self.name = os.fspath(name)
        self.is_named = not is_address(name)
        self.is_served = is_address(name) or config.engine == "vllm"
        self._pool = pool
        choice = ModelChoice.of(_absolute(self.name), config)
        self._choice = replace(choice, tokenizer=_absolute(config.tokenizer))
        self._known: Facts | None = None
        self._asking = RLock()

    @property
    def width(self) -> int:
        """Number of workers."""
        return self._pool.width

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the first worker."""
        return self._facts.tokenizer

    @property
    def max_context(self) -> int:
        """Longest context in tokens."""
        return self._facts.max_context

    @property
    def n_parameters(self) -> int:
        """Parameters, tied ones once; 0 where a server does not say."""
        return self._facts.n_parameters

    def identity(self) -> ModelIdentity:
        """What every worker's model is compared with."""
        return self._facts.identity

    def files_digest(self) -> str:
        """Of the files of the first worker."""
        return self._facts.files_digest

    def call(
        self, function: Callable[Concatenate[ScoringModel, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a function with the model in any free worker."""
        value: R = self._pool.call("call", self._choice, self.identity(), function, args, kwargs)
        return value

    def search(
        self,
        dataset: Dataset,
        *,
        config: SearchConfig,
        output_dir: str | os.PathLike[str] | None,
        progress: Reporter | None,
        source: TaskSource | None,
        track: TrackLike,
    ) -> SearchResult:
        """Run a search in one worker; its scores and all files are kept here."""
        engine = make_search_engine(config, dataset)
        led = _Led(self, self._pool, self._choice)
        lazy_scorer = LazyScorer(dataset, config, led)
        settings = search_settings(lazy_scorer, dataset, config)
        with (
            open_store(output_dir, dataset, config, lazy_scorer, source) as store,
            progress or Quiet() as shown,
            tracked(track, output_dir, "search", settings, shown.warn) as tracking,
            led.following(dataset, config, store),
        ):
            return search_into(store, engine, dataset, config, lazy_scorer, shown, tracking)

    @property
    def _facts(self) -> Facts:
        with self._asking:
            if self._known is None:
                self._known = self._pool.call("facts", self._choice)
            return self._known


class _Led(ModelElsewhere):
    """A model whose scorer follows the search of a worker."""

    def __init__(self, model: ClusterModel, pool: Pool, choice: ModelChoice) -> None:
        self.name, self.is_named = model.name, model.is_named
        self.is_served = model.is_served
        self._model = model
        self._pool = pool
        self._choice = choice
        self._following: Following | None = None

    def following(self, dataset: Dataset, config: SearchConfig, store: MemoryStore) -> Following:
        """What answers this search, with a worker that is taken when it first has to score."""

        def begin(worker: Any, records: Sequence[ScoredLabelling]) -> Iterator[Any]:
            expected = self.identity()
            stream: Iterator[Any] = worker.search.options(num_returns="streaming").remote(
                self._choice, expected, dataset, config, records
            )
            return stream

        self._following = Following(self, dataset, config, self._pool, begin, lambda: store.records)
        return self._following

    @property
    def width(self) -> int:
        return 1

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._model.tokenizer

    @property
    def max_context(self) -> int:
        return self._model.max_context

    @property
    def n_parameters(self) -> int:
        return self._model.n_parameters

    def identity(self) -> ModelIdentity:
        return self._model.identity()

    def files_digest(self) -> str:
        return self._model.files_digest()

    def call(
        self, function: Callable[Concatenate[ScoringModel, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        return self._model.call(function, *args, **kwargs)

    def scorer(self, dataset: Dataset, config: SearchConfig) -> ReadingScorer:
        assert self._following is not None, "a search opens its store first"
        return self._following


def _absolute(name: str) -> str:
    """The path of what is a file or a folder here: workers may run elsewhere in the tree."""
    here = name and name not in EMBEDDED_MODELS and not is_address(name) and Path(name).exists()
    return os.path.abspath(name) if here else name
