"""Native parts of icm_fast: annealing engine and leave-one-out planner."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

class TreePlan:
    """Segments, batches and key/value slots of one leave-one-out pass.

    A segment is a run of tokens that is encoded in one piece after the segments
    on its way to the root, all of which it attends to: first the BOS token (if
    ``has_root_token``), then its demonstrations, then the prompt of its query; or
    else one tail token. A segment holds its slots from its own batch to the batch
    of its last descendant. The arrays are read-only views.
    """

    @property
    def parent(self) -> npt.NDArray[np.int32]:
        """``[n_segments]``: parent segment, -1 for none; a parent precedes its children."""
    @property
    def demo_offsets(self) -> npt.NDArray[np.int64]:
        """``[n_segments + 1]``: offsets into ``demos``."""
    @property
    def demos(self) -> npt.NDArray[np.int32]:
        """``[n_demonstration_encodings]``: examples whose demonstrations the segments hold."""
    @property
    def query(self) -> npt.NDArray[np.int32]:
        """``[n_segments]``: example whose prompt or tail token the segment ends with, or -1."""
    @property
    def tail(self) -> npt.NDArray[np.int32]:
        """``[n_segments]``: index into ``tail_parents`` for a tail token, else -1."""
    @property
    def n_tokens(self) -> npt.NDArray[np.int64]:
        """``[n_segments]``: tokens of the segment, 1 or more."""
    @property
    def start(self) -> npt.NDArray[np.int64]:
        """``[n_segments]``: tokens before the segment in its context."""
    @property
    def has_root_token(self) -> npt.NDArray[np.uint8]:
        """``[n_segments]``: 1 where the segment begins with BOS."""
    @property
    def query_segments(self) -> npt.NDArray[np.int32]:
        """``[n_examples]``: segment that ends with the prompt of the example, or -1."""
    @property
    def kv_offset(self) -> npt.NDArray[np.int64]:
        """``[n_segments]``: first slot of the segment in the key/value pool."""
    @property
    def batch_offsets(self) -> npt.NDArray[np.int64]:
        """``[n_batches + 1]``: offsets into ``batch_segments``."""
    @property
    def batch_segments(self) -> npt.NDArray[np.int32]:
        """``[n_segments]``: segments in the order they run, one forward pass per batch."""
    @property
    def total_tokens(self) -> int:
        """Tokens forwarded in all."""
    @property
    def naive_tokens(self) -> int:
        """Tokens forwarded if each query came with its whole context, tails counted once."""
    @property
    def n_demonstration_encodings(self) -> int:
        """Demonstrations forwarded in all, each counted as often as it is encoded."""
    @property
    def longest_context(self) -> int:
        """Tokens of the longest context, prompt and tail included."""
    @property
    def peak_kv_tokens(self) -> int:
        """Most slots live in any batch; above the budget where the plan could not keep to it."""
    @property
    def pool_tokens(self) -> int:
        """Slots that the key/value pool must have; the peak plus what gaps between ranges cost."""
    @property
    def n_segments(self) -> int: ...
    @property
    def n_batches(self) -> int: ...
    def context(self, example: int) -> npt.NDArray[np.int32]:
        """Return the demonstrations before the query of ``example``, in order.

        Raises:
            ValueError: The example does not exist or is not queried.
        """
    def query_segment(self, example: int) -> int:
        """Return the segment that ends with the prompt of ``example``.

        Raises:
            ValueError: The example does not exist or is not queried.
        """

class RangeAllocator:
    """First-fit allocator of contiguous token slots; it hands out numbers, not memory."""

    def __init__(self) -> None: ...
    def allocate(self, size: int) -> int:
        """Return the offset of a new range of ``size`` slots; ``ValueError`` below 1."""
    def release(self, offset: int) -> None:
        """Free the range that starts at ``offset``; ``ValueError`` where none does."""
    def check_integrity(self) -> None:
        """Raise ``RuntimeError`` unless live ranges and holes tile the pool."""
    @property
    def capacity(self) -> int:
        """Highest end ever used, in slots."""
    @property
    def live(self) -> int:
        """Slots in live ranges."""
    @property
    def peak(self) -> int:
        """Most slots ever live at once."""
    @property
    def holes(self) -> int:
        """Free ranges below the capacity."""

def plan_tree(
    demonstration_tokens: npt.NDArray[np.int64],
    first_extra: npt.NDArray[np.int64],
    query_tokens: npt.NDArray[np.int64],
    query_first_extra: npt.NDArray[np.int64],
    labelled: npt.NDArray[np.bool_],
    queried: npt.NDArray[np.bool_],
    root_tokens: int,
    tail_parents: npt.NDArray[np.int32],
    seed: int,
    kv_budget_tokens: int,
    batch_tokens: int,
    n_anchors: int = 0,
) -> TreePlan:
    """Plan a leave-one-out pass; a pure function of its arguments, on every platform.

    Labelled, queried examples are left out of their own contexts; labelled ones
    that are not queried stand in every context; unlabelled, queried ones see all
    demonstrations. The GIL is released while the plan is made.

    Args:
        demonstration_tokens: ``[n]`` tokens of prompt + label + separator, read
            where ``labelled``.
        first_extra: ``[n]`` tokens to add where the demonstration is the first of
            its context; may be negative.
        query_tokens: ``[n]`` tokens of the prompt, read where ``queried``.
        query_first_extra: ``[n]`` tokens to add where no demonstration stands
            before the prompt; may be negative.
        labelled: ``[n]`` examples that demonstrate.
        queried: ``[n]`` examples to predict.
        root_tokens: 1 for a BOS token before everything, else 0.
        tail_parents: ``[t]`` internal nodes of the label token tree, one token
            each: index of the parent node, smaller than the child's, or -1 for
            the query.
        seed: 0 to 2**64 - 1; decides every order.
        kv_budget_tokens: Slots that may be live at once; kept where possible.
        batch_tokens: Tokens per batch; a longer segment runs alone.
        n_anchors: Labelled, queried examples that end the context of all others.

    Raises:
        ValueError: An array of another length, a size below 1 token, a tail
            parent after its child, or a limit below 1.
        TypeError: An array of another dtype that numpy would not cast safely.
    """

# --- Annealing engine -----------------------------------------------------------------------------

class Ask:
    """A labelling whose scores the engine needs."""

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Labels ``[n]`` int32, -1 for "unlabelled"."""

    @property
    def threshold(self) -> float:
        """A utility below this one will be rejected; -inf: the utility is needed exactly."""

