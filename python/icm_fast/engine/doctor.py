"""Checks before a long run: model, labels, boundaries, what runs where, context length, cost."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.engine.bootstrap import SHOTS, round_contexts
from icm_fast.engine.native import check_fits
from icm_fast.engine.progress import Stopwatch, clock
from icm_fast.errors import InputError
from icm_fast.scoring.checks import check_scores
from icm_fast.scoring.models import Opened, local_weights
from icm_fast.scoring.servers.lazy import ServedModel
from icm_fast.tasks.duplicates import duplicates, duplicates_text
from icm_fast.types import UNLABELLED, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.model.forward.path import ForwardPath
    from icm_fast.model.hardware import Memory, Processors
    from icm_fast.model.loaded import LoadedModel
    from icm_fast.plan.pieces import TokenizedDataset
    from icm_fast.plan.text_ids import Tokenizer
    from icm_fast.scoring.protocol import MakeScorer, Scorer, TextScoring

TYPICAL_FINAL_EVALUATIONS = (30, 5)
"""Evaluations of complete labellings in a typical search, and in one that starts from a bootstrap
and moves on from there; only the time estimate uses them."""

_TIMED_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of one check.

    Attributes:
        check: What was looked at.
        passed: Whether a search can run.
        detail: What was found, for people.
        note: Whether it passed, but is worth a look.
        fields: What was found, by name: plain values for JSON, bytes and seconds in numbers.
    """

    check: str
    passed: bool
    detail: str
    note: bool = False
    fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """``ok``, ``note`` or ``FAIL``."""
        return "FAIL" if not self.passed else "note" if self.note else "ok"


def diagnose(load: Callable[[], Dataset], model: Opened, config: SearchConfig) -> Iterator[Finding]:
    """Run the checks in order and stop at the first failure, since later checks rely on it.

    Args:
        load: Loads the data set.
        model: The model; a later check loads it.
        config: Settings of the planned search.
    """
    yield _processor()
    steps = _steps(load, model, config)
    while True:
        try:
            yield next(steps)
        except StopIteration:
            return
        except InputError as error:
            yield Finding("input", False, str(error))
            return


def _steps(load: Callable[[], Dataset], model: Opened, config: SearchConfig) -> Iterator[Finding]:
    from icm_fast.plan.pieces import tokenize_dataset
    from icm_fast.scoring.factory import make_scorer, make_text_scorer

    dataset = load()
    check_fits(config, dataset)
    yield _data(dataset)
    yield _copies(dataset)
    loaded = model.load()
    if isinstance(loaded, ServedModel):
        from icm_fast.engine.doctor_server import server_steps

        yield from server_steps(loaded, dataset, config)
        return
    loaded = local_weights(loaded, "doctor")
    yield _model(loaded)
    pieces = tokenize_dataset(dataset, loaded.tokenizer)
    yield label_tokens(dataset, pieces)
    yield Finding("boundaries", True, f"the pieces of all {len(dataset)} prompts join like text")
    yield from reading(dataset, loaded.tokenizer, pieces)
    scorer = make_scorer(loaded, dataset, config)  # the one that a search makes
    yield from _computing(loaded, scorer, config)
    limit = config.context_limit or loaded.max_context
    yield context(scorer, pieces, limit)
    yield _memory(loaded, scorer, len(dataset), len(dataset.label_space))
    rate = _tokens_per_second(loaded, dataset, config, make_scorer)
    speed = {"tokens_per_second": rate}
    yield Finding("speed", True, f"{rate:,.0f} tokens per second", fields=speed)
    texts = make_text_scorer(loaded, dataset, config) if config.uses_channel else None
    yield cost(scorer, dataset, config, rate, texts=texts)


