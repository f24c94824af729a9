"""Labels that are not equally frequent: what it brings to take the shares that the evidence shows.

    python -m benchmarks.quality.shares simulate
    python -m benchmarks.quality.shares draw --seeds 50,51 --data DATA -o build/shares

Each set of examples is labelled by the bootstrap of the preset ``default`` twice: with the shares
that the evidence shows, and with equal ones, at the same tokens. ``simulate`` takes scores by the
formula of :mod:`icm_fast.engine.simulate`; ``draw`` takes real models, with rows drawn at shares
that differ (gold is read for that). Sets that are there are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.engine.bootstrap import Evaluate, Read, bootstrap
from icm_fast.engine.simulate import SyntheticTask, synthetic_task
from icm_fast.evaluation.many_shot import predict
from icm_fast.files import write_atomically
from icm_fast.model import load_model
from icm_fast.scoring.factory import make_scorer, make_text_scorer
from icm_fast.types import BoolArray, Dataset, Example, IntArray, LabelSpace, ScoreArray

FIVE = (0.6, 0.2, 0.1, 0.06, 0.04)
SIMULATED = ((0.5, 0.5), (0.9, 0.1), (0.97, 0.03), (0.2,) * 5, (0.45, 0.25, 0.15, 0.1, 0.05), FIVE)
MODELS = ("smollm2", "gemma3-270m")
DEBIAN = "debian_sections.jsonl"
N_SECTIONS = 5


@dataclass(frozen=True, slots=True)
class Draw:
    """Examples at given shares.

    Attributes:
        name: Shown in tables.
        task: A task of the package, or the file of Debian's sections.
        options: Options of the task.
        shares: Of the labels; natural ones when empty.
    """

    name: str
    task: str
    options: dict[str, Any]
    shares: tuple[float, ...] = ()

    def load(self, n: int, seed: int, data: Path | None) -> tuple[Dataset, IntArray]:
        """Draw ``n`` examples and their gold labels."""
        pool, gold = sections(data) if self.task == DEBIAN else self._task()
        random = np.random.default_rng([seed, n])
        rows = random.permutation(len(pool))
        if self.shares:
            counts = np.round(np.array(self.shares) * n).astype(int)
            parts = [rows[gold[rows] == k][:count] for k, count in enumerate(counts)]
            rows = random.permutation(np.concatenate(parts))
        rows = rows[:n]
        return pool.subset(rows.tolist()), gold[rows]

    def _task(self) -> tuple[Dataset, IntArray]:
        dataset, gold = icm_fast.load_task(self.task, **self.options)
        return dataset, np.asarray(gold, np.int32)


def sections(data: Path | None) -> tuple[Dataset, IntArray]:
    """Descriptions of packages in the most frequent sections of Debian."""
    if data is None:
        raise SystemExit(f"the sections of Debian need --data, a folder with {DEBIAN}")
    lines = (data / DEBIAN).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    names, counts = np.unique([row["section"] for row in rows], return_counts=True)
    kept = sorted(names[np.argsort(-counts, kind="stable")[:N_SECTIONS]].tolist())
    rows = [row for row in rows if row["section"] in kept]
    examples = tuple(
        Example(str(k), f"Description: {row['description']}\nSection:")
        for k, row in enumerate(rows)
    )
    gold = np.array([kept.index(row["section"]) for row in rows], np.int32)
    return Dataset(examples, LabelSpace(tuple(f" {name}" for name in kept)), name="sections"), gold


def draws() -> list[Draw]:
    """Two labels at five pairs of shares; three and five at their natural ones and equal ones."""
    tweets: dict[str, Any] = {"max_chars": 100}
    found = []
    for name, task, options in (
        ("tweets", "tweet-sentiment", {**tweets, "classes": 2}),
        ("reviews", "movie-sentiment", {"max_chars": 60}),
    ):
        found += [
            Draw(f"{name} {share:g}", task, options, (1 - share, share))
            for share in (0.1, 0.5, 0.9)
        ]
    three, five = (1 / 3,) * 3, (1 / N_SECTIONS,) * N_SECTIONS
    found += [
        Draw("tweets, 3 classes", "tweet-sentiment", tweets),
        Draw("tweets, 3 classes, equal", "tweet-sentiment", tweets, three),
        Draw("sections", DEBIAN, {}),
        Draw("sections, equal", DEBIAN, {}, five),
    ]
    return found


def compared(
    dataset: Dataset, gold: IntArray, evaluate: Evaluate, read: Read | None = None
) -> dict[str, Any]:
    """Accuracy, balanced accuracy and the largest error of a share, by shares and by equal ones."""
    n_labels = len(dataset.label_space)
    equal = (1.0 / n_labels,) * n_labels
    none = np.full(len(dataset), -1, np.int32)

    def bootstrapped(shares: tuple[float, ...]) -> IntArray:
        found = bootstrap(dataset, evaluate, read=read, fixed=None, rounds=2, shares=shares)
        return found.together.argmax(axis=1).astype(np.int32)

    labels = {
        "shown": bootstrapped(()),
        "equal": bootstrapped(equal),
        "zero-shot": predict(evaluate(none, none < 0), calibrated=True),
    }
    true = np.bincount(gold, minlength=n_labels) / len(gold)
    found: dict[str, Any] = {}
    for name, one in labels.items():
        shares = np.bincount(one, minlength=n_labels) / len(gold)
        found[name] = {
            "accuracy": float((one == gold).mean()),
            "balanced": float(np.mean([(one == k)[gold == k].mean() for k in np.unique(gold)])),
            "share_error": float(np.abs(shares - true).max()),
        }
    return found


def remembered(score: Callable[..., ScoreArray]) -> Callable[..., ScoreArray]:
    """The same scores, each question scored once."""
    known: dict[tuple[bytes, ...], ScoreArray] = {}

    def answered(*arrays: IntArray | BoolArray) -> ScoreArray:
        key = tuple(array.tobytes() for array in arrays)
        if key not in known:
            known[key] = score(*arrays)
        return known[key]

    return answered


def draw(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Real models on real texts."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in arguments.models.split(","):
        model = None
        for one in draws():
            for seed in map(int, arguments.seeds.split(",")):
                stem = f"{one.name} {name} {arguments.n} {seed}".replace(",", "").replace(" ", "-")
                path = arguments.output / f"{stem}.json"
                if not path.exists():
                    model = model or load_model(name)
                    dataset, gold = one.load(arguments.n, seed, arguments.data)
                    scorer = make_scorer(model, dataset, SearchConfig())
                    score = remembered(lambda *one, s=scorer: np.asarray(s.score(*one).scores))
                    texts = make_text_scorer(model, dataset, SearchConfig())
                    found = {"name": one.name, "model": name, "n": len(dataset), "seed": seed}
                    read = remembered(lambda labels, t=texts: t.score_texts(labels).scores)
                    content = {**found, **compared(dataset, gold, score, read)}
                    write_atomically(path, (json.dumps(content) + "\n").encode())
                rows.append(json.loads(path.read_text()))
                print(shown(rows[-1]), flush=True)
    return rows


def formula(task: SyntheticTask) -> Evaluate:
    """Scores of labellings, as csrc/engine/simulator.hpp describes them."""

    def score(labels: IntArray, rows: BoolArray) -> ScoreArray:
        n_labels = task.evidence.shape[1]
        labelled = labels >= 0
        right = labelled & (labels == task.truth)
        others = labelled.sum() - labelled
        rights = right.sum() - right
        prior = task.prior_strength * task.prior_count
        trust = (prior + rights - (others - rights)) / (task.prior_count + others)
        counts = np.stack([(labels == k).sum() - (labels == k) for k in range(n_labels)], axis=1)
        values = task.trust * trust[:, None] * task.evidence
        values = values + task.lean * np.log((counts + 1) / (others[:, None] + n_labels))
        scores: ScoreArray = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
        return scores.astype(np.float32)

    return score


def simulate(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Means over seeds, by the formula."""
    rows = []
    for shares in SIMULATED:
        for signal in (2.0, 2.5):
            for n in (128, 256):
                every = []
                for seed in range(arguments.n_seeds):
                    task = synthetic_task(
                        n, n_labels=len(shares), signal=signal, shares=shares, seed=seed
                    )
                    names = LabelSpace(tuple(f" {chr(97 + k)}" for k in range(len(shares))))
                    examples = tuple(Example(str(k), f"text {k}") for k in range(n))
                    dataset = Dataset(examples, names)
                    every.append(compared(dataset, task.truth, remembered(formula(task))))
                means: dict[str, Any] = {
                    kind: {key: float(np.mean([e[kind][key] for e in every])) for key in values}
                    for kind, values in every[0].items()
                }
                name = ", ".join(f"{share:g}" for share in shares)
                rows.append({"name": name, "signal": signal, "n": n, **means})
                print(shown(rows[-1]), flush=True)
    return rows


