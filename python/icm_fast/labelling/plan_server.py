"""What a server is asked for the plan of a labelling: a few prompts of the table, timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.engine.progress import Stopwatch
from icm_fast.labelling.scan import blocks
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.scoring.servers.client import Ask
from icm_fast.types import LabelSpace

if TYPE_CHECKING:
    from icm_fast.labelling.tables import Table
    from icm_fast.labelling.task import LabelTask
    from icm_fast.scoring.servers.client import Client
    from icm_fast.scoring.servers.lazy import ServedModel

_TIMED_ROWS = 17
_SLOW_SECONDS = 3.0
"""Time of one prompt from which on more prompts would keep people waiting."""


@dataclass(frozen=True, slots=True)
class ServerRate:
    """How quickly a server scores.

    Attributes:
        kind: vllm, sglang, llama.cpp or openai.
        name: Address of the server.
        requests_per_prompt: One for each inner node of the tree of label tokens, and one.
        tokens_per_second: Of prompts that are not in its cache, with requests side by side.
        n_timed: Prompts that were timed.
    """

    kind: str
    name: str
    requests_per_prompt: int
    tokens_per_second: float
    n_timed: int


def measure_server(served: ServedModel, table: Table, task: LabelTask) -> ServerRate:
    """Time the first rows of a table, each alone; some seconds at most, unless one takes longer.

    Args:
        served: The opened server.
        table: The rows.
        task: What is asked, with its template.

    Raises:
        InputError: The server refuses or fails.
    """
    _, found = next(blocks(table, task, _TIMED_ROWS))
    examples = tuple(found[:_TIMED_ROWS])
    labels = LabelSpace(task.model_labels([example.prompt for example in examples]))
    pieces = tokenize_dataset(task.dataset(examples, labels), served.tokenizer)
    # In an order that was never asked for: none of it is in the server's cache.
    rng = np.random.default_rng()
    prompts = [(*pieces.root, *rng.permutation(ids).tolist()) for ids in pieces.first_prompts]
    seconds, timed = _timed(served.client, prompts)
    return ServerRate(
        kind=served.computation,
        name=served.name,
        requests_per_prompt=1 + len(label_tree(pieces).tail_tokens),
        tokens_per_second=sum(map(len, timed)) / seconds,
        n_timed=len(timed),
    )


def _timed(client: Client, prompts: list[tuple[int, ...]]) -> tuple[float, list[tuple[int, ...]]]:
    """Seconds, and the prompts that took them: all but the first, or it alone if it is slow."""
    watch = Stopwatch()
    client.answer(prompts[0], ())
    seconds = watch.seconds()
    if seconds < _SLOW_SECONDS and len(prompts) > 1:
        watch = Stopwatch()
        client.ask([Ask(ids, ()) for ids in prompts[1:]])
        return max(watch.seconds(), 1e-9), prompts[1:]
    return max(seconds, 1e-9), prompts[:1]
