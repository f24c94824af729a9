"""The folder of a run: everything needed to resume it, and its results.

    config.yaml      resolved settings and the identity of data and model
    examples.jsonl   the examples as the model sees them, without gold
    evaluations.bin  every scored labelling, durable as soon as it is scored
    events.jsonl     one line per decision
    labels.jsonl     the result, one line per example
    summary.json     utility, counts, tokens, seconds; written last, marks a finished run

A search is a pure function of data, configuration, seed and scores, so resuming is
replaying: the engine starts again and finds the labellings scored before here.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from icm_fast.errors import InputError, shown
from icm_fast.files import (
    LOCK_FILE,
    is_file,
    lock_folder,
    read_file,
    reading,
    write_atomically,
)
from icm_fast.files.fields import read_object
from icm_fast.identity import SERVED, SERVER_TEXTS
from icm_fast.runs.config import (
    MODEL_FILES,
    check_same_model,
    check_same_run,
    config_content,
    identity_of,
    read_config,
    run_fingerprint,
)
from icm_fast.runs.digests import DIGESTS, check_summary, is_sealed, with_digests
from icm_fast.runs.event_log import EventLog
from icm_fast.runs.score_log import ScoredLabelling, ScoreLog, labels_key
from icm_fast.runs.verdict import stored_verdict

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.model.lazy import ModelIdentity
    from icm_fast.tasks.source import TaskSource
    from icm_fast.types import BoolArray, Dataset, IntArray, ScoreArray

CONFIG_FILE = "config.yaml"
EXAMPLES_FILE = "examples.jsonl"
EVALUATIONS_FILE = "evaluations.bin"
EVENTS_FILE = "events.jsonl"
LABELS_FILE = "labels.jsonl"
SUMMARY_FILE = "summary.json"
RUN_FILES = (
    CONFIG_FILE,
    EXAMPLES_FILE,
    EVALUATIONS_FILE,
    EVENTS_FILE,
    LABELS_FILE,
    SUMMARY_FILE,
)

RUN_AGAIN = "run the search again with the same settings and folder; it resumes where it stopped"
"""The fix of an unfinished or damaged run folder."""

_JUDGED = ("concerns", "signs", "verdict")
"""What a summary says about labels, and may say otherwise in another version."""
_SEALED = (CONFIG_FILE, EXAMPLES_FILE, EVENTS_FILE, LABELS_FILE)
"""Files of a finished run whose digests its summary holds; evaluations.bin has checksums itself."""

_COUNTS = ("n_examples", "n_iterations", "n_accepted", "n_evaluations", "n_tokens_forwarded")
_NEW_SUMMARY = "delete it and run the search again with the same settings and folder"


def scored_rows(scores: ScoreArray) -> BoolArray:
    """Examples that have scores, ``[n]`` bool."""
    return np.asarray(np.isfinite(scores).all(axis=1), np.bool_)


class RunModel(Protocol):
    """What a run folder needs to know about the model that scores."""

    @property
    def model_name(self) -> str:
        """The model as the user named it."""

    def identity(self) -> ModelIdentity:
        """What must stay the same in a resumed run; may load the model."""

    def files_digest(self) -> str:
        """Of the model's files; empty where none are known."""

    def may_differ(self, files: object) -> bool:
        """Whether the model may be another one than that with this digest of files."""


