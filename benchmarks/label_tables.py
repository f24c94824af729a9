"""Label rows of a table that has gold, compare with gold and with zero-shot; one process per seed.

    python benchmarks/label_tables.py sections.jsonl --text description --gold section \\
        --rows 2000 --seeds 0,1,2 --model MODEL -o benchmarks/results/label_sections.json
    python benchmarks/label_tables.py tweets_GroundTruth.txt --rows 1000 --seeds 0,1,2 --model MODEL

The command that users run is run here, on a table that holds nothing but texts. Each seed draws
its own rows. A file that ends in .txt is one of the rated sets of vaderSentiment (number, mean
rating, text, separated by tabs): negative below -0.5, positive above 0.5, neutral between.
Zero-shot scores are made with the prompt that the command chose. ``--keep`` takes the folders of
the labellings, so that they can be looked at, and the same command resumes from them.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.evaluation.many_shot import calibrate, many_shot
from icm_fast.files import write_atomically
from icm_fast.model.load import load_model
from icm_fast.runs.provenance import machine_facts
from icm_fast.types import Dataset, Example, LabelSpace


def main() -> None:
    """Label, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--gold", default="label")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--keep", type=Path, help="folder that receives the labellings' folders")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    texts, gold = read_table(arguments.table, arguments.text, arguments.gold)
    document = {
        "command": "python benchmarks/label_tables.py " + " ".join(sys.argv[1:]),
        "machine": machine_facts(),
        "runs": [],
    }
    runs: list[dict[str, object]] = []
    for seed in (int(word) for word in arguments.seeds.split(",")):
        rows = np.random.default_rng([seed, len(texts)]).permutation(len(texts))[: arguments.rows]
        drawn = [texts[i] for i in rows], [gold[i] for i in rows]
        kept = None if arguments.keep is None else arguments.keep.resolve() / f"seed-{seed}"
        run = label_once(*drawn, arguments.text, arguments.model, seed, kept)
        runs.append(run)
        document["runs"] = runs
        print(json.dumps(run), flush=True)
        if arguments.output is not None:
            write_atomically(arguments.output, (json.dumps(document, indent=1) + "\n").encode())


def read_table(path: Path, text: str, gold: str) -> tuple[list[str], list[str]]:
    """Texts and gold labels, each text once."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found: dict[str, str] = {}
    for line in (line for line in lines if line.strip()):
        if path.suffix == ".txt":
            _, rating, words = line.split("\t", 2)
            value = float(rating)
            label = "negative" if value < -0.5 else "positive" if value > 0.5 else "neutral"
            found.setdefault(" ".join(words.split()), label)
        else:
            row = json.loads(line)
            found.setdefault(row[text], row[gold])
    return list(found), list(found.values())


def label_once(
    texts: list[str], gold: list[str], column: str, model: str, seed: int, kept: Path | None
) -> dict[str, object]:
    """Run the command; return its figures beside those of zero-shot."""
    labels = sorted(set(gold))
    truth = np.array([labels.index(label) for label in gold])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_texts(folder / "table.csv", column, texts)
        command = [sys.executable, "-m", "icm_fast", "label", "table.csv", "--text", column]
        command += ["--labels", ",".join(labels), "--model", model, "-o", "labelled.csv"]
        command += ["--seed", str(seed), "--json", "--progress", "plain"]
        command += [] if kept is None else ["--folder", str(kept)]
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True)
        seconds = time.monotonic() - started
        summary = json.loads(done.stdout)
        with open(folder / "labelled.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    found = np.array([labels.index(row["label"]) for row in rows])
    confidence = np.array([float(row["confidence"]) for row in rows])
    half = np.argsort(-confidence, kind="stable")[: len(rows) // 2]
    prompts = [summary["template"].replace(f"{{{column}}}", text) for text in texts]
    scores = zero_shot(prompts, labels, model)
    return {
        "seed": seed,
        "rows": len(texts),
        "labels": labels,
        "gold_shares": shares(truth, len(labels)),
        "label": {
            **figures(found, truth, len(labels)),
            "confident_half": round(float((found == truth)[half].mean()), 4),
            "mean_confidence": summary["mean_confidence"],
            "shares_from": summary["shares_from"],
        },
        "zero_shot_plain": figures(scores.argmax(axis=1), truth, len(labels)),
        "zero_shot_calibrated": figures(calibrate(scores).argmax(axis=1), truth, len(labels)),
        "template": summary["template"],
        "n_tokens": summary["n_tokens_forwarded"],
        "seconds": round(seconds, 1),
    }


def write_texts(path: Path, column: str, texts: list[str]) -> None:
    """A table of one column."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([column])
        writer.writerows([text] for text in texts)


def zero_shot(prompts: list[str], labels: list[str], model: str) -> np.ndarray:
    """Log-probabilities without demonstrations, ``[rows, labels]``."""
    examples = tuple(Example(str(i), prompt) for i, prompt in enumerate(prompts))
    space = LabelSpace(tuple(" " + label for label in labels))
    data = Dataset(examples, space)
    return many_shot(None, None, data, model=load_model(model), config=SearchConfig()).scores


def figures(found: np.ndarray, truth: np.ndarray, n_labels: int) -> dict[str, object]:
    """Agreement, the mean F1 of the labels, and shares."""
    f1 = []
    for label in range(n_labels):
        both = int(((found == label) & (truth == label)).sum())
        f1.append(2 * both / max(int((found == label).sum() + (truth == label).sum()), 1))
    return {
        "agreement": round(float((found == truth).mean()), 4),
        "macro_f1": round(float(np.mean(f1)), 4),
        "shares": shares(found, n_labels),
    }


def shares(labels: np.ndarray, n_labels: int) -> list[float]:
    """Share of each label."""
    return [round(float(n), 4) for n in np.bincount(labels, minlength=n_labels) / len(labels)]


if __name__ == "__main__":
    main()