def _processor() -> Finding:
    from icm_fast._core import cpu_int8_isa, cpu_isa
    from icm_fast.model.hardware import cpu_flags, describe_cpu

    best = {dtype: cpu_isa(dtype) for dtype in ("float32", "bfloat16")} | {"int8": cpu_int8_isa()}
    listed = ", ".join(f"{dtype} by {isa}" for dtype, isa in best.items() if isa)
    return Finding(
        "processor",
        True,
        f"{describe_cpu()}; native code runs {listed}",
        fields={"flags": sorted(cpu_flags()), "instructions": best},
    )


def _data(dataset: Dataset) -> Finding:
    counts = {
        "examples": len(dataset),
        "groups": len({e.group for e in dataset.examples if e.group is not None}),
        "constraints": len(dataset.constraints),
    }
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    labels = list(dataset.label_space)
    return Finding(
        "data",
        True,
        f"{dataset.name}: {listed}",
        fields={"name": dataset.name} | counts | {"labels": labels},
    )


def _copies(dataset: Dataset) -> Finding:
    text = duplicates_text(dataset.examples)
    ids = [[dataset.examples[row].id for row in rows] for rows in duplicates(dataset.examples)]
    detail = text or "no prompt occurs twice"
    return Finding("duplicates", True, detail, text is not None, {"equal_prompts": ids})


def _model(loaded: LoadedModel) -> Finding:
    return Finding(
        "model",
        True,
        f"{loaded.name}: {loaded.n_parameters / 1e6:,.0f} M parameters, {loaded.dtype_name}, "
        f"context {loaded.max_context}",
        fields={
            "name": loaded.name,
            "parameters": loaded.n_parameters,
            "dtype": loaded.dtype_name,
            "device": str(loaded.device),
            "max_context": loaded.max_context,
            "fingerprint": loaded.fingerprint,
        },
    )


def label_tokens(dataset: Dataset, pieces: TokenizedDataset) -> Finding:
    """The token ids of each label."""
    tokens = {text: list(ids) for text, ids in zip(dataset.label_space, pieces.labels, strict=True)}
    listed = ", ".join(f"{text!r} = {ids}" for text, ids in tokens.items())
    return Finding("label tokens", True, listed, fields={"tokens": tokens})


def reading(dataset: Dataset, tokenizer: Tokenizer, pieces: TokenizedDataset) -> Iterator[Finding]:
    """How the model reads the data: what gets lost, how labels join, one whole prompt."""
    from icm_fast.plan.text_ids import Decoder, lost_texts_sentence, marked_text
    from icm_fast.tasks.joins import joined_labels

    lost = lost_texts_sentence(tokenizer, dataset)
    yield Finding(
        "round trip", True, lost or "tokens turn back into the texts of all prompts", bool(lost)
    )
    labels = tuple(dataset.label_space)
    usual = joined_labels(labels, (example.prompt for example in dataset.examples))
    joins = "labels follow the prompts as in running text"
    if usual != labels:
        joins = f"labels {list(labels)} follow a word without a blank; {list(usual)} is usual"
    both = {"labels": list(labels), "usual": list(usual)}
    yield Finding("label join", True, joins, usual != labels, both)
    if not isinstance(tokenizer, Decoder):
        return
    ids = pieces.root + pieces.demonstration(0, 0, first=True)
    shown = dataset.examples[0].id
    marked = marked_text(tokenizer, ids)
    prompt = {"example": shown, "token_ids": list(ids), "marked": marked}
    yield Finding("prompt", True, f"example {shown!r}: {marked}", fields=prompt)


def _computing(loaded: LoadedModel, scorer: Scorer, config: SearchConfig) -> Iterator[Finding]:
    """The forward path of the scorer, and its threads under the limits of this process."""
    from icm_fast.model.forward.path import path_of
    from icm_fast.model.hardware import processors

    runner = getattr(scorer, "runner", None)  # the naive scorer has none
    path = path_of(loaded, None if runner is None else runner.forward, int8=config.int8)
    yield from _ways(path)
    yield _threads(path, processors())