class MemoryStore:
    """Scored labellings of one process; writes nothing."""

    folder: Path | None = None

    def __init__(self, recorded: Iterable[ScoredLabelling] = ()) -> None:
        self._known: dict[bytes, ScoredLabelling] = {}
        # Records of an earlier process, by labelling. They are read again in order, so that at
        # every step a search sees exactly what it saw then.
        self._recorded: dict[bytes, deque[ScoredLabelling]] = {}
        self._all = list(recorded)
        for scored in self._all:
            key = labels_key(scored.labels)
            self._recorded.setdefault(key, deque()).append(scored)
        self._beside: dict[tuple[str, bytes], ScoredLabelling] = {}
        self.n_resumed = len(self._recorded)
        self.n_scored_now = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def n_evaluations(self) -> int:
        """Distinct labellings that this search requested."""
        return len(self._known)

    @property
    def n_tokens(self) -> int:
        """Tokens forwarded for them, including earlier parts of a resumed run."""
        return sum(scored.n_tokens for scored in (*self._known.values(), *self._beside.values()))

    @property
    def records(self) -> tuple[ScoredLabelling, ...]:
        """All scores so far in the order of their scoring, those of earlier processes first."""
        return tuple(self._all)

    @property
    def reads_texts(self) -> bool | None:
        """Whether the server of this run could score texts; None where the model has to say."""
        return None

    def asked(self) -> Iterable[ScoredLabelling]:
        """The distinct labellings that this search requested, in the order of their scoring."""
        return self._known.values()

    def lookup(
        self, labels: IntArray, suffices: Callable[[ScoreArray], bool] | None = None
    ) -> ScoredLabelling | None:
        """What is known about ``labels``; None if that is nothing or does not suffice."""
        key = labels_key(labels)
        while True:
            known = self._known.get(key)
            if known is not None and (suffices is None or suffices(known.scores)):
                return known
            if not self._recorded.get(key):
                return None
            self._learn(self._recorded[key].popleft())

    def known_rows(self, labels: IntArray) -> BoolArray:
        """Examples whose scores under ``labels`` are known, ``[n]`` bool."""
        known = self._known.get(labels_key(labels))
        if known is None:
            return np.zeros(len(labels), np.bool_)
        return scored_rows(known.scores)

    def record(self, scored: ScoredLabelling) -> None:
        """Keep new scores, merged with what is known about the same labelling."""
        self._keep(scored)
        self._all.append(scored)
        self._learn(scored)
        self.n_scored_now += 1

    def beside(
        self, kind: str, labels: IntArray, score: Callable[[IntArray], ScoredLabelling]
    ) -> ScoredLabelling:
        """Scores of another kind for a labelling: from the store, or new.

        They are kept like all others, but :meth:`lookup` does not find them. A search requests
        scores in the same order every time, so the next record of these labels is the one that an
        earlier process made at this point.
        """
        key = labels_key(labels)
        if (kind, key) not in self._beside:
            if self._recorded.get(key):
                scored = self._recorded[key].popleft()
            else:
                scored = score(labels)
                self._keep(scored)
                self._all.append(scored)
                self.n_scored_now += 1
            self._beside[kind, key] = scored
        return self._beside[kind, key]

    def _keep(self, scored: ScoredLabelling) -> None:
        """Make a record durable, if the store has a folder."""

    def _learn(self, new: ScoredLabelling) -> None:
        key = labels_key(new.labels)
        known = self._known.get(key)
        if known is not None:
            scores = np.where(np.isfinite(known.scores), known.scores, new.scores)
            new = ScoredLabelling(known.labels, scores, known.n_tokens + new.n_tokens)
        self._known[key] = new

    def check_model(self, identity: ModelIdentity) -> None:
        """Accept any model: nothing was stored before."""

    def log(self, events: Iterable[Mapping[str, object]]) -> None:
        """Discard the events."""

    def finish(self, labels: bytes, summary: Mapping[str, object]) -> Mapping[str, Any]:
        """Return ``summary`` as it is."""
        return summary

    def close(self) -> None:
        """Nothing to close."""


