"""Whole searches without a model, thousands per second: for tuning, properties and costs.

The engine is the real one; only the scores come from a formula (csrc/engine/simulator.hpp) in
which labels that agree with one another predict each other, whether they are right or all wrong,
and a context of one label pulls towards that label. A simulation shows what a search *does*
(moves, evaluations, where it stops), never how well a language model knows a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icm_fast._core import simulate as native_simulate
from icm_fast.config import SearchConfig
from icm_fast.engine.native import engine_settings
from icm_fast.errors import InputError
from icm_fast.types import IntArray

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticTask:
    """What a model knows about a task, as numbers.

    Attributes:
        truth: True labels, ``[n]`` int32.
        evidence: How much each text speaks for each label, ``[n, n_labels]`` float32.
        pairs: Constrained examples, ``[m, 2]`` int32.
        tables: Allowed label pairs, ``[m, n_labels, n_labels]`` uint8.
        prior_strength: How far the model follows the evidence without demonstrations, -1 to 1.
        prior_count: Number of demonstrations that weigh as much as that prior.
        trust: How much the evidence counts when all demonstrations agree.
        lean: How strongly the labels in the context pull towards themselves.
    """

    truth: IntArray
    evidence: npt.NDArray[np.float32]
    pairs: npt.NDArray[np.int32]
    tables: npt.NDArray[np.uint8]
    prior_strength: float = 0.3
    prior_count: float = 4.0
    trust: float = 4.0
    lean: float = 0.5


def synthetic_task(
    n: int,
    *,
    n_labels: int = 2,
    signal: float = 1.0,
    group_size: int = 1,
    shares: Sequence[float] | None = None,
    seed: int = 0,
) -> SyntheticTask:
    """Draw a task.

    Args:
        n: Number of examples.
        n_labels: Number of labels.
        signal: Mean advantage of the true label, in standard deviations of the evidence: with two
            labels, the evidence is right for a share Phi(signal / sqrt 2) of the examples.
        group_size: Size of groups of consecutive examples; exactly one example of a group has the
            last label, and no two may have it. 1 for no constraints.
        shares: Probability of each true label, equal by default; not with ``group_size``.
        seed: Seed of truth and evidence.

    Raises:
        InputError: A size below its minimum, or shares that are not probabilities.
    """
    if shares is not None:
        fits = len(shares) == n_labels and min(shares) > 0 and abs(sum(shares) - 1) < 1e-9
        if not fits or group_size > 1:
            raise InputError(
                f"shares = {list(shares)} must be {n_labels} probabilities above 0 that add up to "
                "1, and group_size must then be 1"
            )
    for name, value, least in (
        ("n", n, 1),
        ("n_labels", n_labels, 2),
        ("group_size", group_size, 1),
    ):
        if value < least:
            raise InputError(f"{name} = {value} is too small; pass {least} or more")
    rng = np.random.default_rng([seed, n, n_labels, group_size])
    truth = rng.integers(0, n_labels, n) if shares is None else rng.choice(n_labels, n, p=shares)
    if group_size > 1:
        groups = np.arange(n) // group_size
        chosen = rng.integers(0, group_size, groups[-1] + 1)
        other = rng.integers(0, n_labels - 1, n)
        truth = np.where(np.arange(n) % group_size == chosen[groups], n_labels - 1, other)
    evidence = rng.normal(size=(n, n_labels))
    evidence[np.arange(n), truth] += signal
    pairs = [
        (i, j) for i in range(n) for j in range(i + 1, min(n, i - i % group_size + group_size))
    ]
    table = np.ones((n_labels, n_labels), np.uint8)
    table[-1, -1] = 0
    return SyntheticTask(
        truth=truth.astype(np.int32),
        evidence=evidence.astype(np.float32),
        pairs=np.array(pairs, np.int32).reshape(-1, 2),
        tables=np.repeat(table[None], len(pairs), axis=0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedSearch:
    """What a search did.

    Attributes:
        labels: ``[n]`` int32.
        utility: U(D) of these labels.
        true_utility: U(D) of the true ones.
        reason: Why the search ended.
        n_iterations: Search steps, null draws included.
        evaluations: Distinct labellings scored, by the number of labelled examples, ``[n + 1]``.
        asks: The same, with repeats counted.
        null_draws: Draws that proposed no change, by the number of labelled examples.
        lookups: Asks for unlabelled examples only, by the number of labelled ones.
        extra_rows: Unlabelled examples scored in all of these, by the number of labelled ones.
    """

    labels: IntArray
    utility: float
    true_utility: float
    reason: str
    n_iterations: int
    evaluations: Counts
    asks: Counts
    null_draws: Counts
    lookups: Counts
    extra_rows: Counts


def simulate_search(task: SyntheticTask, config: SearchConfig | None = None) -> SimulatedSearch:
    """Run one search on a task; the same task, settings and seed give the same result.

    Args:
        task: The task.
        config: Settings; the preset ``annealing`` when absent.

    Raises:
        InputError: The search starts from a bootstrap, which needs a model.
        ValueError: The task's arrays do not fit together.
    """
    config = config or SearchConfig(preset="annealing")
    if config.start == "bootstrap":
        raise InputError(
            "start=bootstrap needs a model and cannot be simulated; use preset=annealing, or "
            "another start"
        )
    found = native_simulate(
        task.evidence.shape[1],
        task.pairs,
        task.tables,
        task.truth,
        task.evidence,
        prior_strength=task.prior_strength,
        prior_count=task.prior_count,
        trust=task.trust,
        lean=task.lean,
        **engine_settings(config),
    )
    return SimulatedSearch(**found)