def _ways(path: ForwardPath) -> Iterator[Finding]:
    """What forwards and attends, and why no other library attends."""
    yield Finding("forward", True, path.sentence(), fields=asdict(path))
    if path.libraries:  # on a GPU
        reasons = "; ".join(f"{name}: {reason}" for name, reason in path.libraries.items())
        yield Finding("attention by others", True, reasons, fields=dict(path.libraries))


def _threads(path: ForwardPath, found: Processors) -> Finding:
    where = f"{found.affinity} of {found.machine} processors may be used"
    if found.quota is not None:
        where += f", and the container's quota is {found.quota:g}"
    if "OMP_NUM_THREADS" in os.environ:
        where += f"; OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    limits = {"threads": path.threads, "usable": found.usable} | asdict(found)
    count = f"{path.threads} threads" if path.threads > 1 else "1 thread"
    return Finding("threads", True, f"{count}; {where}", fields=limits)


def context(scorer: Scorer, pieces: TokenizedDataset, limit: int) -> Finding:
    """The longest context against the limit."""
    from icm_fast.scoring.bounded import BoundedScorer
    from icm_fast.scoring.factory import longest_context

    if isinstance(scorer, BoundedScorer):
        needed, n_blocks = scorer.longest_context, len(scorer.blocks)
        detail = f"up to {needed} of {limit} tokens, in {n_blocks} blocks of examples"
    else:
        needed, n_blocks = longest_context(pieces, len(pieces)), 1
        detail = f"{needed} of {limit} tokens with all {len(pieces)} labelled"
    numbers = {"tokens": needed, "limit": limit, "blocks": n_blocks}
    return Finding("context", True, detail, fields=numbers)


def _memory(loaded: LoadedModel, scorer: Scorer, n: int, n_labels: int) -> Finding:
    """Free memory under the container's limits, and what keys and values will take of it."""
    from icm_fast.model.hardware import memory
    from icm_fast.scoring.bounded import BoundedScorer
    from icm_fast.scoring.local import TreeScorer

    held = 0
    if isinstance(scorer, (TreeScorer, BoundedScorer)):
        held = scorer.pool_bytes(balanced_labels(n, n_labels))
    free = _device_memory(loaded) or memory()
    detail = f"{_gigabytes(free.free)} free"
    if free.container is not None and free.container < free.machine:
        detail += " under the container's limit"
    if held:
        detail += f"; keys and values take up to {_gigabytes(held)}"
    numbers = {"free": free.free, "keys_and_values": held} | asdict(free)
    return Finding("memory", True, detail, held > free.free, numbers)


def _device_memory(loaded: LoadedModel) -> Memory | None:
    """Free memory of the model's GPU; None for a model on the processor."""
    from icm_fast.model.hardware import Memory

    if loaded.device.type != "cuda":
        return None
    import torch

    return Memory(int(torch.cuda.mem_get_info(loaded.device)[0]), None)


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**29 else f"{n_bytes / 2**20:,.1f} MiB"


def _tokens_per_second(
    loaded: LoadedModel, dataset: Dataset, config: SearchConfig, make_scorer: MakeScorer
) -> float:
    """Speed of one small evaluation, after another one as a warm-up."""
    n = min(len(dataset), _TIMED_EXAMPLES)
    scorer = make_scorer(loaded, dataset.subset(range(n)), config)
    labels = balanced_labels(n, len(dataset.label_space))
    check_scores(dataset.subset(range(n)), scorer.score(labels).scores)
    watch = Stopwatch()
    n_tokens = scorer.score(labels).n_tokens
    return float(n_tokens / max(watch.seconds(), 1e-9))


