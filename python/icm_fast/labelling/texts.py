"""A sample of rows, asked the other way round: how probable is each text after each label?

That view errs in other rows than those that are asked for the label, so it tells how much a row
alone should count beside the row after a core: of some models more, of others nearly nothing. A few
hundred rows are enough for that, whatever the size of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.engine.bootstrap import channel_weight, unit
from icm_fast.evaluation.many_shot import texts_after
from icm_fast.identity import json_digest
from icm_fast.labelling.view_file import ViewFile, ViewShape
from icm_fast.labelling.views import Question, View
from icm_fast.tasks.sampling import drawn_rows
from icm_fast.types import Example, FloatArray, IntArray, ScoreArray

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.scoring.models import ScoringModel

SAMPLE_ROWS = 384
"""Rows that are asked the other way round, at most."""
FEWEST_ROWS = 16
"""Fewer rows tell nothing."""
_MOST = 2.0
"""What a row alone counts at most, where the rows after the cores count 1."""
_USUAL, _USUAL_ROWS = 0.5, 64
"""What it usually counts, and how many rows that assumption counts as; a search counts it so."""


@dataclass(frozen=True, slots=True, eq=False)
class TextSample:
    """Rows that were asked the other way round.

    Attributes:
        rows: ``[n]`` int32, positions in the table.
        scores: ``[n, n_labels]``; only the differences within a row count.
        n_tokens: Tokens forwarded for them.
    """

    rows: IntArray
    scores: FloatArray
    n_tokens: int = 0

    def alone_weight(self, alone: FloatArray, cored: FloatArray) -> float | None:
        """How much the rows alone count beside the rows after the cores, both of unit size.

        What the texts say is, but for errors of its own, what the row's label says; so what of it
        the two other views explain, each beside the other, is how much each tells about the label.

        Args:
            alone: ``[rows, n_labels]`` evidence of all rows alone.
            cored: ``[rows, n_labels]`` that of all rows after the cores.

        Returns:
            None where the texts agree with the two no more than by chance.
        """
        one, other, said = map(unit, (alone[self.rows], cored[self.rows], self.scores))
        agreement = float((unit(one + other) * said).mean())
        if not channel_weight(agreement, len(self.rows)):
            return None
        usual = np.sqrt(_USUAL_ROWS * said.shape[1]) * np.array([[1.0, -_USUAL]])
        both = np.concatenate([np.stack([one.ravel(), other.ravel()], axis=1), usual])
        (of_one, of_other), *_ = np.linalg.lstsq(both, np.append(said.ravel(), 0.0), rcond=None)
        if of_other <= 0:
            return _MOST if of_one > 0 else None
        return float(np.clip(of_one / of_other, 0.0, _MOST))


def sampled_rows(n_rows: int, seed: int) -> list[int]:
    """Positions of the rows to ask, in order, drawn by the seed."""
    return sorted(drawn_rows("texts", seed, n_rows, SAMPLE_ROWS))


def ask_for_texts(
    folder: Path,
    question: Question,
    view: View,
    rows: list[int],
    examples: tuple[Example, ...],
    model: ScoringModel,
    config: SearchConfig,
) -> TextSample:
    """Score the texts of some rows after each label, or read what was scored before.

    Args:
        folder: Where the scores are kept.
        question: What is asked.
        view: The demonstrations that are turned round.
        rows: Positions of the rows.
        examples: Their prompts.
        model: The model.
        config: Settings of the scoring.

    Raises:
        InputError: The texts do not fit the model, or the file cannot be used.
    """
    scored_after = view.digest(question, config.seed)
    key = json_digest(["texts", scored_after, rows, config.context_limit])
    shape = ViewShape(len(rows), len(question.label_space), len(rows))
    with ViewFile(folder / f"{key[:16]}.bin", shape, key) as file:
        if not file.is_whole:
            asked = question.dataset(examples)
            found = texts_after(view.demonstrations, view.labels, asked, model=model, config=config)
            file.append(found.scores, found.n_tokens)
        scores: ScoreArray = np.concatenate(list(file.chunks()))
        return TextSample(np.array(rows, np.int32), scores.astype(np.float64), file.n_tokens)
