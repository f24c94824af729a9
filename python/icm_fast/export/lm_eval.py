"""A finished run as a task of lm-evaluation-harness 0.4, with its labels as few-shot examples.

lm-eval then builds exactly the contexts of ``evaluate.many_shot``: the same demonstrations in the
same order, and labels with their leading space. The task refers to columns of the data instead of
templates, so that braces in a prompt are left alone.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from icm_fast.documents import yaml_text
from icm_fast.errors import InputError
from icm_fast.evaluation.gold import held_out
from icm_fast.evaluation.many_shot import shown_demonstrations
from icm_fast.files import expanded, write_atomically, writing
from icm_fast.files.text import printable
from icm_fast.runs.finished import FinishedRun
from icm_fast.types import UNLABELLED, Example, IntArray, LabelSpace

LM_EVAL = "lm-eval"
TRAIN_FILE = "train.jsonl"
TEST_FILE = "test.jsonl"
OPENING = "opening"
"""Column of what stands before all demonstrations, in data sets with a preamble."""

_PREFIX = "icm_"
"""No task, group or tag of lm-eval starts with it."""

_PATTERN = re.compile(r"[*?\[\]\n]|::")
"""What lm-eval's data loader does not read literally in a path."""


@dataclass(frozen=True, slots=True)
class LmEvalTask:
    """What was written.

    Attributes:
        name: Name of the task, for ``--tasks``.
        folder: Absolute folder, for ``--include_path``.
        n_shots: Demonstrations in train.jsonl.
        n_test: Examples in test.jsonl.
    """

    name: str
    folder: Path
    n_shots: int
    n_test: int

    @property
    def command(self) -> str:
        """A command line that runs the task."""
        return (
            "lm_eval --model hf --model_args pretrained=MODEL "
            f"--include_path {shlex.quote(str(self.folder))} --tasks {self.name}"
        )


def write_lm_eval_task(
    run: FinishedRun, folder: Path, *, shots: int | None = None, n_test: int = 100
) -> LmEvalTask:
    """Write train.jsonl (found labels), test.jsonl (held-out gold) and the task's YAML.

    Call it only after the search, since it reads gold. The YAML has absolute paths, because lm-eval
    resolves relative ones from its working directory; to move the folder, export again.

    Args:
        run: The finished run; it must record the task that its data came from.
        folder: Where to write; created if absent.
        shots: Number of demonstrations to show; by default as many as ``evaluate`` shows.
        n_test: Maximum number of held-out examples.

    Raises:
        InputError: The run has too few labels or no held-out gold, or lm-eval cannot read from the
            folder.
    """
    folder = _checked_folder(folder, task_name(run))
    order = _shown(run, shots)
    if n_test < 1:
        raise InputError(f"the number of held-out examples is {n_test}; pass 1 or more")
    if run.source is None:
        raise InputError(
            f"{run.folder} does not say which task its data came from, so there are no held-out "
            "examples; search a task by name"
        )
    test, gold = held_out(run.source, run.dataset, n_test)
    labels = run.dataset.label_space
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    shown = [run.dataset.examples[int(i)] for i in order]
    opening = {OPENING: run.dataset.opening} if run.dataset.preamble else {}
    write_atomically(folder / TRAIN_FILE, _rows(shown, run.labels[order], labels, opening))
    write_atomically(folder / TEST_FILE, _rows(test.examples, gold, labels, opening))
    task = LmEvalTask(task_name(run), folder, len(order), len(test))
    # The task is written last: once lm-eval finds it, its data are complete.
    write_atomically(folder / f"{task.name}.yaml", _definition(task, run, run.labels[order]))
    return task


def task_name(run: FinishedRun) -> str:
    """``icm_`` and the name of the run folder, in letters, digits and underscores."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", run.folder.resolve().name).strip("_")
    return _PREFIX + (plain or "run")


def _checked_folder(folder: Path, name: str) -> Path:
    folder = expanded(folder).resolve()
    if found := _PATTERN.search(str(folder)):
        raise InputError(
            f"lm-eval cannot read data from {folder}: {found[0]!r} has a special meaning there; "
            "choose another folder"
        )
    others = sorted(path.name for path in folder.glob("*.yaml") if path.stem != name)
    if others:
        raise InputError(
            f"{folder} already contains {others[0]}, whose data would be replaced; choose a "
            "separate folder for every run"
        )
    return folder


def _shown(run: FinishedRun, shots: int | None) -> IntArray:
    """Positions of the demonstrations, in the order of the context."""
    n_labelled = int((run.labels != UNLABELLED).sum())
    if n_labelled == 0:
        raise InputError(f"the run in {run.folder} labelled no example; let it search longer")
    if shots is not None and not 1 <= shots <= n_labelled:
        raise InputError(
            f"shots is {shots}, but the run in {run.folder} has {n_labelled} labelled examples; "
            f"pass 1 to {n_labelled}, or use --num_fewshot 0 in lm-eval for none"
        )
    most = run.config.context_demonstrations if shots is None else shots
    return shown_demonstrations(run.labels, seed=run.config.seed, most=most)


def _rows(
    examples: Iterable[Example], labels: IntArray, names: LabelSpace, more: Mapping[str, str]
) -> bytes:
    rows = (
        {"id": e.id, "prompt": e.prompt, "label": names[int(y)], "label_index": int(y), **more}
        for e, y in zip(examples, labels, strict=True)
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _definition(task: LmEvalTask, run: FinishedRun, shown_labels: IntArray) -> bytes:
    names = run.dataset.label_space
    content: dict[str, object] = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {
                "train": str(task.folder / TRAIN_FILE),
                "test": str(task.folder / TEST_FILE),
            }
        },
        "fewshot_split": "train",
        "test_split": "test",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": task.n_shots,
        "output_type": "multiple_choice",
        # A template, so that what looks like one in a preamble is left alone.
        **({"description": f"{{{{{OPENING}}}}}"} if run.dataset.preamble else {}),
        "doc_to_text": "prompt",
        "doc_to_choice": list(names),
        "doc_to_target": "label_index",
        "target_delimiter": "",
        "fewshot_delimiter": run.dataset.separator,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {
            "version": 1.0,
            "labelled_by": run.model,
            "demonstrations_by_label": {
                name: int((shown_labels == y).sum()) for y, name in enumerate(names)
            },
        },
    }
    text = yaml_text(content, width=1000)
    # The folder's name may hold what ends a comment of YAML.
    return f"# {printable(task.command)}\n{text}".encode()