def cost(
    scorer: Scorer,
    dataset: Dataset,
    config: SearchConfig,
    rate: float,
    requests: int = 0,
    texts: TextScoring | None = None,
) -> Finding:
    """Predicted tokens and time of a search.

    Args:
        scorer: Predicts the tokens of an evaluation.
        dataset: What is searched.
        config: Settings of the search.
        rate: Tokens per second.
        requests: Requests to a server for one evaluation; 0 for a model in this process.
        texts: Scores texts after labels, if the search will.
    """
    n, n_labels = len(dataset), len(dataset.label_space)
    full = scorer.predict_tokens(balanced_labels(n, n_labels))
    grown = [] if config.start == "bootstrap" else growth_sizes(n, config)
    rounds = bootstrap_sizes(n, config) if config.bootstraps else []
    shown = [balanced_labels(n, n_labels, n_labelled=m) for m in rounds]
    # With the channel each example alone is scored both ways, and then every other round.
    turned = [] if texts is None else [*shown[:1], *shown[2::2]]
    plain = shown if texts is None else [*shown[:1], *shown[1::2]]
    shots = 0 if config.context_demonstrations else SHOTS
    parts = [part for labels in plain for part in round_contexts(labels, config.seed, shots)]
    everything = np.ones(n, np.bool_)
    parts += [(balanced_labels(n, n_labels, n_labelled=m), everything) for m in grown]
    n_growing = len(grown) + len(rounds)
    growing = sum(scorer.predict_tokens(labels, rows) for labels, rows in parts)
    growing += sum(texts.predict_text_tokens(labels) for labels in turned if texts is not None)
    moves, n_final = config.max_iterations != 0, 1  # without moves labels are scored at the end
    if moves:
        typical = TYPICAL_FINAL_EVALUATIONS[config.start == "bootstrap"]
        n_final = config.max_evaluations or typical
    total = growing + n_final * full
    numbers = {
        "tokens_per_evaluation": full,
        "seconds_per_evaluation": full / rate,
        "evaluations": n_growing + n_final,
        "tokens": total,
        "seconds": total / rate,
    }
    detail = (
        f"{full:,} tokens and {clock(full / rate)} per evaluation once all are labelled; about "
        f"{total:,} tokens and {clock(total / rate)} for a search of {n_growing + n_final} "
        f"evaluations{' (many settle after fewer)' if moves else ''}"
    )
    if requests:
        rows = sum(int(asked.sum()) for _, asked in parts) + n * n_final
        whole = rows * requests // n + n * n_labels * len(turned)
        detail += f"; {requests:,} requests per evaluation, about {whole:,} in all"
        numbers |= {"requests_per_evaluation": requests, "requests": whole}
    return Finding("cost", True, detail, fields=numbers)


def growth_sizes(n: int, config: SearchConfig) -> list[int]:
    """How many examples are labelled at each evaluation of a search that accepts every move.

    Known labels are there from the start, and beforehand all examples are scored under them alone
    where the start or the proposals lean on that.
    """
    if config.start == "bootstrap":
        return bootstrap_sizes(n, config)
    known = sum(label != UNLABELLED for label in config.fixed_labels)
    leans = config.start == "zero-shot" or bool(config.prior_weight)
    sizes = [known] if known and leans else []
    labelled = known + min(config.n_initial, n - known)
    grows = "grow" in (config.moves or ())
    while labelled < n:
        sizes.append(labelled)
        step = math.floor(config.growth * labelled + 0.5) if grows else 1
        labelled += max(1, step)
    return sizes


def bootstrap_sizes(n: int, config: SearchConfig) -> list[int]:
    """How many examples are labelled in each round of a bootstrap: half of them, and known ones."""
    known = sum(label != UNLABELLED for label in config.fixed_labels)
    rounds = config.bootstrap_rounds if known < n else 0
    return [known, *[known + (n - known) // 2] * rounds]


def balanced_labels(n: int, n_labels: int, *, n_labelled: int | None = None) -> IntArray:
    """Labels that alternate over the first ``n_labelled`` examples, ``[n]`` int32."""
    labels = (np.arange(n) % n_labels).astype(np.int32)
    labels[n if n_labelled is None else n_labelled :] = UNLABELLED
    return labels
