"""What a worker does: it opens models, calls functions with them, and runs searches ahead.

A worker writes no file. Whatever it finds goes to the process that called it.
"""

from __future__ import annotations

import os
import platform
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from icm_fast.engine.chains import make_search_engine
from icm_fast.engine.progress import Quiet
from icm_fast.engine.search import search_into
from icm_fast.errors import InputError
from icm_fast.model.hardware import describe_cpu
from icm_fast.runs.provenance import versions
from icm_fast.runs.score_log import ScoredLabelling
from icm_fast.runs.store import MemoryStore
from icm_fast.scoring.lazy import LazyScorer
from icm_fast.scoring.models import ModelChoice, Opened, open_model
from icm_fast.scoring.servers.lazy import ServedModel
from icm_fast.tracking import tracked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icm_fast.config import SearchConfig
    from icm_fast.model.lazy import ModelIdentity
    from icm_fast.types import Dataset

_KEPT = 2
"""Models that a worker keeps open; an experiment has two at a time."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a worker runs, and with what.

    Attributes:
        host: Name of the machine.
        process: Its process id there.
        instructions: Instruction sets of the processor.
        versions: Versions of the packages that determine results.
    """

    host: str
    process: int
    instructions: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the process that has the results needs to know of a model.

    Attributes:
        identity: What must be the same in all workers.
        files_digest: Of the model's files; empty where none are known.
        max_context: Longest context in tokens.
        n_parameters: Parameters, tied ones once; 0 where a server does not say.
        tokenizer: The model's tokenizer.
    """

    identity: ModelIdentity
    files_digest: str
    max_context: int
    n_parameters: int
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call.

    Attributes:
        value: What it returned.
        refused: Message of the InputError that it raised instead.
        warnings: Texts of the warnings that it gave.
    """

    value: Any = None
    refused: str | None = None
    warnings: tuple[str, ...] = ()


class Worker:
    """Holds opened models for as long as it lives.

    Args:
        environment: Variables that say how servers are reached; never a key, which each worker
            reads from its own environment.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        self._models: dict[ModelChoice, Opened] = {}

    def machine(self) -> Machine:
        """Where this is."""
        return Machine(platform.node(), os.getpid(), describe_cpu(), versions())

    def facts(self, choice: ModelChoice) -> Answer:
        """Open a model and describe it; the value is :class:`Facts`."""
        return _answered(lambda: _facts(self._opened(choice, None)))

    def call(
        self,
        choice: ModelChoice,
        expected: ModelIdentity,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Answer:
        """Call a function with a model.

        Args:
            choice: The model.
            expected: What the model must be.
            function: Gets the opened model, then the arguments.
            args: Further arguments.
            kwargs: Further arguments by name.
        """
        return _answered(
            lambda: function(self._opened(choice, expected).load(), *args, **dict(kwargs))
        )

    def search(
        self,
        choice: ModelChoice,
        expected: ModelIdentity,
        dataset: Dataset,
        config: SearchConfig,
        records: Sequence[ScoredLabelling],
    ) -> Iterator[Answer]:
        """Run a search; give what it scores, in order, as soon as it is scored.

        Args:
            choice: The model.
            expected: What the model must be.
            dataset: What is labelled.
            config: Settings of the search.
            records: What was scored before, in order.
        """
        sent: SimpleQueue[Answer | Exception | None] = SimpleQueue()
        store = _Sending(records, lambda scored: sent.put(Answer(scored)))

        def run() -> None:
            model = self._opened(choice, expected)
            engine = make_search_engine(config, dataset)
            scorer = LazyScorer(dataset, config, model)
            quiet = Quiet()
            with tracked(None, None, "search", {}, quiet.warn) as untracked:
                search_into(store, engine, dataset, config, scorer, quiet, untracked)

        def run_and_end() -> None:
            try:
                sent.put(_answered(run))
            except Exception as error:
                sent.put(error)
            sent.put(None)

        threading.Thread(target=run_and_end, daemon=True).start()
        while (answer := sent.get()) is not None:
            if isinstance(answer, Exception):
                raise answer
            yield answer

    def _opened(self, choice: ModelChoice, expected: ModelIdentity | None) -> Opened:
        if choice not in self._models:
            for former in list(self._models)[: 1 - _KEPT or None]:
                del self._models[former]
            opened = open_model(choice.path, choice)
            if expected is not None:
                _check_same(expected, opened.identity())
            self._models[choice] = opened
        return self._models[choice]


class _Sending(MemoryStore):
    """Sends away what it records, to where it is made durable."""

    def __init__(
        self, records: Sequence[ScoredLabelling], send: Callable[[ScoredLabelling], None]
    ) -> None:
        super().__init__(records)
        self._send = send

    def _keep(self, scored: ScoredLabelling) -> None:
        self._send(scored)


def _answered(call: Callable[[], Any]) -> Answer:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        value = refused = None
        try:
            value = call()
        except InputError as error:
            refused = str(error)
    texts = (str(each.message) for each in caught if each.category is UserWarning)
    return Answer(value, refused, tuple(dict.fromkeys(texts)))


def _facts(model: Opened) -> Facts:
    loaded = model.load()
    n_parameters = (
        loaded.client.facts.n_parameters if isinstance(loaded, ServedModel) else loaded.n_parameters
    )
    return Facts(
        identity=model.identity(),
        files_digest=model.files_digest(),
        max_context=loaded.max_context,
        n_parameters=n_parameters,
        tokenizer=loaded.tokenizer,
    )


def _check_same(expected: ModelIdentity, found: ModelIdentity) -> None:
    """Refuse a model that is not the one of the first worker."""
    pairs = {
        "weights": (expected.fingerprint, found.fingerprint),
        "dtype": (expected.dtype, found.dtype),
        "computation": (dict(expected.more), dict(found.more)),
    }
    for what, (first, here) in pairs.items():
        if first != here:
            raise InputError(
                f"the model on {platform.node()} has other {what} than on the first worker; give "
                "all machines the same files and the same dtype (--set dtype=float32)"
            )
