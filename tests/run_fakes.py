"""Stand-ins for a model: scores are a deterministic function of the labelling alone."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import icm_fast
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.types import Dataset, Example, LabelSpace

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = Path(icm_fast.__file__).parent


@dataclass(frozen=True)
class FakeScored:
    scores: np.ndarray
    n_tokens: int


class FakeScorer:
    """Prefers a hidden label per example, with noise that depends on the whole labelling."""

    fingerprint = "fake-1"

    def __init__(self, n: int, n_labels: int = 2, delay: float = 0.0) -> None:
        self.shape = (n, n_labels)
        self.delay = delay
        self.calls = 0

    def score(self, labels, queries=None):
        self.calls += 1
        time.sleep(self.delay)
        digest = hashlib.sha256(np.asarray(labels, "<i4").tobytes()).digest()
        rng = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little")))
        logits = 0.5 * rng.normal(size=self.shape)
        hidden = np.arange(self.shape[0]) * 7 % 5 % self.shape[1]
        logits[np.arange(self.shape[0]), hidden] += 1.5
        scores = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
        if queries is not None:
            scores[~queries] = np.nan
        return FakeScored(scores, self.predict_tokens(labels, queries))

    def predict_tokens(self, labels, queries=None):
        return 10 * self.shape[0] + int((np.asarray(labels) >= 0).sum())


class SilentTexts:
    """Finds every text as probable after one label as after another."""

    def __init__(self, dataset: Dataset) -> None:
        self.shape = (len(dataset), len(dataset.label_space))

    def predict_text_tokens(self, labels):
        return 7 * self.shape[0]

    def score_texts(self, labels):
        return FakeScored(np.zeros(self.shape, np.float32), self.predict_text_tokens(labels))


def toy_dataset(n: int = 10, labels: tuple[str, ...] = (" no", " yes")) -> Dataset:
    examples = tuple(Example(f"e{i}", f"Question {i}?\nAnswer:") for i in range(n))
    return Dataset(examples, LabelSpace(labels), name="toy")


class CharacterTokenizer:
    """One token per character; an encoding like that of transformers."""

    def __call__(self, text, add_special_tokens=False, **_):
        if isinstance(text, str):
            return {"input_ids": [ord(c) for c in text]}
        return {"input_ids": [[ord(c) for c in one] for one in text]}


class FakeLoaded:
    name = "fake"
    fingerprint = "fake-weights"
    computation = "fake-computation"
    dtype_name = "float32"
    device = types.SimpleNamespace(type="cpu")
    n_parameters = 12_000_000
    max_context = 100_000
    tokenizer = CharacterTokenizer()


def install_fake_model(monkeypatch, scorer_class=FakeScorer) -> types.SimpleNamespace:
    """Replace the torch-backed modules; returns what was loaded and scored."""
    seen = types.SimpleNamespace(loads=0, scorers=[])

    def load_model(model, *, dtype="auto", device="auto"):
        seen.loads += 1
        return FakeLoaded()

    def make_scorer(loaded, dataset, config):
        if isinstance(loaded, ModelElsewhere):
            return loaded.scorer(dataset, config)
        scorer = scorer_class(len(dataset), len(dataset.label_space))
        seen.scorers.append(scorer)
        return scorer

    def make_text_scorer(loaded, dataset, config):
        if isinstance(loaded, ModelElsewhere):
            return loaded.scorer(dataset, config)
        return SilentTexts(dataset)

    model = types.ModuleType("icm_fast.model")
    model.load_model = load_model
    model.__path__ = [str(PACKAGE / "model")]
    scorers = types.ModuleType("icm_fast.scoring.factory")
    scorers.make_scorer = make_scorer
    scorers.make_text_scorer = make_text_scorer
    scorers.longest_context = lambda pieces, n: int(pieces.query_lengths()[0][:n].sum())
    monkeypatch.setitem(sys.modules, "icm_fast.model", model)
    monkeypatch.setitem(sys.modules, "icm_fast.scoring.factory", scorers)
    return seen


def write_claims(path: Path, n_questions: int = 12, gold=lambda row: row % 2) -> None:
    """A truthfulqa file with two claims per question; ``gold`` None leaves the column out."""
    rows = []
    for row in range(2 * n_questions):
        item = {"question": f"Q{row // 2}?", "choice": f"claim {row}", "consistency_id": row // 2}
        if gold is not None:
            item["label"] = gold(row)
        rows.append(json.dumps(item))
    path.write_text("\n".join(rows) + "\n")


def run_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a run that must not depend on interruptions, gold, the clock or versions."""
    content = {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name not in {"summary.json", ".lock"}
    }
    summary = json.loads((folder / "summary.json").read_bytes())
    for name in ("seconds", "n_evaluations_resumed", "versions"):
        del summary[name]
    summary.pop("digests", None)  # of the files above; runs of 0.1 have none
    return content | {"summary.json": json.dumps(summary).encode()}
