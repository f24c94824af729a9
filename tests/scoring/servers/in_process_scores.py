"""Scores of vLLM in a process, for the tests of real servers; runs where vLLM is installed.

    PYTHON tests/scoring/servers/in_process_scores.py MODEL < TABLES

Reads a JSON list of ``[[prompts], [labels], [labelling]]``, and prints scores, counted tokens and
the scores of texts after labels.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.scoring.factory import make_scorer, make_text_scorer
from icm_fast.scoring.models import open_model
from icm_fast.types import Dataset, Example, LabelSpace


def main(model: str) -> None:
    config = SearchConfig(engine="vllm", dtype="float32", normalize="vocabulary")
    served = open_model(model, config).load()
    found = []
    for prompts, labels, labelling in json.load(sys.stdin):
        examples = tuple(Example(f"r{k}", prompt) for k, prompt in enumerate(prompts))
        dataset, state = Dataset(examples, LabelSpace(labels)), np.array(labelling, np.int32)
        scored = make_scorer(served, dataset, config).score(state)
        texts = make_text_scorer(served, dataset, config).score_texts(state)
        found.append([scored.scores.tolist(), scored.n_tokens, texts.scores.tolist()])
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
