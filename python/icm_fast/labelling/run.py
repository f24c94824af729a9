"""``label``: every row of a table, from one call."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.engine.progress import Quiet, Shared
from icm_fast.engine.search import search
from icm_fast.engine.verdict import verdict_of
from icm_fast.evaluation.many_shot import FixedContext
from icm_fast.identity import SERVER_TEXTS, json_digest
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.cores import (
    RESERVE,
    Core,
    candidates,
    kept_demonstrations,
    make_cores,
)
from icm_fast.labelling.decide import measure_scale, row_scores
from icm_fast.labelling.evidence import CoreEvidence, Decision, Searched, decide
from icm_fast.labelling.folder import LabellingFolder, open_labelling
from icm_fast.labelling.interrupts import stop_when_stored
from icm_fast.labelling.scan import Lengths, Scan, measure_prompts, scan_table
from icm_fast.labelling.stored import packed_decision, stored_settings
from icm_fast.labelling.tables import Table
from icm_fast.labelling.task import LabelTask
from icm_fast.labelling.template_choice import SAMPLE_ROWS, choose_template
from icm_fast.labelling.texts import FEWEST_ROWS, TextSample, ask_for_texts, sampled_rows
from icm_fast.labelling.views import Question, StoredView, View, ViewScorer
from icm_fast.runs.provenance import versions
from icm_fast.runs.verdict import Verdict
from icm_fast.scoring.models import Opened, reads_texts, width_of
from icm_fast.scoring.posterior import own_margins
from icm_fast.scoring.side_by_side import side_by_side
from icm_fast.tasks.constraints import compile_rules
from icm_fast.tasks.rows import Row
from icm_fast.tasks.sampling import drawn_rows
from icm_fast.tracking import RunTracking, Step, TrackLike, tracked
from icm_fast.types import (
    UNLABELLED,
    Constraint,
    Dataset,
    Example,
    FloatArray,
    IntArray,
    LabelSpace,
    Reporter,
    ScoreArray,
)

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.engine.result import SearchResult


@dataclass(frozen=True, slots=True, eq=False)
class Labelling:
    """What a labelling found.

    Attributes:
        task: What was asked, with the template that was used.
        decision: Labels, confidence and shares of all rows.
        n_tokens: Tokens that the model forwarded in all, earlier calls included.
        seconds: Wall-clock seconds of this call.
        settings: The settings.
    """

    task: LabelTask
    decision: Decision
    n_tokens: int
    seconds: float
    settings: LabelConfig

    @property
    def verdict(self) -> Verdict | None:
        """Whether the labels can be trusted; None with too few of them."""
        return verdict_of(self.decision.signs, self.decision.concerns)

    def summary(self) -> dict[str, object]:
        """Counts and shares, as plain JSON types."""
        return {
            "n_rows": len(self.decision.labels),
            "decided_by": self.decision.counts(),
            "labels": dict(zip(self.task.labels, self.decision.label_counts(), strict=True)),
            "shares_from": self.decision.shares_from,
            "shares": dict(
                zip(
                    self.task.labels,
                    [round(float(x), 4) for x in self.decision.shares],
                    strict=True,
                )
            ),
            "mean_confidence": round(float(self.decision.confidence.mean()), 4),
            "signs": None if self.decision.signs is None else self.decision.signs.content(),
            "verdict": None if self.verdict is None else self.verdict.content(),
            "template": self.task.template,
            "n_tokens_forwarded": self.n_tokens,
            "seconds": round(self.seconds, 3),
            "versions": versions(),
        }


def label_rows(
    table: Table,
    task: LabelTask,
    *,
    model: Opened,
    config: LabelConfig | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    track: TrackLike = None,
) -> Labelling:
    """Label all rows of a table.

    Args:
        table: The rows.
        task: What is asked of each.
        model: The model.
        config: Settings.
        folder: Where everything that was computed is kept, so that an interrupted labelling
            resumes from it; a temporary one when absent.
        progress: Receives what is going on.
        track: Called with each step, or names trackers; see :mod:`icm_fast.tracking`.

    Raises:
        InputError: Bad input, a folder of another labelling, or a file that cannot be written.
    """
    config = (config or LabelConfig()).for_labels(len(task.labels))
    config.check_labels(task.labels)
    started = time.monotonic()
    scan = scan_table(table, task)
    settings = {"model": model.name, "n_rows": scan.n_rows, **config.to_dict()}
    with (
        _opened(folder) as opened,
        progress or Quiet() as shown_to,
        tracked(track, folder, "labelling", settings, shown_to.warn) as tracking,
    ):
        shown_to = Shared(shown_to) if width_of(model) > 1 else shown_to
        with stop_when_stored(shown_to.say) as check:
            run = _Run(table, task, scan, model, config, opened, shown_to, check, tracking)
            labelling = run.run()
        labelling = replace(labelling, seconds=time.monotonic() - started)
        tracking.report(_last_step(labelling))
        opened.write_settings(stored_settings(table, labelling.task, config.to_dict()))
        opened.write_decision(packed_decision(labelling.decision))
        opened.write_summary(labelling.summary())
    return labelling


def _last_step(labelling: Labelling) -> Step:
    decision = labelling.decision
    figures = {
        "mean_confidence": float(decision.confidence.mean()),
        "labelled": int((decision.labels != UNLABELLED).sum()),
        "tokens": labelling.n_tokens,
    }
    return Step("result", 1, figures)


@contextmanager
def _opened(folder: str | os.PathLike[str] | None) -> Iterator[LabellingFolder]:
    if folder is not None:
        with open_labelling(Path(folder)) as opened:
            yield opened
        return
    with (
        tempfile.TemporaryDirectory(prefix="icm-fast-") as scratch,
        open_labelling(Path(scratch)) as opened,
    ):
        yield opened


_SPARE_TOKENS = 16
"""More than the separators and seams of two prompts take."""


@dataclass(frozen=True, slots=True)
class _CoreFound:
    """What a core says: its evidence, tokens of its search, and all rows after it if not in it."""

    evidence: CoreEvidence
    n_tokens: int
    view: StoredView | None


class _Run:
    """One labelling, stage by stage."""

    def __init__(
        self,
        table: Table,
        task: LabelTask,
        scan: Scan,
        model: Opened,
        config: LabelConfig,
        folder: LabellingFolder,
        shown_to: Reporter,
        check: Callable[[], None],
        tracking: RunTracking,
    ) -> None:
        self._table = table
        self._task = task
        self._scan = scan
        self._model = model
        self._config = config
        self._folder = folder
        self._shown = shown_to
        self._check = check
        self._tracking = tracking
        self._searching = config.search_config()
        self._read: dict[int, tuple[Example, ...]] = {}
        self._reading = RLock()

    def run(self) -> Labelling:
        """Template, rows without demonstrations, cores, rows after each core, decision."""
        self._task = self._with_template()
        loaded = self._model.load()
        limit = self._config.context_limit or loaded.max_context
        lengths = measure_prompts(self._table, self._task, loaded.tokenizer, limit)
        question = self._question(lengths)
        n_cores, size = core_sizes(self._config, self._task, self._scan.n_rows, lengths, limit)
        scorer = ViewScorer(
            self._folder.views,
            question,
            self._model.load,
            self._searching,
            self._config.chunk_rows,
            1 + (n_cores if size < self._scan.n_rows else 0),
            self._tracking,
            width_of(self._model),
        )
        plain = scorer.score(View("no demonstrations"), self._shown, self._check)
        alone = _evidence_alone(plain, self._task.per_row)
        cores = list(enumerate(self._cores(alone, lengths, n_cores, size), start=1))
        found: dict[int, _CoreFound] = {}

        def core_found(numbered: tuple[int, Core]) -> _CoreFound:
            k, core = numbered
            self._check()
            evidence, view, tokens = self._searched(k, core, alone[core.rows], question)
            if len(core.rows) == self._scan.n_rows:
                return _CoreFound(evidence, tokens, None)
            return _CoreFound(evidence, tokens, scorer.score(view, self._shown, self._check))

        width = min(len(cores), width_of(self._model))
        for place, one in side_by_side(core_found, cores, width):
            found[place] = one
        in_order = [found[place] for place in range(len(cores))]
        room = limit - lengths.preamble
        return self._decided(plain, in_order, self._texts(in_order, question, lengths, room))

    def _texts(
        self, found: Sequence[_CoreFound], question: Question, lengths: Lengths, room: int
    ) -> TextSample | None:
        """Some rows asked the other way round; None where the model or the settings say no.

        Rows are left out whose text has no room after a demonstration.
        """
        stored, core = found[0].view, found[0].evidence.rows
        if stored is None or not self._asked_for_texts:
            return None
        room -= int(lengths.items[core].max()) + 2 * lengths.label + _SPARE_TOKENS
        shown = set(core.tolist())
        rows = [
            row for row in self._asked_for_texts if row not in shown and lengths.items[row] <= room
        ]
        if len(rows) < FEWEST_ROWS:
            return None
        self._check()
        self._shown.say(f"asking for the texts of {len(rows)} rows")
        examples = self._examples(set(rows))
        return ask_for_texts(
            self._folder.views,
            question,
            stored.view,
            rows,
            tuple(e for row in rows for e in examples[row]),
            self._model.load(),
            self._searching,
        )

    @cached_property
    def _asked_for_texts(self) -> list[int]:
        """Rows that are asked the other way round; none where the model or the settings say no."""
        if not (self._config.asks_for_texts(self._task.per_row) and reads_texts(self._model)):
            return []
        return sampled_rows(self._scan.n_rows, self._config.seed)

    def _decided(
        self, plain: StoredView, found: Sequence[_CoreFound], texts: TextSample | None
    ) -> Labelling:
        views = [one.view for one in found if one.view is not None]
        decision = decide(
            plain.chunks,
            [view.chunks for view in views],
            [one.evidence for one in found],
            known=self._scan.known,
            per_row=self._task.per_row,
            config=self._config,
            constraints=self._constraints(),
            texts=texts,
        )
        n_tokens = 0 if texts is None else texts.n_tokens
        n_tokens += plain.n_tokens + sum(v.n_tokens for v in views) + sum(o.n_tokens for o in found)
        return Labelling(self._task, decision, n_tokens, 0.0, self._config)

    # ---- the question

    def _with_template(self) -> LabelTask:
        first = {
            "data": self._scan.digest,
            "n_rows": self._scan.n_rows,
            "labels": list(self._task.labels),
            "form": self._task.form,
            **self._preamble(),
        }
        stored = self._folder.stored_template(first)
        templates = self._task.templates()
        if stored is not None and (stored in templates):
            return self._task.with_template(stored)
        if len(templates) > 1:
            self._shown.say(
                f"choosing one of {len(templates)} prompts, on up to {SAMPLE_ROWS} rows"
            )
        return self._task.with_template(choose_template(templates, self._sample_scores))

    def _preamble(self) -> dict[str, str]:
        """The preamble where there is one; folders of labellings without it stay as they were."""
        return {"preamble": self._task.preamble} if self._task.preamble else {}

    def _sample_scores(self, template: str, n_rows: int) -> ScoreArray:
        self._check()
        task = self._task.with_template(template)
        drawn = sorted(self._sample[:n_rows], key=lambda row: row.number)
        examples = tuple(e for row in drawn for e in task.examples(row))
        labels = LabelSpace(task.model_labels([e.prompt for e in examples]))
        dataset = task.dataset(examples, labels)
        config = replace(self._searching, normalize="vocabulary")
        context = FixedContext(None, None, model=self._model.load(), config=config)
        return context.score(dataset).scores

    @cached_property
    def _sample(self) -> list[Row]:
        """Rows on which templates are compared, in the order in which they are drawn."""
        n, seed = self._scan.n_rows, self._config.seed
        order = drawn_rows("sample", seed, n, SAMPLE_ROWS)
        place = {row: k for k, row in enumerate(order)}
        found = [row for row in self._table.rows() if row.number in place]
        return sorted(found, key=lambda row: place[row.number])

    def _question(self, lengths: Lengths) -> Question:
        labels = self._task.model_labels(lengths.endings)
        model = self._model.identity()
        identity = {
            "data": self._scan.digest,
            "n_rows": self._scan.n_rows,
            "labels": list(self._task.labels),
            "form": self._task.form,
            "template": self._task.template,
            "separator": self._task.separator,
            **self._preamble(),
            "model_fingerprint": model.fingerprint,
            "model_dtype": model.dtype,
            **model.more,
            "token_counts": json_digest(lengths.items.tolist()),
            "int8": self._config.int8,
            "chunk_rows": self._config.chunk_rows,
        }
        self._folder.keep_identity(identity, model.probe)
        # Scores of labels are the same whether texts can be asked for, too.
        digest = json_digest({k: v for k, v in identity.items() if k != SERVER_TEXTS})
        return Question(self._table, self._task, LabelSpace(labels), self._scan.n_rows, digest)

    # ---- the cores

    def _cores(
        self, alone: FloatArray, lengths: Lengths, n_cores: int, size: int
    ) -> Iterator[Core]:
        n_labels, n_rows = len(self._task.labels), self._scan.n_rows
        if size >= n_rows:
            rows = np.arange(n_rows, dtype=np.int32)
            yield Core(rows, self._scan.known)
            return
        predicted = alone.argmax(axis=1).astype(np.int32)
        # Long rows would fill the contexts of all others.
        row_tokens = lengths.items.reshape(n_rows, -1).max(axis=1)
        too_long = row_tokens > np.percentile(row_tokens, 75)
        margins = np.where(too_long, -np.inf, own_margins(alone, predicted))
        needed = -(-n_cores * size // n_labels)
        drawn = candidates(
            predicted,
            margins,
            self._scan.known,
            n_labels,
            share=self._config.confident,
            needed=needed,
            seed=self._config.seed,
        )
        drawn = [rows[: RESERVE * n_cores * size] for rows in drawn]
        wanted = {row for rows in drawn for row in rows}
        wanted |= set(np.flatnonzero(self._scan.known >= 0)[: 4 * n_cores * size].tolist())
        examples = self._examples(wanted | set(self._asked_for_texts))
        texts = {row: examples[row][0].prompt for row in wanted}
        made = make_cores(
            drawn, texts, self._scan.known, n_cores=n_cores, size=size, seed=self._config.seed
        )
        yield from (core for core in made if len(core.rows))  # of equal texts there may be too few

    def _examples(self, wanted: set[int]) -> dict[int, tuple[Example, ...]]:
        """The prompts of some rows; the table is read where one of them was not read before."""
        with self._reading:
            missing = wanted - self._read.keys()
            for row in self._table.rows() if missing else ():
                if row.number in missing:
                    self._read[row.number] = self._task.examples(row)
                    missing.remove(row.number)
                    if not missing:
                        break
            return {row: self._read[row] for row in wanted}

    def _constraints(self) -> tuple[Constraint, ...]:
        """The rules between rows; those inside a comparison are kept by its two prompts."""
        task = self._task
        if not task.rules:
            return ()
        examples = [
            Example(f"row-{row.number}", ".", row.optional(task.group), row.optional(task.answer))
            for row in self._table.rows()
        ]
        return compile_rules(examples, LabelSpace(task.labels), task.rules)

    def _searched(
        self, number: int, core: Core, alone: FloatArray, question: Question
    ) -> tuple[CoreEvidence, View, int]:
        """Search a core; return what it says, the context that it makes, and its tokens."""
        task = self._task
        rows = self._examples(set(core.rows.tolist()))
        examples = tuple(e for row in core.rows.tolist() for e in rows[row])
        dataset = replace(
            question.dataset(examples),
            constraints=compile_rules(examples, question.label_space, task.model_rules()),
        )
        fixed = tuple(y for label in core.known.tolist() for y in task.item_labels(label))
        more = {"fixed_labels": fixed} if (core.known >= 0).any() else {}
        config = self._config.search_config(**more)
        content = [question.identity, dataset.fingerprint(), config.to_dict()]
        if config.uses_channel and self._model.identity().more.get(SERVER_TEXTS) == "yes":
            content.append("texts")  # cores of before were searched without
        folder = self._folder.core(json_digest(content))
        self._shown.say(f"searching core {number}: {len(core.rows)} rows")
        result = search(
            dataset,
            model=self._model,
            config=config,
            output_dir=folder,
            progress=self._shown,
            track=lambda step: self._tracking.report(replace(step, stream=f"core-{number}")),
        )
        return self._core_evidence(number, core, dataset, result, alone)

    def _core_evidence(
        self, number: int, core: Core, dataset: Dataset, result: SearchResult, alone: FloatArray
    ) -> tuple[CoreEvidence, View, int]:
        task, per_row = self._task, self._task.per_row
        scores = row_scores(np.asarray(result.scores, np.float32), per_row)
        labels = _row_labels(result.labels, scores, per_row)
        labels = np.where(core.known >= 0, core.known, labels).astype(np.int32)
        evidence = CoreEvidence(
            core.rows, labels, scores, searched=_all_of(result, self._searching, per_row)
        )
        confidence = evidence.confidence(alone)
        whole = len(core.rows) == self._scan.n_rows
        keep = (
            np.ones(len(labels), np.bool_)
            if whole
            else kept_demonstrations(
                labels, confidence, core.known, len(task.labels), self._config.keep
            )
        )
        evidence = replace(evidence, kept=keep)
        shown_labels = [
            y
            for label, kept in zip(labels.tolist(), keep.tolist(), strict=True)
            for y in (task.item_labels(label) if kept else (UNLABELLED,) * per_row)
        ]
        view = View(f"after core {number}", dataset, np.array(shown_labels, np.int32))
        return evidence, view, result.n_tokens_forwarded


def _all_of(result: SearchResult, config: SearchConfig, per_row: int) -> Searched | None:
    """What a search as a whole says of its rows, if it began with all ways of asking.

    Not of comparisons: it knows each order alone, and both hardly err apart.
    """
    if result.probabilities is None or config.start != "bootstrap" or per_row > 1:
        return None
    kinds = tuple(concern.kind for concern in result.concerns)
    return Searched(result.probabilities, result.signs, kinds, result.shares)


def core_sizes(
    config: LabelConfig, task: LabelTask, n_rows: int, lengths: Lengths, limit: int
) -> tuple[int, int]:
    """Number of cores, and rows in each, that a table has and a context holds.

    Args:
        config: Settings.
        task: What is asked of each row.
        n_rows: Rows of the table.
        lengths: Tokens of the prompts.
        limit: Tokens that a context holds.
    """
    typical = float(np.percentile(lengths.items, 75)) + 2.0
    room = int((limit - lengths.preamble - int(lengths.items.max())) / typical)
    items = min(config.core_size, n_rows * task.per_row, max(room, task.per_row))
    size = max(1, items // task.per_row)
    return max(1, min(config.cores, n_rows // size)), size


def _evidence_alone(plain: StoredView, per_row: int) -> FloatArray:
    """Evidence of all rows without demonstrations, ``[rows, n_labels]``."""
    scale = measure_scale(row_scores(chunk, per_row) for chunk in plain.chunks())
    return np.concatenate([scale.evidence(row_scores(chunk, per_row)) for chunk in plain.chunks()])


def _row_labels(labels: IntArray, scores: FloatArray, per_row: int) -> IntArray:
    """The label of each row, from those of its prompts.

    Where the two claims of a comparison do not say the same, their scores decide.
    """
    if per_row == 1:
        return labels
    first, second = labels[0::2], labels[1::2]
    same_claim = (first >= 0) & (second >= 0) & (first != second)
    return np.where(same_claim, second, scores.argmax(axis=1)).astype(np.int32)
