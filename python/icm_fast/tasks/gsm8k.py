"""gsm8k-verification: is a sampled solution of a word problem correct?"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from icm_fast.errors import InputError, shown, suggest
from icm_fast.tasks.assembly import CLAIM_ENDING, TaskData, assemble
from icm_fast.tasks.constraints import Equal, Exclusive
from icm_fast.tasks.rows import PathLike, Row, binary_gold, read_limited, require_path
from icm_fast.types import Example

_ANSWERS = ("spelling", "number")
_RULES = ("all", "different")
_DECORATION = re.compile(r"[\s,$€£%]")


def load_gsm8k_verification(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    answers: str = "spelling",
    rules: str = "all",
) -> TaskData:
    """Load solutions; columns question, cot (or choice), answer, consistency_id, label.

    Of one question's solutions, two with different final answers are not both correct, and
    those with the same final answer share their label.

    Args:
        path: JSON or JSONL file (CSV and Parquet too).
        limit: Maximum number of examples.
        seed: Seed of the draw of groups.
        answers: How final answers are compared: by ``spelling`` (as the authors' gold labels
            do: "$18" is wrong if "18" is right) or by ``number``.
        rules: ``all``, or ``different`` for the rule of the paper's text alone: two solutions with
            different answers are not both correct.
    """
    if answers not in _ANSWERS:
        raise InputError(
            f"unknown answers {shown(answers)} of gsm8k{suggest(str(answers), _ANSWERS)}"
        )
    if rules not in _RULES:
        raise InputError(f"unknown rules {shown(rules)} of gsm8k{suggest(str(rules), _RULES)}")
    rows = read_limited(require_path("gsm8k-verification", path), limit, "consistency_id")
    return assemble(
        "gsm8k-verification",
        [_example(row, answers) for row in rows],
        [binary_gold(row) for row in rows],
        rules=(Exclusive(), Equal()) if rules == "all" else (Exclusive(),),
        limit=limit,
        seed=seed,
    )


def _example(row: Row, answers: str) -> Example:
    question = row.text("question")
    claim = row.optional("cot") or row.text("choice")
    answer = (row.optional("answer") or "").strip() or None
    if answer is not None and answers == "number":
        answer = canonical_answer(answer)
    return Example(
        id=f"gsm8k-{row.number}",
        prompt=f"Question: {question}\nClaim: {claim}\n{CLAIM_ENDING}",
        group=row.optional("consistency_id"),
        answer=answer,
    )


def canonical_answer(answer: str) -> str:
    """Return one spelling per number (``1000`` for ``$1,000.00``), and other text stripped."""
    try:
        number = Decimal(_DECORATION.sub("", answer))
    except InvalidOperation:
        return answer.strip()
    if not number.is_finite():
        return answer.strip()
    plain = format(number, "f")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain in {"-0", ""} else plain
