"""Native parts of icm_fast: annealing engine, leave-one-out planner, CPU decoder."""

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
    def forwarded_tokens(self) -> int:
        """Tokens of the segments that run: all, or those that no cache holds."""

    @property
    def is_kept(self) -> bool:
        """Whether a cache has placed this plan and has to be told when it is done."""

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

class PrefixCache:
    """Context segments whose keys and values stay in a pool between plans.

    A plan that alone exceeds the slots empties the cache and is placed as without one.
    """

    def __init__(self, n_slots: int) -> None:
        """Hold what fits the first ``n_slots`` slots of a pool."""

    def finish(self, forwarded: npt.NDArray[np.bool_]) -> None:
        """End a plan: keep the context segments that were forwarded, ``[n_segments]``.

        Raises:
            ValueError: No plan is under way, or another number of segments.
        """

    @property
    def n_slots(self) -> int:
        """Slots of the pool."""

    @property
    def held_tokens(self) -> int:
        """Tokens of the segments held."""

    @property
    def n_held(self) -> int:
        """Number of segments held."""

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
    rows: npt.NDArray[np.bool_] | None = None,
    stage_tokens: int = 0,
    priority: npt.NDArray[np.float64] | None = None,
    appended: npt.NDArray[np.int32] | None = None,
    cache: PrefixCache | None = None,
    labels: npt.NDArray[np.int32] | None = None,
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
        root_tokens: Tokens before everything (BOS, a preamble), forwarded once.
        tail_parents: ``[t]`` internal nodes of the label token tree, one token
            each: index of the parent node, smaller than the child's, or -1 for
            the query.
        seed: 0 to 2**64 - 1; decides every order.
        kv_budget_tokens: Slots that may be live at once; kept where possible.
        batch_tokens: Tokens per batch; a longer segment runs alone.
        rows: ``[n]`` examples whose queries are forwarded; contexts are those of the whole plan.
        stage_tokens: Size of the sub-trees that run one after the other; 0 for no stages.
        priority: ``[n]`` numbers; sub-trees with a smaller mean come first.
        appended: Labelled, queried examples that end the context of all others, in this order,
            each a segment of its own, as then is every query.
        cache: Holds segments of earlier plans, which are not forwarded again. A plan that it has
            placed (``is_kept``) must be finished there.
        labels: ``[n]``, needed by a cache: it tells segments apart by examples and labels.

    Raises:
        ValueError: An array of another length, a size below 1 token, a tail
            parent after its child, or a limit below 1.
        TypeError: An array of another dtype that numpy would not cast safely.
    """

def plan_launch(
    segments: Sequence[tuple[int, int, int, int, Sequence[tuple[int, int]]]],
    n_tokens: int,
    *,
    group: int,
    kv_heads: int,
    block_m: int,
    block_n: int,
    lengths: tuple[int, int],
    window: int,
    n_sms: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32], int, int]:
    """Return the tables of one launch of a device's attention kernel, without the GIL.

    Args:
        segments: Of the packed batch, in row order: first query row, one past the last row, first
            slot of its own keys, position of its first token, ancestors' ranges ``(begin, end)``
            of slots in context order.
        n_tokens: Rows of the packed batch.
        group: Query heads per key-value head.
        kv_heads: Key-value heads.
        block_m: Rows (tokens x heads of the group) of a tile.
        block_n: Keys of a block.
        lengths: The launch serves segments of at least so many rows, and of fewer than the second
            number.
        window: How many keys a query sees, itself included; 0 for all before it.
        n_sms: Multiprocessors to fill by splitting long tiles; 0 splits nothing.

    Returns:
        Items ``[n_items, 8]``, blocks ``[n_blocks, 4]`` and merges ``[n_merges, 6]``, writable,
        with the columns that ``icm_fast.kernels.tree_attention.work_list`` names; the number of
        partial results; one past the last slot that is read.

    Raises:
        ValueError: Rows do not follow each other and cover the batch, a range is backwards or
            below 0, ranges do not add up to a position, a size below 1, or a number of 2^31 or
            more.
    """

# --- CPU decoder ----------------------------------------------------------------------------------

class KvPool:
    """Keys and values of all live segments; ``make_pool`` of what uses it makes it.

    A plan says which slots a segment has; the pool only holds them.
    """

    def write(
        self,
        layer: int,
        keys: npt.NDArray[np.float32],
        values: npt.NDArray[np.float32],
        slots: npt.NDArray[np.int64],
    ) -> None:
        """Store keys and values, ``[tokens, n_heads, head_dim]`` each, in the slots ``[tokens]``.

        Raises:
            ValueError: A shape or a layer that does not fit, or a slot outside the pool.
        """

    @property
    def n_slots(self) -> int:
        """Token slots."""

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values, all layers."""

