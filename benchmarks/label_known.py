"""What known labels do for the others: the same rows, labelled without and with some of them.

    python benchmarks/label_known.py --seeds 0,1,2,3,4 -o build/label_known.json

For each seed some movie reviews that are not rated neutral are drawn, and some of these have their
labels known. Agreement with the raters is counted on the others, in both labellings. What is in the
output is not labelled again, and an interrupted labelling resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import icm_fast
from icm_fast.files import write_atomically
from icm_fast.model.lazy import LazyModel
from icm_fast.runs.provenance import machine_facts
from label_reviews import LABELS, read_reviews

DECIDED = 0.5
"""Reviews whose mean rating is nearer to 0 are left out."""


def main() -> None:
    """Label what is missing, print the paired table, and write all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--known", type=int, default=16)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    question = {name: getattr(arguments, name) for name in ("model", "rows", "known")}
    runs = _finished(arguments.output, question)
    model = LazyModel(arguments.model)
    for seed in map(int, arguments.seeds.split(",")):
        if str(seed) in runs:
            continue
        scratch = arguments.output.with_suffix("") / f"seed{seed}"
        runs[str(seed)] = compare(model, seed, arguments.rows, arguments.known, scratch)
        document = {
            "command": "python benchmarks/label_known.py " + " ".join(sys.argv[1:]),
            "machine": machine_facts(),
            **question,
            "runs": runs,
        }
        write_atomically(arguments.output, (json.dumps(document, indent=1) + "\n").encode())
    for line in table(runs):
        print(line)


def _finished(path: Path, question: dict[str, object]) -> dict[str, dict[str, float]]:
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    if {name: document[name] for name in question} != question:
        raise SystemExit(f"{path} has another model or other sizes; name another output")
    runs: dict[str, dict[str, float]] = document["runs"]
    return runs


def compare(
    model: LazyModel, seed: int, n_rows: int, n_known: int, scratch: Path
) -> dict[str, float]:
    """Agreement on the rows that are not known, without and with the known labels."""
    texts, gold = drawn_reviews(n_rows, seed)
    given = np.zeros(n_rows, np.bool_)
    given[np.random.default_rng([seed, n_rows, 1]).choice(n_rows, n_known, replace=False)] = True
    plain = [{"review": text} for text in texts]
    told = [
        {"review": text, "told": LABELS[label] if known else None}
        for text, label, known in zip(texts, gold.tolist(), given.tolist(), strict=True)
    ]
    without = found_labels(plain, None, model, seed, scratch / "without")
    with_known = found_labels(told, "told", model, seed, scratch / "with")
    if (with_known != gold)[given].any():
        raise SystemExit(f"seed {seed}: a known label changed")
    return {
        "without": float((without == gold)[~given].mean()),
        "with": float((with_known == gold)[~given].mean()),
        "positive_known": int((gold[given] == 1).sum()),
        "positive_others": int((gold[~given] == 1).sum()),
    }


def drawn_reviews(n_rows: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts of reviews that are not neutral, and their labels."""
    texts, ratings = read_reviews(None)
    decided = np.flatnonzero(np.abs(ratings) > DECIDED)
    rows = np.random.default_rng([seed, n_rows]).choice(decided, n_rows, replace=False)
    return [texts[row] for row in rows], (ratings[rows] > 0).astype(np.int32)


def found_labels(
    rows: Sequence[dict[str, str | None]],
    known: str | None,
    model: LazyModel,
    seed: int,
    folder: Path,
) -> np.ndarray:
    """The labels that a labelling finds."""
    labelled = icm_fast.label(
        list(rows),
        text="review",
        labels=LABELS,
        known=known,
        model=model,
        seed=seed,
        output_dir=folder,
    )
    return np.array([LABELS.index(row["label"]) for row in labelled])


def table(runs: dict[str, dict[str, float]]) -> list[str]:
    """Lines of Markdown: one for each seed, and their mean."""
    lines = ["| seed | without | with | difference |", "|---|---|---|---|"]
    pairs = [(seed, run["without"], run["with"]) for seed, run in runs.items()]
    without, with_known = (float(np.mean([pair[k] for pair in pairs])) for k in (1, 2))
    for name, one, other in [*pairs, ("mean", without, with_known)]:
        lines.append(f"| {name} | {one:.3f} | {other:.3f} | {other - one:+.3f} |")
    return lines


if __name__ == "__main__":
    main()