class RunStore(MemoryStore):
    """Scored labellings, decisions and results of one run, in a folder locked for it.

    Args:
        folder: Created if absent.
        dataset: What is labelled.
        config: Settings of the search.
        model: Names the model, and loads it if the folder has to record or compare it.
        source: Origin of the data, if known; recorded for evaluation.

    Raises:
        InputError: The folder belongs to another run, is in use, corrupt or not writable.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        config: SearchConfig,
        model: RunModel,
        source: TaskSource | None = None,
    ) -> None:
        self.folder: Path = folder
        self._lock = lock_folder(folder)
        self._is_new = not is_file(folder / CONFIG_FILE)
        try:
            self._config = _open_config(folder, dataset, config, model, source)
            read_summary(folder)  # a damaged one is reported before any work
            self._log = ScoreLog(
                folder / EVALUATIONS_FILE,
                len(dataset),
                len(dataset.label_space),
                run_fingerprint(self._config),
            )
            self._events = EventLog(folder / EVENTS_FILE)
        except BaseException:
            os.close(self._lock)
            raise
        super().__init__(self._log.labellings)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, InputError) and not self.n_scored_now:
            self._withdraw()
        super().__exit__(kind, error, trace)

    @property
    def reads_texts(self) -> bool | None:
        """As the run began: a finished one needs no server, one from before asked for none."""
        identity = identity_of(self._config)
        if identity.get("model_dtype") != SERVED:
            return None
        return identity.get(SERVER_TEXTS) == "yes"

    def _withdraw(self) -> None:
        """Leave no refused settings behind, so that corrected ones can take the folder."""
        if self._is_new:
            for name in RUN_FILES:
                (self.folder / name).unlink(missing_ok=True)

    def _keep(self, scored: ScoredLabelling) -> None:
        """Append to the log; it is on disk when this returns."""
        self._log.append(scored)

    def check_model(self, identity: ModelIdentity) -> None:
        """Refuse a model other than the one that scored so far."""
        check_same_model(self.folder, self._config, identity)

    def log(self, events: Iterable[Mapping[str, object]]) -> None:
        """Append one line per event."""
        for event in events:
            self._events.append(event)

    def finish(self, labels: bytes, summary: Mapping[str, object]) -> Mapping[str, Any]:
        """Write the results; a run that was already finished keeps what its summary says.

        Returns:
            The summary that the folder holds now.
        """
        self._events.finish()
        path = self.folder / LABELS_FILE
        if not is_file(path) or read_file(path, RUN_AGAIN) != labels:
            write_atomically(path, labels)
        former = read_summary(self.folder)
        if former is not None and not self.n_scored_now:
            if DIGESTS not in former or is_sealed(former, path):
                return former
            # Of an earlier version, whose labels lacked their confidence.
            kept = {key: value for key, value in former.items() if key != DIGESTS}
            summary = kept | {key: summary[key] for key in _JUDGED if key in summary}
        summary = with_digests(summary, self.folder, _SEALED, RUN_AGAIN)
        content = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.folder / SUMMARY_FILE, content.encode())
        return summary

    def close(self) -> None:
        """Close the files and release the folder."""
        self._events.close()
        self._log.close()
        os.close(self._lock)


def open_store(
    folder: str | os.PathLike[str] | None,
    dataset: Dataset,
    config: SearchConfig,
    model: RunModel,
    source: TaskSource | None = None,
) -> MemoryStore:
    """The store of a run folder, or one in memory without a folder."""
    if folder is None:
        return MemoryStore()
    if not isinstance(folder, (str, Path)) or not str(folder).strip():
        raise InputError(f"output_dir must name a folder, got {folder!r}; pass its path, or None")
    return RunStore(Path(folder), dataset, config, model, source)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / SUMMARY_FILE
    if not is_file(path):
        return None
    fields = read_object(path, _NEW_SUMMARY)
    fields.text("reason")
    for key in _COUNTS:
        fields.integer(key)
    fields.number("utility")
    fields.number("seconds", 0)
    versions = fields.inner("versions")
    for package in versions.content:
        versions.text(package)
    for concern in fields.objects("concerns") if "concerns" in fields else ():
        concern.text("kind")
        concern.text("text")
    stored_verdict(fields)
    check_summary(fields)
    return dict(fields.content)


def _open_config(
    folder: Path,
    dataset: Dataset,
    config: SearchConfig,
    model: RunModel,
    source: TaskSource | None,
) -> dict[str, object]:
    """Read and compare the configuration of the folder, or write it to a new one."""
    path = folder / CONFIG_FILE
    if is_file(path):
        stored = read_config(path)
        check_same_run(folder, stored, dataset, config)
        _keep_examples(folder / EXAMPLES_FILE, _examples(dataset))
        files = identity_of(stored).get(MODEL_FILES)
        if stored["model"] != model.model_name or model.may_differ(files):
            check_same_model(folder, stored, model.identity())
        return stored
    for name in (EVALUATIONS_FILE, EVENTS_FILE, LABELS_FILE, SUMMARY_FILE):
        if is_file(folder / name):
            raise InputError(
                f"{folder} contains {name} but no {CONFIG_FILE}, so it is not a run that can be "
                "resumed; choose another folder or delete this one"
            )
    _refuse_foreign_files(folder)
    content, text = config_content(
        dataset, config, model.model_name, model.identity(), source, model.files_digest()
    )
    write_atomically(folder / EXAMPLES_FILE, _examples(dataset))
    write_atomically(path, text.encode())
    return content


def _refuse_foreign_files(folder: Path) -> None:
    """Raise InputError if a folder that is to become a run holds something else already."""
    ours = {LOCK_FILE, *RUN_FILES, *(f".{name}.tmp" for name in RUN_FILES)}
    with reading(folder, "make it readable"):
        foreign = sorted(set(os.listdir(folder)) - ours)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"{folder} holds {shown(foreign[0])}{more}, which no run wrote; choose a new or an "
            "empty folder"
        )


def _keep_examples(path: Path, content: bytes) -> None:
    """Refuse a file that was edited; write a missing one again."""
    if not is_file(path):
        write_atomically(path, content)
    elif read_file(path, RUN_AGAIN) != content:
        raise InputError(
            f"{path} differs from the data of this search; delete it and run the search again"
        )


def _examples(dataset: Dataset) -> bytes:
    lines = (
        {"id": e.id, "prompt": e.prompt, "group": e.group, "answer": e.answer}
        for e in dataset.examples
    )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
