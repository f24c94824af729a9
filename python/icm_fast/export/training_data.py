"""Labels of a run as training data: prompts with completions, and pairs of texts.

Texts are exactly those that were scored: a prompt ends without a space and a label starts with one,
so that prompt + completion is a demonstration. Unlabelled examples are left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from icm_fast.errors import InputError
from icm_fast.export.preferences import Preference, found_preferences
from icm_fast.files import json_lines
from icm_fast.runs.finished import FinishedRun
from icm_fast.types import UNLABELLED

AXOLOTL_TYPE = "input_output"
"""The ``type:`` of axolotl's data sets without a template."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A file to write.

    Attributes:
        content: Its bytes.
        n_rows: Number of its rows.
        note: What was left out and how to use it, for the user; may be empty.
    """

    content: bytes
    n_rows: int
    note: str = ""


def trl_sft(run: FinishedRun) -> Encoded:
    """Prompt and completion, the plain format that trl's SFTTrainer reads.

    Raises:
        InputError: The run labelled nothing.
    """
    return _demonstrations(run, lambda prompt, label: {"prompt": prompt, "completion": label})


def messages(run: FinishedRun) -> Encoded:
    """Conversations of a prompt and its label, for chat models: trl, axolotl, ``train texts``.

    Raises:
        InputError: The run labelled nothing.
    """

    def row(prompt: str, label: str) -> dict[str, object]:
        user, assistant = ("user", prompt), ("assistant", label.strip())
        turns = [{"role": role, "content": content} for role, content in (user, assistant)]
        return {"messages": turns}

    return _demonstrations(run, row)


def axolotl(run: FinishedRun) -> Encoded:
    """Segments with and without loss, axolotl's ``type: input_output``.

    That type tokenizes the segments separately and adds no template, which keeps the tokens of the
    label.

    Raises:
        InputError: The run labelled nothing.
    """

    def row(prompt: str, label: str) -> dict[str, object]:
        segments = [{"label": False, "text": prompt}, {"label": True, "text": label}]
        return {"segments": segments}

    return _demonstrations(run, row, f"in axolotl's YAML, set type: {AXOLOTL_TYPE}")


def trl_preference(run: FinishedRun) -> Encoded:
    """Prompt, chosen and rejected as texts, for models without a chat template.

    Raises:
        InputError: See :func:`~icm_fast.export.preferences.found_preferences`.
    """
    return _preferences(run, preference_texts)


def preference_texts(pair: Preference) -> dict[str, object]:
    """A preference as trl reads it for models without a chat template."""
    # trl joins prompt and response as they are, so the response starts with the space.
    return {
        "prompt": f"Human: {pair.question.strip()}\n\nAssistant:",
        "chosen": f" {pair.chosen.strip()}",
        "rejected": f" {pair.rejected.strip()}",
    }


def dpo(run: FinishedRun) -> Encoded:
    """Prompt, chosen and rejected as messages, to which trl applies the model's chat template.

    Raises:
        InputError: See :func:`~icm_fast.export.preferences.found_preferences`.
    """
    return _preferences(run, preference_messages)


def preference_messages(pair: Preference) -> dict[str, object]:
    """A preference as messages, to which trl applies the model's chat template."""
    return {
        "prompt": [{"role": "user", "content": pair.question}],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }


def _demonstrations(
    run: FinishedRun, row: Callable[[str, str], dict[str, object]], advice: str = ""
) -> Encoded:
    names = run.dataset.label_space
    rows = [
        row(run.dataset.opening + example.prompt, names[int(label)])
        for example, label in zip(run.dataset.examples, run.labels, strict=True)
        if label != UNLABELLED
    ]
    if not rows:
        raise InputError(f"the run in {run.folder} labelled no example; let it search longer")
    n_left_out = len(run.labels) - len(rows)
    left_out = f"unlabelled examples left out: {n_left_out}" if n_left_out else ""
    return Encoded(json_lines(rows), len(rows), "; ".join(filter(None, (left_out, advice))))


def _preferences(run: FinishedRun, row: Callable[[Preference], dict[str, object]]) -> Encoded:
    found = found_preferences(run)
    note = (
        f"pairs left out: {found.n_contradicting} whose labels contradict each other, "
        f"{found.n_unlabelled} not fully labelled"
    )
    return Encoded(json_lines(map(row, found.pairs)), len(found.pairs), note)
