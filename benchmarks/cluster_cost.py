"""What labelling 1,000,000 rows takes on 8 and on 64 H100: predicted, nothing here was measured.

    python -m benchmarks.cluster_cost

The plan of every kind of work (a chunk of rows alone, a chunk after a core, one evaluation of a
search) goes through the cost model of `benchmarks/gpu/model.py`; stages follow each other as on the
driver of ``icm-fast label --ray``. Its assumptions stand in docs/cluster.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from benchmarks.gpu.model import GPUS, KERNELS, SHAPES, Shape, predict
from icm_fast._core import TreePlan, plan_tree
from icm_fast.engine.progress import clock
from icm_fast.labelling import LabelConfig
from icm_fast.labelling.plan import SEARCH_EVALUATIONS
from icm_fast.plan.uniform import uniform_plan

ROWS = 1_000_000
ROW_TOKENS, LABEL_TOKENS = 30, 2
"""Tokens of a movie review, and of its label with the separator."""
DRIVER_SECONDS = 82.0
"""Processor seconds of one million rows without model and tokenizer; dev/LOG.md, 2026-11-29."""
TOKENIZER_SECONDS = 60.0
"""Assumed, once over all rows: 17,000 short texts a second."""
START_SECONDS = 120.0
"""Assumed: weights from a shared disk into all workers at once."""
SHARE = 0.8
"""Assumed share of the predicted rate: host work of the workers, transfers, the last chunks."""

GPUS_OF = {"llama-3.1-8b": 1, "llama-3.1-70b": 2}
"""GPUs of one worker. Layers on two GPUs take turns, so such a worker is as fast as one GPU."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of the stages of a labelling.

    Attributes:
        workers: Workers.
        alone: Every row without demonstrations.
        search: All cores, side by side.
        after: Every row after each core.
        driver: Work of the driver that nothing else hides behind.
    """

    workers: int
    alone: float
    search: float
    after: float
    driver: float

    @property
    def total(self) -> float:
        """All of them, and the start."""
        return START_SECONDS + self.alone + self.search + self.after + self.driver


def main() -> None:
    """Print the table of docs/cluster.md."""
    print("\n".join(table()))


def table() -> Iterator[str]:
    """Lines of Markdown."""
    yield "| model | H100 | workers | start | alone | cores | after the cores | driver | total |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (key, shape), n_gpus in product(SHAPES.items(), (8, 64)):
        found = stages(shape, n_gpus // GPUS_OF[key])
        parts = (START_SECONDS, found.alone, found.search, found.after, found.driver, found.total)
        cells = " | ".join(clock(seconds) for seconds in parts)
        yield f"| {shape.name} | {n_gpus} | {found.workers} | {cells} |"


def stages(shape: Shape, workers: int, config: LabelConfig | None = None) -> Stages:
    """Stages of a labelling of ``ROWS`` rows.

    Args:
        shape: The model's layers.
        workers: Workers, each as fast as one GPU.
        config: Settings; by default the usual ones.
    """
    config = config or LabelConfig()
    n_chunks = math.ceil(ROWS / config.chunk_rows)
    alone = math.ceil(n_chunks / workers) * seconds(chunk(0, config), shape)
    shown = round(config.keep * config.core_size)
    after = math.ceil(config.cores * n_chunks / workers) * seconds(chunk(shown, config), shape)
    core = uniform_plan(
        config.core_size,
        demonstration=ROW_TOKENS + LABEL_TOKENS,
        query=ROW_TOKENS,
        root=1,
        kv_budget_tokens=config.kv_budget_tokens,
        batch_tokens=config.batch_tokens,
    )
    rounds = math.ceil(config.cores / workers)
    search = rounds * SEARCH_EVALUATIONS * seconds(core, shape)
    # Rows are read and made into prompts while the workers score; what is more than that shows.
    reading = 0.75 * DRIVER_SECONDS
    hidden = min(reading, alone + after)
    return Stages(workers, alone, search, after, TOKENIZER_SECONDS + DRIVER_SECONDS - hidden)


def chunk(shown: int, config: LabelConfig) -> TreePlan:
    """The plan of one chunk of rows after ``shown`` demonstrations."""
    n = shown + config.chunk_rows
    none = np.zeros(n, np.int64)
    labelled = np.arange(n) < shown
    return plan_tree(
        demonstration_tokens=np.full(n, ROW_TOKENS + LABEL_TOKENS, np.int64),
        first_extra=none,
        query_tokens=np.full(n, ROW_TOKENS, np.int64),
        query_first_extra=none,
        labelled=labelled,
        queried=~labelled,
        root_tokens=1,
        tail_parents=np.zeros(0, np.int32),
        seed=0,
        kv_budget_tokens=config.kv_budget_tokens,
        batch_tokens=config.batch_tokens,
    )


def seconds(plan: TreePlan, shape: Shape) -> float:
    """Seconds of a plan on one H100 with the default kernel."""
    rate = KERNELS["mma"].rates["H100"]
    return sum(launch.seconds for launch in predict(plan, shape, GPUS["H100"], rate)) / SHARE


if __name__ == "__main__":
    main()
