"""The speed of many-shot predictions: one shared prefix against transformers, answers compared.

    python benchmarks/many_shot.py --n 64 --n-test 100 -o benchmarks/results/many_shot.json

The same rows without demonstrations, by the same engine, show what attention to them costs: with
the demonstrations themselves (`rate_of_zero_shot`), and for the rows alone, without the seconds of
the demonstrations and one row (`rate_of_zero_shot_rows`).
Whole prompts are timed on `--sample` of the held-out examples and extrapolated; transformers with
its own cache encodes the demonstrations once and then every query.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from icm_fast.config import SearchConfig
from icm_fast.evaluation.gold import held_out
from icm_fast.evaluation.many_shot import many_shot
from icm_fast.files import write_atomically
from icm_fast.model import LoadedModel, load_model
from icm_fast.runs.provenance import machine_facts
from icm_fast.scoring.factory import make_scorer
from icm_fast.tasks.source import TaskSource
from icm_fast.types import UNLABELLED, Dataset, IntArray

T = TypeVar("T")
Row = npt.NDArray[np.float32]
"""Log-probabilities of the labels, ``[n_labels]``."""


def main() -> None:
    """Measure, compare, print and write."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    source = TaskSource(
        arguments.task, arguments.data, limit=arguments.n, seed=0, options=dict(arguments.option)
    )
    dataset, gold = source.load()
    test, _ = held_out(source, dataset, arguments.n_test)
    loaded = load_model(arguments.model, dtype=arguments.dtype)
    config = SearchConfig()
    many_shot(dataset, gold, test.subset([0, 1]), model=loaded, config=config)  # packs the weights
    seconds, ours = timed(lambda: many_shot(dataset, gold, test, model=loaded, config=config))
    one = test.subset([0])
    context_seconds, _ = timed(lambda: many_shot(dataset, gold, one, model=loaded, config=config))
    zero_seconds, zero = timed(lambda: many_shot(None, None, test, model=loaded, config=config))
    prompts, label_ids, shared = whole_prompts(dataset, gold, test, loaded, config)
    sample = list(range(min(arguments.sample, len(prompts))))
    with torch.inference_mode():
        naive_seconds, naive = timed(lambda: [plain(loaded, prompts[i], label_ids) for i in sample])
        cache_seconds, cached = timed(lambda: with_cache(loaded, prompts, label_ids, shared))
    whole_seconds = naive_seconds * len(prompts) / len(sample)
    document: dict[str, object] = {
        "command": "python benchmarks/many_shot.py " + " ".join(arguments.given),
        "machine": machine_facts(),
        "dtype": loaded.dtype_name,
        "n": len(dataset),
        "n_test": len(test),
        "prompt_tokens": sum(map(len, prompts)),
        "tokens": ours.n_tokens,
        "seconds": seconds,
        "context_seconds": context_seconds,
        "zero_shot_tokens": zero.n_tokens,
        "zero_shot_seconds": zero_seconds,
        "whole_prompts_seconds": whole_seconds,
        "whole_prompts_timed": len(sample),
        "cache_seconds": cache_seconds,
        "max_difference_whole": difference(ours.scores[sample], naive),
        "max_difference_cache": difference(ours.scores, cached),
    }
    document["x_whole_prompts"] = whole_seconds / seconds
    document["x_cache"] = cache_seconds / seconds
    document["rate_of_zero_shot"] = zero_seconds / seconds
    document["rate_of_zero_shot_rows"] = zero_seconds / (seconds - context_seconds)
    text = json.dumps(document, indent=1) + "\n"
    print(text)
    if arguments.output is not None:
        write_atomically(arguments.output, text.encode())


def parse() -> argparse.Namespace:
    """Arguments, and the command line as given."""
    import sys

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--task", default="movie-sentiment")
    parser.add_argument("--data")
    parser.add_argument(
        "--option", action="append", type=lambda text: text.split("=", 1), default=[]
    )
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--n-test", type=int, default=100)
    parser.add_argument("--sample", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    arguments.given = sys.argv[1:]
    return arguments


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what the work returned."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def whole_prompts(
    dataset: Dataset, gold: IntArray, test: Dataset, loaded: LoadedModel, config: SearchConfig
) -> tuple[list[list[int]], list[int], int]:
    """Test prompts after all demonstrations, label tokens, and length of the common prefix."""
    examples = dataset.examples + tuple(replace(e, id=f"test:{e.id}") for e in test.examples)
    joined = Dataset(examples, dataset.label_space, (), dataset.name, dataset.separator)
    state = np.concatenate([gold, np.full(len(test), UNLABELLED, np.int32)])
    # As in many_shot: the demonstrations are not queried, so every prompt begins with all of them.
    unbounded = replace(config, context_limit=10**12)  # no context holds two test examples
    plan = make_scorer(loaded, joined, unbounded).plan(state, state == UNLABELLED)
    prompts = [plan.prompt_ids(i) for i in range(len(dataset), len(joined))]
    if any(len(ids) != 1 for ids in plan.pieces.labels):
        raise SystemExit("labels must be single tokens; use another --task or --model")
    shared = next(k for k in range(len(prompts[0])) if len({p[k] for p in prompts}) > 1)
    return prompts, [ids[0] for ids in plan.pieces.labels], shared


def plain(loaded: LoadedModel, ids: list[int], label_ids: list[int]) -> Row:
    """Scores of one whole prompt by transformers."""
    output = loaded.model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1)
    row: Row = output.logits[0, -1, label_ids].float().log_softmax(-1).numpy()
    return row


def with_cache(
    loaded: LoadedModel, prompts: list[list[int]], label_ids: list[int], shared: int
) -> list[Row]:
    """Scores of all prompts by transformers, with the shared part encoded once."""
    cache = loaded.model(torch.tensor([prompts[0][:shared]]), logits_to_keep=1).past_key_values
    scores = []
    for ids in prompts:
        rest = torch.tensor([ids[shared:]])
        output = loaded.model(rest, past_key_values=cache, logits_to_keep=1)
        scores.append(output.logits[0, -1, label_ids].float().log_softmax(-1).numpy())
        cache.crop(shared - len(ids))
    return scores


def difference(a: npt.NDArray[np.float32], b: Sequence[Row]) -> float:
    """Largest difference of log-probabilities."""
    return float(np.abs(np.asarray(a) - np.stack(b)).max())


if __name__ == "__main__":
    main()