class Engine:
    """Simulated annealing as an ask/tell machine; see csrc/engine/annealer.hpp.

    Its decisions are a pure function of its arguments and of the scores it is told. One thread at
    a time may use an engine; ``tell`` releases the GIL while it works.
    """

    def __init__(
        self,
        n_examples: int,
        n_labels: int,
        pairs: npt.NDArray[np.int32],
        tables: npt.NDArray[np.uint8],
        *,
        objective: str,
        alpha: float,
        initial_temperature: float,
        min_temperature: float,
        cooling: float,
        cooling_clock: str,
        start: str,
        n_initial: int,
        prior_weight: float,
        fix_rounds: int,
        fix_both_false: bool,
        fix_accepts_ties: bool,
        group_weight: int,
        moves: list[str],
        growth: float,
        single_tries: int,
        max_iterations: int,
        max_evaluations: int,
        return_best: bool,
        seed: int,
    ) -> None:
        """Start a search; ``pairs`` is ``[m, 2]``, ``tables`` ``[m, n_labels, n_labels]``.

        Raises:
            ValueError: If a size, an index or a setting is out of range.
        """

    def ask(self) -> Ask | None:
        """Return what to score next, the same until it is told; None when the search is over."""

    def tell(self, scores: npt.NDArray[np.float32]) -> None:
        """Answer the ask with LOO log-probabilities ``[n, n_labels]`` float32, natural log.

        Raises:
            ValueError: If the shape is wrong, a score is not finite, or nothing was asked.
        """

    def take_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call, oldest first, as JSON-ready dictionaries.

        Keys: iteration, move ("init", "single", "sweep", "grow", "fix", "done"), temperature,
        changes (proposed, as (example, before, after)), utility_before, utility_candidate,
        utility_after (of the state after the decision), threshold (None: accepted anyhow),
        accepted, forced, n_labelled, n_violations, n_asks, null_draws (since the event before)
        and, for "done", reason.
        """

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Labels ``[n]`` of the current state."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Scores ``[n, n_labels]`` of the current state; zeros before the first."""

    @property
    def utility(self) -> float:
        """Utility of the current state."""

    @property
    def temperature(self) -> float:
        """Temperature of the current iteration."""

    @property
    def iteration(self) -> int:
        """Search steps so far, null draws included."""

    @property
    def n_asks(self) -> int:
        """Asks answered so far."""

    @property
    def n_labelled(self) -> int:
        """Labelled examples of the current state."""

    @property
    def n_accepted(self) -> int:
        """Accepted moves that changed a label."""

    @property
    def done(self) -> bool:
        """Whether the search is over."""

    @property
    def reason(self) -> str:
        """Why it ended: "converged", "settled", "max_iterations", "max_evaluations"; else empty."""

    @property
    def result_labels(self) -> npt.NDArray[np.int32]:
        """Labels ``[n]`` of the best state (with ``return_best``) or of the current one."""

    @property
    def result_scores(self) -> npt.NDArray[np.float32]:
        """Scores ``[n, n_labels]`` of the same state."""

    @property
    def result_utility(self) -> float:
        """Utility of the same state."""

def utility(
    labels: npt.NDArray[np.int32],
    scores: npt.NDArray[np.float32],
    pairs: npt.NDArray[np.int32],
    tables: npt.NDArray[np.uint8],
    objective: str,
    alpha: float,
) -> float:
    """Return U(D) = alpha P(D) - I(D) for labels ``[n]`` and scores ``[n, n_labels]``.

    Raises:
        ValueError: If a shape or a value is out of range.
    """

def count_violations(
    labels: npt.NDArray[np.int32],
    pairs: npt.NDArray[np.int32],
    tables: npt.NDArray[np.uint8],
) -> int:
    """Return I(D), the number of violated constraints with both ends labelled.

    Raises:
        ValueError: If a shape or a value is out of range.
    """

def philox4x32(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Return the four 32-bit words of Philox4x32-10 for a counter of 4 and a key of 2 words."""
