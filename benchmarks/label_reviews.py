"""Label all movie reviews, compare with the raters, and look at memory; one process per seed.

    python benchmarks/label_reviews.py --seeds 0,1,2 -o benchmarks/results/label_reviews.json

The command that users run is run here, on a table that holds nothing but the texts. Reviews whose
mean rating is 0 have no gold label, neutral ones lie in -0.5 .. 0.5; agreement is given for both.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from icm_fast.assets.locate import MOVIE_GROUND_TRUTH, movie_review_file
from icm_fast.files import write_atomically
from icm_fast.runs.provenance import machine_facts

LABELS = ("negative", "positive")


def main() -> None:
    """Label, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", type=int, help="use the first rows only")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    texts, ratings = read_reviews(arguments.rows)
    document: dict[str, object] = {
        "command": "python benchmarks/label_reviews.py " + " ".join(sys.argv[1:]),
        "machine": machine_facts(),
        "rows": len(texts),
        "runs": [],
    }
    runs: list[dict[str, object]] = []
    for seed in arguments.seeds.split(","):
        runs.append(label_once(texts, ratings, arguments.model, seed, arguments.set))
        document["runs"] = runs
        print(json.dumps(runs[-1]), flush=True)
        if arguments.output is not None:
            text = json.dumps(document, indent=1) + "\n"
            write_atomically(arguments.output, text.encode())


def read_reviews(n_rows: int | None) -> tuple[list[str], np.ndarray]:
    """Texts as they are published, and mean ratings."""
    lines = movie_review_file(MOVIE_GROUND_TRUTH).read_text(encoding="utf-8").splitlines()
    fields = [line.split("\t") for line in lines if line.strip()][:n_rows]
    return [" ".join(parts[2].split()) for parts in fields], np.array([float(p[1]) for p in fields])


def label_once(
    texts: list[str], ratings: np.ndarray, model: str, seed: str, assignments: list[str]
) -> dict[str, object]:
    """Run the command; return agreement, confidence, memory and time."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with open(folder / "reviews.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review"])
            writer.writerows([text] for text in texts)
        command = [sys.executable, "-m", "icm_fast", "label", "reviews.csv", "--text", "review"]
        command += ["--labels", ",".join(LABELS), "--model", model, "-o", "labelled.csv"]
        command += ["--seed", seed, "--json", "--progress", "plain"]
        command += [word for pair in assignments for word in ("--set", pair)]
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE)
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"icm-fast label ended with {status}")
        seconds = time.monotonic() - started
        with open(folder / "labelled.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    found = np.array([LABELS.index(row["label"]) for row in rows])
    confidence = np.array([float(row["confidence"]) for row in rows])
    return {
        "seed": int(seed),
        "seconds": round(seconds, 1),
        "peak_mib": usage.ru_maxrss // 1024,
        "n_tokens": summary["n_tokens_forwarded"],
        "template": summary["template"],
        "decided_by": summary["decided_by"],
        "mean_confidence": summary["mean_confidence"],
        "all_with_gold": figures(found, confidence, ratings, ratings != 0),
        "without_neutral": figures(found, confidence, ratings, np.abs(ratings) > 0.5),
    }


def figures(
    found: np.ndarray, confidence: np.ndarray, ratings: np.ndarray, kept: np.ndarray
) -> dict[str, object]:
    """Agreement of the kept rows, and of their more confident half."""
    right = (found == (ratings > 0))[kept]
    order = np.argsort(-confidence[kept], kind="stable")
    return {
        "rows": int(kept.sum()),
        "agreement": round(float(right.mean()), 4),
        "confident_half": round(float(right[order[: len(order) // 2]].mean()), 4),
        "by_tenth": [round(float(part.mean()), 3) for part in np.array_split(right[order], 10)],
    }


if __name__ == "__main__":
    main()