class CpuDecoder:
    """A decoder over packed segments and shared key-value ranges; see csrc/cpu/decoder.hpp.

    It keeps packed copies of the weights and threads of its own. ``add_layer`` and ``forward``
    release the GIL; concurrent calls take turns. Its results do not depend on the number of
    threads, nor on how segments are packed into batches.
    """

    def __init__(
        self,
        *,
        dtype: str,
        hidden: int,
        intermediate: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        n_layers: int,
        norm_eps: float,
        activation: str,
        n_threads: int,
        int8: bool = False,
    ) -> None:
        """Make a decoder without layers.

        Args:
            dtype: "float32" or "bfloat16": of packed weights, of keys and values, and of what
                products read. Sums and the residual stream are float32.
            hidden: Width of the residual stream, even.
            intermediate: Units of the feed-forward layer.
            n_heads: Query heads, a multiple of ``n_kv_heads``.
            n_kv_heads: Key-value heads.
            head_dim: Width of a head, even.
            n_layers: Layers to come.
            norm_eps: Added to the mean square of every norm.
            activation: "silu" or "gelu_tanh".
            n_threads: Threads of ``forward``, the caller's among them.
            int8: Approximate the linear layers by 8-bit integers.

        Raises:
            ValueError: A size or a name that makes no sense, or a dtype or 8-bit integers that
                this processor has no dot products for.
            RuntimeError: The system starts fewer threads.
        """

    def add_layer(
        self,
        arrays: dict[str, npt.NDArray[np.float32]],
        *,
        rotary: int,
        window: int,
        scaling: float,
        softcap: float,
    ) -> None:
        """Append a layer; its weights are packed, and the arrays are not kept.

        Args:
            arrays: Contiguous, matrices ``[outputs, inputs]``: query, key, value, output, gate,
                up, down, input_norm, feed_forward_norm; where the layer has them query_bias,
                key_bias and value_bias (all or none), query_norm, key_norm, post_attention_norm,
                post_feed_forward_norm.
            rotary: Index of its rotary table.
            window: A query at position p sees keys at positions > p - window; 0 for all.
            scaling: Factor on the dot products.
            softcap: Scores become ``softcap * tanh(score / softcap)``; 0 for none.

        Raises:
            ValueError: An array of another dtype, layout or size, or one layer too many.
        """

    def make_rotary(
        self, tables: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
    ) -> RotaryTables:
        """Return rotary tables: copies of cosines and sines, ``[n_positions, half]`` each.

        Raises:
            ValueError: The two differ in size, or 2 * half is more than ``head_dim``.
        """

    def make_pool(self, n_slots: int) -> KvPool:
        """Return a pool of this decoder's layers, heads and dtype.

        Raises:
            ValueError: ``n_slots`` is below 1, or the pool exceeds 64 bits.
            MemoryError: There is no memory for it.
        """

    def forward(
        self,
        pool: KvPool,
        rotary: RotaryTables,
        embeddings: npt.NDArray[np.float32],
        *,
        n_tokens: npt.NDArray[np.int64],
        own: npt.NDArray[np.int64],
        range_offsets: npt.NDArray[np.int64],
        range_begin: npt.NDArray[np.int64],
        range_end: npt.NDArray[np.int64],
        wanted: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.float32]:
        """Run a batch of segments; their keys and values stay in the pool.

        Args:
            pool: Keys and values of earlier segments.
            rotary: Positions; layers name its tables by index.
            embeddings: ``[n_tokens.sum(), hidden]``, segment after segment.
            n_tokens: ``[n_segments]`` tokens of each segment, 1 or more.
            own: ``[n_segments]`` first slot of each segment's own keys and values.
            range_offsets: ``[n_segments + 1]`` offsets into the ranges.
            range_begin: ``[n_ranges]`` first slots of the segments' ancestors, root first.
            range_end: ``[n_ranges]`` one past their last slots.
            wanted: ``[n_segments]``, which hidden states are returned: 0 none, 1 the last, 2 all.

        Returns:
            ``[n_wanted, hidden]``: the wanted hidden states before the final norm.

        Raises:
            ValueError: Arrays that do not fit together, the pool, or the rotary tables.
        """

    @property
    def isa(self) -> str:
        """Instruction set, slowest first: "portable", "avx2", "avx512", "avx512_bf16"."""

    @property
    def n_threads(self) -> int:
        """Threads that run a forward pass together."""

    @property
    def n_weight_bytes(self) -> int:
        """Bytes of the packed weights."""

