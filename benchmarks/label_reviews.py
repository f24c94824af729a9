"""Label all movie reviews, compare with the raters, and look at memory; one process per seed.

    python benchmarks/label_reviews.py --seeds 0,1,2 -o benchmarks/results/label_reviews.json
    python benchmarks/label_reviews.py --seeds 1 --kills 3 -o build/label_reviews_killed.json

The command that users run is run here, on a table that holds nothing but the texts. Reviews whose
mean rating is 0 have no gold label, neutral ones lie in -0.5 .. 0.5; agreement is given for both.
With ``--kills`` the command is killed that often and started again; its output is the same byte
for byte if the digests are. ``--keep`` takes the labelled tables.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
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
    parser.add_argument("--rows", type=int, help="use so many drawn rows only")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--kills", type=int, default=0, help="kill the command that often")
    parser.add_argument("--keep", type=Path, help="folder that receives the labelled tables")
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
        assigned = [word for pair in arguments.set for word in ("--set", pair)]
        options = ["--model", arguments.model, "--seed", seed, *assigned]
        runs.append(label_once(texts, ratings, options, arguments.kills, arguments.keep))
        document["runs"] = runs
        print(json.dumps(runs[-1]), flush=True)
        if arguments.output is not None:
            text = json.dumps(document, indent=1) + "\n"
            write_atomically(arguments.output, text.encode())


def read_reviews(n_rows: int | None) -> tuple[list[str], np.ndarray]:
    """Texts as they are published, and mean ratings; of fewer rows a draw, always the same.

    The file is ordered by rating: its first 2,000 rows are positive but for 3 in a hundred.
    """
    lines = movie_review_file(MOVIE_GROUND_TRUTH).read_text(encoding="utf-8").splitlines()
    fields = [line.split("\t") for line in lines if line.strip()]
    if n_rows is not None:
        drawn = np.random.default_rng(0).permutation(len(fields))[:n_rows]
        fields = [fields[i] for i in sorted(drawn)]
    return [" ".join(parts[2].split()) for parts in fields], np.array([float(p[1]) for p in fields])


def label_once(
    texts: list[str], ratings: np.ndarray, options: list[str], n_kills: int, keep: Path | None
) -> dict[str, object]:
    """Run the command; return agreement, confidence, memory and time."""
    seed = options[options.index("--seed") + 1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with open(folder / "reviews.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review"])
            writer.writerows([text] for text in texts)
        command = [sys.executable, "-m", "icm_fast", "label", "reviews.csv", "--text", "review"]
        command += ["--labels", ",".join(LABELS), *options, "-o", "labelled.csv"]
        command += ["--json", "--progress", "plain"]
        for delay in np.random.default_rng([int(seed), n_kills]).uniform(5, 120, n_kills):
            kill_after(float(delay), command, folder)
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE)
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"icm-fast label ended with {status}")
        seconds = time.monotonic() - started
        labelled = folder / "labelled.csv"
        with open(labelled, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        sha256 = hashlib.sha256(labelled.read_bytes()).hexdigest()
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(labelled, keep / f"reviews-{seed}-{n_kills}.csv")
    found = np.array([LABELS.index(row["label"]) for row in rows])
    confidence = np.array([float(row["confidence"]) for row in rows])
    return {
        "seed": int(seed),
        "kills": n_kills,
        "sha256": sha256,
        "seconds": round(seconds, 1),
        "peak_mib": usage.ru_maxrss // 1024,
        "n_tokens": summary["n_tokens_forwarded"],
        "template": summary["template"],
        "decided_by": summary["decided_by"],
        "mean_confidence": summary["mean_confidence"],
        "all_with_gold": figures(found, confidence, ratings, ratings != 0),
        "without_neutral": figures(found, confidence, ratings, np.abs(ratings) > 0.5),
    }


def kill_after(seconds: float, command: list[str], folder: Path) -> None:
    """Start the command, and kill it after some seconds, with what it started."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"killed after {seconds:.0f} s", flush=True)
    else:
        raise SystemExit(f"icm-fast label ended with {status} before it was killed")


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
