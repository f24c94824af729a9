"""The whole forward pass of a random Llama: exactness, and seconds of U(D) against transformers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks.engines.flops import keys_seen
from benchmarks.gpu.model import GPUS, KERNELS, SHAPES, predict
from benchmarks.gpu.visit.record import PEAK, FallbackError, Record
from icm_fast import _core
from icm_fast.model import ModelRunner
from icm_fast.model.forward.batch import Forward
from icm_fast.model.forward.device import DeviceForward
from icm_fast.model.forward.generic import GenericForward
from icm_fast.model.forward.path import path_of
from icm_fast.model.loaded import LoadedModel
from icm_fast.plan.uniform import uniform_plan

SIZES = ((64, 43, 16384), (256, 43, 16384), (256, 43, 4096), (256, 80, 16384))
"""Examples, tokens of a demonstration with its label, tokens of a batch."""
TINY_SIZES = ((8, 9, 4096),)

LIMITS = {torch.float32: 2e-3, torch.bfloat16: 5e-2}
"""Largest distance of last states from plain transformers in float32, over their norm."""

PEER_SECONDS = 12.0
"""After these a peer's time is extrapolated by the tokens that are left."""

_BOS = 1
_TINY = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
_MIDDLE = {
    "vocab_size": 4096,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}
_LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def random_llama(
    record: Record, dtype: torch.dtype, sizes: dict[str, int], spread: float = 0.02
) -> LlamaForCausalLM:
    """A Llama with random weights; its rotary frequencies stay float32."""
    config = LlamaConfig(
        **sizes,
        max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        tie_word_embeddings=False,
        initializer_range=spread,
        dtype=dtype,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(record.device):
            return LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Tokens:
    """Random token ids of the examples of a plan.

    Attributes:
        plan: The tree.
        demonstrations: ``[n, demonstration]``.
        queries: ``[n, query]``.
    """

    plan: _core.TreePlan
    demonstrations: np.ndarray
    queries: np.ndarray

    @classmethod
    def random(cls, plan: _core.TreePlan, n: int, demonstration: int, vocabulary: int) -> Tokens:
        """Of ``n`` examples; a query is three tokens shorter than its demonstration."""
        draw = np.random.Generator(np.random.Philox(7))
        sizes = ((n, demonstration), (n, demonstration - 3))
        return cls(plan, *(draw.integers(3, vocabulary, size) for size in sizes))

    def of(self, segment: int) -> list[int]:
        """Token ids of a segment of the plan."""
        plan = self.plan
        first, last = plan.demo_offsets[segment : segment + 2]
        is_root = plan.parent[segment] < 0 and plan.n_tokens[segment] > 0
        ids = [_BOS] if is_root else []
        for example in plan.demos[first:last]:
            ids += self.demonstrations[example].tolist()
        if plan.query[segment] >= 0:
            ids += self.queries[plan.query[segment]].tolist()
        return ids

    def in_our_order(self, example: int) -> list[int]:
        """The whole prompt of a query, with demonstrations in the order of the tree."""
        return self._prompt(self.plan.context(example).tolist(), example)

    def in_natural_order(self, example: int) -> list[int]:
        """The same with demonstrations in the order of the data."""
        return self._prompt([d for d in range(len(self.queries)) if d != example], example)

    def _prompt(self, context: Sequence[int], example: int) -> list[int]:
        ids = [_BOS]
        for demonstration in context:
            ids += self.demonstrations[demonstration].tolist()
        return ids + self.queries[example].tolist()


def runner_of(record: Record, model: LlamaForCausalLM, *, generic: bool) -> ModelRunner:
    """A runner that is what it is said to be.

    Raises:
        FallbackError: On a device, something slower than the fastest would have been timed.
    """
    loaded = LoadedModel("random", model, cast("Any", SimpleNamespace()), "0" * 64, 1 << 17)
    # A CPU would take the native decoder; the dry run goes the way of a device.
    runner = ModelRunner(loaded, generic=generic or record.tiny)
    if record.tiny and not generic:
        runner._forward = DeviceForward(loaded)
    require(record, runner.forward, loaded, generic=generic)
    return runner


def require(record: Record, forward: Forward, loaded: LoadedModel, *, generic: bool) -> None:
    """Refuse a forward pass that is not the fastest of its kind; see :func:`runner_of`."""
    wanted = GenericForward if generic else DeviceForward
    if type(forward) is not wanted:
        raise FallbackError(f"{type(forward).__name__} would run, not {wanted.__name__}")
    path = path_of(loaded, forward)
    record.line(name="forward", generic=generic, path=path.sentence())
    is_half = loaded.model.dtype != torch.float32  # the CUDA kernels have no float32
    if not record.tiny and is_half and path.slower_because:
        raise FallbackError(path.slower_because)


def exact(record: Record) -> None:
    """Last hidden states of the tree against plain transformers, float32 and bfloat16."""
    n, demonstration = (8, 9) if record.tiny else (32, 43)
    plan = uniform_plan(
        n,
        demonstration=demonstration,
        query=demonstration - 3,
        root=1,
        kv_budget_tokens=1 << 18,
        batch_tokens=4096,
    )
    sizes = _TINY if record.tiny else _MIDDLE
    tokens = Tokens.random(plan, n, demonstration, sizes["vocab_size"])
    weights: dict[str, torch.Tensor] | None = None
    truth: torch.Tensor | None = None
    for dtype in LIMITS:
        model = random_llama(record, dtype, sizes, spread=0.06)
        if weights is None:
            weights = model.state_dict()
        model.load_state_dict(weights)
        plain = _plain_states(record, model, tokens)
        truth = plain if truth is None else truth
        for generic in (False, True):
            name = f"{dtype}, {'transformers' if generic else 'our'} layers"
            record.attempt(
                name,
                partial(_exact, record, name, model, tokens, plain, truth, generic=generic),
            )


def _plain_states(record: Record, model: LlamaForCausalLM, tokens: Tokens) -> torch.Tensor:
    """``[n, hidden_size]`` float32, in the order of the plan's segments."""
    rows = []
    with torch.inference_mode():
        for example in tokens.plan.query[tokens.plan.query >= 0].tolist():
            ids = torch.tensor([tokens.in_our_order(example)], device=record.device)
            rows.append(model.base_model(ids, use_cache=False).last_hidden_state[0, -1].float())
    return torch.stack(rows)


def _exact(
    record: Record,
    name: str,
    model: LlamaForCausalLM,
    tokens: Tokens,
    plain: torch.Tensor,
    truth: torch.Tensor,
    *,
    generic: bool,
) -> None:
    wanted = np.asarray(tokens.plan.query) >= 0

    def states() -> torch.Tensor:
        runner = runner_of(record, model, generic=generic)
        return runner.last_hidden_states(tokens.plan, tokens.of, wanted).float()

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).norm() / b.norm())

    ours, again = states(), states()
    record.line(
        name=name,
        ours_vs_plain=distance(ours, plain),
        ours_vs_float32=distance(ours, truth),
        plain_vs_float32=distance(plain, truth),
        same_bits_again=bool(torch.equal(ours, again)),
    )
    record.check_error(name, distance(ours, truth), LIMITS[model.dtype])


def whole(record: Record) -> None:
    """Seconds of one U(D) of an 8B shape: ours, and transformers' cache in both orders."""
    sizes = _TINY if record.tiny else _LLAMA_8B
    model = random_llama(record, torch.bfloat16, sizes)
    for n, demonstration, batch_tokens in TINY_SIZES if record.tiny else SIZES:
        plan = uniform_plan(
            n,
            demonstration=demonstration,
            query=demonstration - 3,
            root=1,
            kv_budget_tokens=1 << 20,
            batch_tokens=batch_tokens,
        )
        tokens = Tokens.random(plan, n, demonstration, sizes["vocab_size"])
        case = {"n": n, "demonstration": demonstration, "batch_tokens": batch_tokens}
        large = record.tiny or batch_tokens == 16384
        for generic in (False, True) if large else (False,):
            name = "ours, transformers' layers" if generic else "ours"
            record.attempt(name, partial(_ours, record, name, model, tokens, case, generic=generic))
        if large and demonstration < 80:
            for name, prompts in _orders(tokens).items():
                record.attempt(name, partial(_peer, record, name, model, prompts, case))