class RotaryTables:
    """Cosines and sines of rotary positions; ``CpuDecoder.make_rotary`` makes them."""

class TreeAttention:
    """Attention of packed segments over a pool, for models whose layers run elsewhere.

    ``attend`` releases the GIL; concurrent calls take turns.
    """

    def __init__(self, dtype: str, n_threads: int) -> None:
        """Start the threads, at least 1.

        Raises:
            ValueError: The dtype has no dot products on this processor, or ``n_threads`` > 4096.
            RuntimeError: The system starts fewer threads.
        """

    def make_pool(self, n_layers: int, n_heads: int, head_dim: int, n_slots: int) -> KvPool:
        """Return a pool.

        Raises:
            ValueError: A size is below 1, ``head_dim`` is odd, or the pool exceeds 64 bits.
            MemoryError: There is no memory for it.
        """

    def attend(
        self,
        pool: KvPool,
        layer: int,
        query: npt.NDArray[np.float32],
        *,
        n_tokens: npt.NDArray[np.int64],
        own: npt.NDArray[np.int64],
        range_offsets: npt.NDArray[np.int64],
        range_begin: npt.NDArray[np.int64],
        range_end: npt.NDArray[np.int64],
        scaling: float,
        window: int,
        softcap: float,
        sinks: npt.NDArray[np.float32] | None,
    ) -> npt.NDArray[np.float32]:
        """Attend every segment's queries over its ancestors' ranges and causally over itself.

        The segments' own keys and values are in the pool already.

        Args:
            pool: Keys and values.
            layer: Layer of the pool.
            query: ``[tokens, heads, head_dim]``, rows in segment order.
            n_tokens: As in :meth:`CpuDecoder.forward`, like the four that follow.
            own: First own slots.
            range_offsets: Offsets into the ranges.
            range_begin: First slots of ancestors.
            range_end: One past their last slots.
            scaling: Factor on the dot products.
            window: A query at position p sees keys at positions > p - window; 0 for all.
            softcap: Scores become ``softcap * tanh(score / softcap)``; 0 for none.
            sinks: ``[heads]`` logits that take part in the softmax without a value.

        Returns:
            ``[tokens, heads, head_dim]``.

        Raises:
            ValueError: Arrays that do not fit together or the pool.
        """

    @property
    def isa(self) -> str:
        """Instruction set, named as :attr:`CpuDecoder.isa`."""

def cpu_int8_isa() -> str | None:
    """Return the instruction set used for 8-bit integers; None where this processor has none."""

def cpu_isa(dtype: str) -> str | None:
    """Return the instruction set used for a dtype; None where this processor has none for it.

    ``ICM_FAST_ISA`` in the environment forbids faster ones.

    Raises:
        ValueError: A dtype other than "float32" and "bfloat16".
    """

# --- Annealing engine -----------------------------------------------------------------------------

def engine_setting_names() -> tuple[str, ...]:
    """Names of the settings that :class:`Engine` takes, all of them fields of ``SearchConfig``."""