def shown(row: dict[str, Any]) -> str:
    """One line."""
    what = ", ".join(f"{key} {row[key]}" for key in ("model", "signal", "n", "seed") if key in row)
    parts = [
        f"{kind} {row[kind]['accuracy']:.3f} ({row[kind]['balanced']:.3f}, share off by "
        f"{row[kind]['share_error']:.2f})"
        for kind in ("zero-shot", "equal", "shown")
    ]
    return f"{row['name']}; {what}: {'; '.join(parts)}"


def main() -> None:
    """Run one command; with ``--summary`` the rows are written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    simulated = commands.add_parser("simulate")
    simulated.add_argument("--n-seeds", type=int, default=20)
    real = commands.add_parser("draw")
    real.add_argument("--n", type=int, default=128)
    real.add_argument("--models", default=",".join(MODELS))
    real.add_argument("--seeds", default="50,51")
    real.add_argument("--data", type=Path, help=f"folder with {DEBIAN}")
    real.add_argument("-o", "--output", type=Path, required=True)
    for command in (simulated, real):
        command.add_argument("--summary", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "simulate":
        rows, given = simulate(arguments), f"simulate --n-seeds {arguments.n_seeds}"
    else:
        rows = draw(arguments)
        given = f"draw --n {arguments.n} --models {arguments.models} --seeds {arguments.seeds}"
        given += " --data DATA -o build/shares"
    if arguments.summary is not None:
        content = {"command": f"python -m benchmarks.quality.shares {given}", "rows": rows}
        arguments.summary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