def _ours(
    record: Record,
    name: str,
    model: LlamaForCausalLM,
    tokens: Tokens,
    case: dict[str, int],
    *,
    generic: bool,
) -> None:
    plan = tokens.plan
    runner = runner_of(record, model, generic=generic)
    wanted = np.asarray(plan.query) >= 0
    times = []
    for _ in range(3):
        record.wait()
        started = time.perf_counter()
        states = runner.last_hidden_states(plan, tokens.of, wanted)
        record.wait()
        times.append(time.perf_counter() - started)
    if not bool(torch.isfinite(states).all()):
        raise ArithmeticError("states are not finite")
    record.line(
        **case,
        name=name,
        seconds=min(times),
        all_seconds=times,
        tokens=int(plan.total_tokens),
        **({} if record.tiny else _shares(plan, min(times))),
    )


def _shares(plan: _core.TreePlan, seconds: float) -> dict[str, float]:
    """The share of the peak that a time is, and the prediction, a lower bound."""
    shape, kernel = SHAPES["llama-3.1-8b"], KERNELS["wgmma"]
    launches = predict(plan, shape, GPUS["H200"], kernel.rates["H200"], kernel.tile)
    keys = keys_seen(plan.start, plan.n_tokens, None)
    flops = 2 * shape.layer_weights * shape.layers * plan.total_tokens
    flops += 4 * shape.heads * shape.head_dim * shape.layers * keys
    return {
        "of_peak": float(flops / seconds / PEAK),
        "predicted_at_least": sum(launch.seconds for launch in launches),
    }


def _orders(tokens: Tokens) -> dict[str, list[list[int]]]:
    """Whole prompts in the order of a walk through the tree, and as the data are."""
    plan = tokens.plan
    children: dict[int, list[int]] = {}
    for segment, parent in enumerate(np.asarray(plan.parent).tolist()):
        children.setdefault(parent, []).append(segment)
    walk, stack = [], children[-1][::-1]
    while stack:
        segment = stack.pop()
        walk += [int(plan.query[segment])] if plan.query[segment] >= 0 else []
        stack += children.get(segment, [])[::-1]
    return {
        "DynamicCache, our order": [tokens.in_our_order(e) for e in walk],
        "DynamicCache, natural order": [tokens.in_natural_order(e) for e in sorted(walk)],
    }


def new_tokens(before: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens of a prompt after what it shares with the one before; at least one."""
    shared = 0
    for a, b in zip(before, prompt[:-1], strict=False):
        if a != b:
            break
        shared += 1
    return len(prompt) - shared


def _peer(
    record: Record,
    name: str,
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    case: dict[str, int],
) -> None:
    """One cache, cut back to what a prompt shares with the one before."""
    costs = [new_tokens(a, b) for a, b in zip([[], *prompts], prompts, strict=False)]
    cache, held, n_done, done = DynamicCache(), 0, 0, 0

    def forward(ids: Sequence[int], into: DynamicCache | None) -> None:
        rows = torch.tensor([ids], device=record.device)
        options = {"past_key_values": into, "use_cache": into is not None}
        # item() waits, as whoever reads the score must.
        model.base_model(rows, **options).last_hidden_state[0, -1, 0].item()

    with torch.inference_mode():
        forward(prompts[0], None)  # a warm-up without a cache
        record.wait()
        started = time.perf_counter()
        for prompt, cost in zip(prompts, costs, strict=True):
            kept = len(prompt) - cost
            if held > kept:
                cache.crop(kept - held)  # a negative number is taken off the end
            forward(prompt[kept:], cache)
            held, n_done, done = len(prompt), n_done + 1, done + cost
            if time.perf_counter() - started > PEER_SECONDS:
                break
        took = time.perf_counter() - started
    record.line(
        **case,
        name=name,
        seconds=took * sum(costs) / done,
        seconds_measured=took,
        prompts=n_done,
        of=len(prompts),
        extrapolated=n_done < len(prompts),
        tokens=sum(costs),
    )