class Ask:
    """A labelling whose scores the engine needs."""

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Labels ``[n]`` int32, -1 for "unlabelled"."""

    @property
    def threshold(self) -> float:
        """A candidate, or an option of the fix, with a lower utility will be rejected; -inf: the
        utility is needed exactly.
        """

    @property
    def rows(self) -> npt.NDArray[np.bool_]:
        """Examples ``[n]`` whose scores are needed."""

    @property
    def is_lookup(self) -> bool:
        """Whether the utility is known already and only the rows are wanted."""

class Engine:
    """Simulated annealing as an ask/tell machine; see csrc/engine/annealer.hpp.

    Its decisions are a pure function of its arguments and of the scores it is told. Threads
    take turns at an engine; ``tell`` releases the GIL while it works.
    """

    def __init__(
        self,
        n_examples: int,
        n_labels: int,
        pairs: npt.NDArray[np.int32],
        tables: npt.NDArray[np.uint8],
        **settings: object,
    ) -> None:
        """Start a search.

        Args:
            n_examples: Examples.
            n_labels: Labels.
            pairs: Constrained examples, ``[m, 2]``.
            tables: Allowed label pairs, ``[m, n_labels, n_labels]``.
            settings: Each of :func:`engine_setting_names`, with its value in ``SearchConfig``.

        Raises:
            ValueError: If a size, an index or a setting is out of range.
            TypeError: If a setting is missing, unknown or of another type.
        """

    def ask(self) -> Ask | None:
        """Return what to score next, the same until it is told; None when the search is over."""

    def tell(self, scores: npt.NDArray[np.float32]) -> None:
        """Answer the ask with LOO log-probabilities ``[n, n_labels]`` float32, natural log.

        Rows that are not asked for may be NaN. Rows of labelled examples may be NaN too where
        :meth:`rejects` holds.

        Raises:
            ValueError: If the shape is wrong, a score is not finite, or nothing was asked.
        """

    def rejects(self, scores: npt.NDArray[np.float32]) -> bool:
        """Whether these scores, NaN where unknown, show that the candidate will be rejected.

        Log-probabilities are at most 0, so those that are known bound the utility from above.
        False for objectives that have no such bound.
        """

    def stop(self, reason: str) -> None:
        """End the search for a reason of the caller's; the pending move is dropped.

        At most scores that the result lacks are asked for afterwards.
        """

    @property
    def may_reject(self) -> bool:
        """Whether :meth:`rejects` can hold for the present ask."""

    def take_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call, oldest first, as JSON-ready dictionaries.

        Keys: iteration, move ("init", "single", "group", "sweep", "grow", "fix", "restart" or
        "done"), temperature, changes (proposed, as (example, before, after)), utility_before,
        utility_candidate,
        utility_after (of the state after the decision), threshold (None: accepted anyhow),
        accepted, forced, n_labelled, n_violations, n_asks, null_draws (since the event before),
        abandoned (true where utility_candidate is a bound, else absent) and, for "done", reason.
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

def simulate(
    n_labels: int,
    pairs: npt.NDArray[np.int32],
    tables: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.int32],
    evidence: npt.NDArray[np.float32],
    **settings: Any,
) -> dict[str, Any]:
    """Run a whole search on synthetic scores; see csrc/engine/simulator.hpp.

    Args:
        n_labels: Labels.
        pairs: As of :class:`Engine`.
        tables: As of :class:`Engine`.
        truth: True labels, ``[n]``.
        evidence: ``[n, n_labels]``.
        settings: Those of :class:`Engine`, and prior_strength, prior_count, trust and lean.

    Returns:
        labels ``[n]``, utility, true_utility, reason, n_iterations, and int64 ``[n + 1]`` counts
        by the number of labelled examples: evaluations (distinct labellings), asks, null_draws,
        lookups (asks for unlabelled examples alone), extra_rows (unlabelled examples scored).

    Raises:
        ValueError: If a size, an index or a setting is out of range.
    """

def synthetic_scores(
    labels: npt.NDArray[np.int32],
    truth: npt.NDArray[np.int32],
    evidence: npt.NDArray[np.float32],
    **task: float,
) -> npt.NDArray[np.float32]:
    """Return the log-probabilities ``[n, n_labels]`` that :func:`simulate` gives a labelling.

    Raises:
        ValueError: If a size or a value is out of range.
    """

def utility(
    labels: npt.NDArray[np.int32],
    scores: npt.NDArray[np.float32],
    pairs: npt.NDArray[np.int32],
    tables: npt.NDArray[np.uint8],
    objective: str,
    alpha: float,
    violation_weight: float = 1.0,
    fixed_labels: npt.NDArray[np.int32] | None = None,
) -> float:
    """Return U(D) = alpha P(D) - I(D) for labels ``[n]`` and scores ``[n, n_labels]``.

    Each violated pair adds ``violation_weight`` to I(D). With ``fixed_labels`` ``[n]``, -1 where
    free, the calibrated objective compares known examples and the others each with the mean
    prediction of their own kind.

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
