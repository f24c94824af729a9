"""The outcome of two policies against each other, and writing it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from icm_fast.errors import InputError
from icm_fast.files import json_lines, write_output, writing
from icm_fast.files.text import cell
from icm_fast.runs.provenance import versions
from icm_fast.training.reward.figures import Figure


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two policies.

    Attributes:
        name: What the user called it.
        fingerprint: Of its weights.
        wins: Bouts that the judge gave it.
        mean_tokens: Mean length of its continuations, the EOS included.
        finished: Share of them that ended with the EOS.
    """

    name: str
    fingerprint: str
    wins: int
    mean_tokens: float
    finished: float


class BoutRow(TypedDict):
    """A bout as it is written: what both wrote, how the judge scored it, and who won."""

    prompt: str
    a: str
    b: str
    score_a: float
    score_b: float
    outcome: str
    tokens_a: int
    tokens_b: int
    finished_a: bool
    finished_b: bool


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """The outcome of all bouts.

    Attributes:
        a: The first policy.
        b: The second one.
        judge: Name of the judge, and ``judge_fingerprint`` that of its weights.
        settings: All that the outcome depends on besides models and prompts.
        n_prompts: Different prompts; ``n_repeated`` were given more than once.
        n_ties: Bouts that neither won.
        win_rate: (wins of ``a`` + ties / 2) / bouts.
        mean_difference: Mean of the score of ``a`` minus that of ``b``. Intervals are 95 %
            bootstrap, prompts drawn with all their samples.
        order_gap: Same as in :class:`~icm_fast.training.rl.judges.Verdicts`.
        order_disagreement: As there.
        samples: One row for each bout: prompt, both texts, both scores, ``outcome`` (a, b or tie).
    """

    a: Side
    b: Side
    judge: str
    judge_fingerprint: str
    settings: dict[str, object]
    n_prompts: int
    n_repeated: int
    n_ties: int
    win_rate: Figure
    mean_difference: Figure
    order_gap: float | None
    order_disagreement: float | None
    samples: tuple[BoutRow, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types, without the samples."""
        content = asdict(self)
        del content["samples"]
        return content

    def to_markdown(self) -> str:
        """Tables for people."""
        lines = [
            f"{cell(self.a.name)} (A) against {cell(self.b.name)} (B), "
            f"judged by {cell(self.judge)}: "
            f"{self.win_rate.n} bouts on {self.n_prompts} prompts.",
            "",
            "| | value | 95 % |",
            "|---|---|---|",
        ]
        for name, figure in (
            ("win rate of A", self.win_rate),
            ("mean difference of scores, A - B", self.mean_difference),
        ):
            lines.append(f"| {name} | {figure.value:.3f} | {figure.low:.3f} to {figure.high:.3f} |")
        lines += ["", "| policy | wins | mean tokens | finished |", "|---|---|---|---|"]
        for name, side in (("A", self.a), ("B", self.b)):
            lines.append(f"| {name} | {side.wins} | {side.mean_tokens:.1f} | {side.finished:.2f} |")
        lines += ["", f"{self.n_ties} ties count half."]
        if self.order_disagreement is not None:
            share = f"{self.order_disagreement:.2f}"
            lines.append(f"The judge turned with the order of the two texts in {share} of bouts.")
        return "\n".join(lines) + "\n"


def write_head_to_head(result: HeadToHead, path: Path) -> tuple[Path, Path]:
    """Write ``NAME.json``, and beside it ``NAME.md`` and ``NAME.samples.jsonl``.

    Args:
        result: What to write.
        path: The JSON file, written last: where it is, the others are.

    Returns:
        The Markdown file and that of the samples.

    Raises:
        InputError: The path does not end in .json, or the file system refuses.
    """
    check_output(path)
    markdown, samples = path.with_suffix(".md"), path.with_suffix(".samples.jsonl")
    content = {**result.to_dict(), "versions": versions()}
    write_output(samples, json_lines(result.samples))
    write_output(markdown, result.to_markdown().encode())
    write_output(path, (json.dumps(content, indent=2) + "\n").encode())
    return markdown, samples


def check_output(path: Path) -> None:
    """Raise InputError unless ``path`` ends in .json; make its folder."""
    if path.suffix != ".json":
        raise InputError(f"--output {path} must end in .json; the other files stand beside it")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
