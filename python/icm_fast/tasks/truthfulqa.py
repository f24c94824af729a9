"""truthfulqa: is the claim a true answer to the question?"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

from icm_fast.errors import InputError, shown, suggest
from icm_fast.tasks.assembly import CLAIM_ENDING, TRUTH_LABELS, TaskData, assemble
from icm_fast.tasks.constraints import Equal, Exclusive, Group, compile_rules
from icm_fast.tasks.rows import PathLike, Row, binary_gold, read_limited, require_path
from icm_fast.types import Constraint, Example, LabelSpace

_RULES = ("none", "groups", "authors-code")


def load_truthfulqa(
    path: PathLike | None = None, *, limit: int | None = None, seed: int = 0, rules: str = "none"
) -> TaskData:
    """Load claims; columns question, choice, consistency_id and, for evaluation, label.

    Args:
        path: JSON or JSONL file (CSV and Parquet too).
        limit: Maximum number of examples.
        seed: Seed of the draw of groups.
        rules: ``none``; ``groups``, under which any labels are consistent, but the claims of one
            question are drawn together; or ``authors-code`` for the rule of the authors'
            repository, which uses the gold label as answer key and thus leaks supervision into the
            search.
    """
    if rules not in _RULES:
        raise InputError(f"unknown rules {shown(rules)} of truthfulqa{suggest(str(rules), _RULES)}")
    rows = read_limited(require_path("truthfulqa", path), limit, "consistency_id")
    examples = [_example(row) for row in rows]
    gold = [binary_gold(row) for row in rows]
    constraints = _leaking_constraints(examples, gold) if rules == "authors-code" else ()
    return assemble(
        "truthfulqa",
        examples,
        gold,
        rules=[Group()] if rules == "groups" else [],
        constraints=constraints,
        limit=limit,
        seed=seed,
    )


def _example(row: Row) -> Example:
    question, claim = row.text("question"), row.text("choice")
    return Example(
        id=f"truthfulqa-{row.number}",
        prompt=f"Question: {question}\nClaim: {claim}\n{CLAIM_ENDING}",
        group=row.optional("consistency_id"),
    )


def _leaking_constraints(
    examples: Sequence[Example], gold: Sequence[int]
) -> tuple[Constraint, ...]:
    warnings.warn(
        "rules='authors-code' builds the constraints of truthfulqa from the GOLD labels, so the "
        "search is no longer unsupervised; use it only to reproduce the authors' repository",
        UserWarning,
        stacklevel=4,
    )
    keyed = [
        dataclasses.replace(example, answer=None if label < 0 else str(label))
        for example, label in zip(examples, gold, strict=True)
    ]
    return compile_rules(keyed, LabelSpace(TRUTH_LABELS), [Equal(), Exclusive()])
