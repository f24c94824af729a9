"""What a labelling will do and cost, from the table, the tokenizer and the configuration alone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from icm_fast.engine.progress import clock
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.run import core_sizes
from icm_fast.labelling.scan import Lengths, measure_prompts, scan_table
from icm_fast.labelling.tables import Table
from icm_fast.labelling.task import LabelTask
from icm_fast.labelling.template_choice import SAMPLE_ROWS, sampled_prompts
from icm_fast.model.hardware import available_bytes, available_processors
from icm_fast.model.kv_size import head_dim, kv_numbers_per_token
from icm_fast.model.load import ModelOutline, outline_model
from icm_fast.tasks.duplicates import same_text

SEARCH_EVALUATIONS = 4
"""Evaluations of U(D) in a typical search of a core, which starts from sure labels; measured."""

_EFFICIENCY = 0.5
"""Share of the speed of a large product that whole forward passes reach; on the safe side."""


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """What a labelling will do.

    Attributes:
        n_rows: Rows of the table.
        n_known: Rows with a known label.
        n_duplicates: Rows whose text another row has, too.
        n_cores: Cores.
        core_rows: Rows in each.
        template_tokens: Tokens to choose a prompt.
        plain_tokens: Tokens of all rows without demonstrations.
        search_tokens: Tokens of the searches, about.
        core_tokens: Tokens of all rows after all cores.
        seconds: Predicted seconds.
        weight_bytes: Memory of the weights.
        pool_bytes: Memory of keys and values at most.
        row_bytes: Memory of what is kept for every row.
        free_bytes: Memory that is free.
        processors: Processors that may be used.
        longest_row: Tokens of the longest prompt.
        context: Tokens that the model reads at most.
        n_prompts: Prompts that are scored, about.
        disk_bytes: What the folder will hold, about.
        preamble_tokens: Tokens of the instruction, in the other sums, too.
    """

    n_rows: int
    n_known: int
    n_duplicates: int
    n_cores: int
    core_rows: int
    template_tokens: int
    plain_tokens: int
    search_tokens: int
    core_tokens: int
    seconds: float
    weight_bytes: int
    pool_bytes: int
    row_bytes: int
    free_bytes: int
    processors: int
    longest_row: int
    context: int
    n_prompts: int
    disk_bytes: int
    preamble_tokens: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return self.template_tokens + self.plain_tokens + self.search_tokens + self.core_tokens

    @property
    def memory_bytes(self) -> int:
        """Memory of weights, keys and values, and rows, at most."""
        return self.weight_bytes + self.pool_bytes + self.row_bytes

    def lines(self) -> Iterator[str]:
        """The plan for people."""
        known = f", {self.n_known:,} with a known label" if self.n_known else ""
        yield f"rows       {self.n_rows:,}{known}, longest {self.longest_row:,} tokens"
        if self.n_duplicates:
            yield f"duplicates {self.n_duplicates:,} rows have the text of an earlier row"
        if self.template_tokens:
            yield f"prompt     chosen on up to {SAMPLE_ROWS} rows, {self.template_tokens:,} tokens"
        if self.preamble_tokens:
            yield (
                f"instruct   {self.preamble_tokens:,} tokens before all rows, read once for each "
                "chunk of rows"
            )
        yield f"alone      every row without demonstrations, {self.plain_tokens:,} tokens"
        what = "core" if self.n_cores == 1 else "cores"
        yield (
            f"search     {self.n_cores} {what} of {self.core_rows} rows, "
            f"about {self.search_tokens:,} tokens"
        )
        if self.core_tokens:
            yield f"predict    every row after each core, {self.core_tokens:,} tokens"
        yield (
            f"time       about {clock(self.seconds)} on {self.processors} processors "
            f"({self.n_tokens:,} tokens)"
        )
        yield (
            f"memory     up to {_mib(self.memory_bytes)} MiB ({_mib(self.weight_bytes)} weights, "
            f"{_mib(self.pool_bytes)} keys and values, {_mib(self.row_bytes)} rows); "
            f"{_mib(self.free_bytes)} MiB are free"
        )
        yield f"disk       {_mib(self.disk_bytes)} MiB in the folder"


def plan_labelling(table: Table, task: LabelTask, model: str, config: LabelConfig) -> LabelPlan:
    """Plan a labelling; the model's weights are not loaded.

    Args:
        table: The rows.
        task: What is asked of each.
        model: The model as the user names it.
        config: Settings.

    Raises:
        InputError: What a labelling with the same arguments would refuse, too.
    """
    config.check_labels(task.labels)
    scan = scan_table(table, task)
    outline = outline_model(model, dtype=config.dtype, device=config.device)
    asked = task.with_template(task.templates()[0])
    limit = config.context_limit or outline.max_context
    lengths = measure_prompts(table, asked, outline.tokenizer, limit)
    plan = counted_plan(task, lengths, outline, config)
    n_known = int((scan.known >= 0).sum())
    return replace(plan, n_known=n_known, n_duplicates=_duplicates(table, asked))


def counted_plan(
    task: LabelTask, lengths: Lengths, outline: ModelOutline, config: LabelConfig
) -> LabelPlan:
    """A plan from the lengths of all prompts, without a look at their texts.

    Args:
        task: What is asked of each row.
        lengths: Tokens of the prompts.
        outline: The model without its weights.
        config: Settings.
    """
    templates = task.templates()
    asked = task.with_template(templates[0])
    limit = config.context_limit or outline.max_context
    n_items = len(lengths.items)
    n_rows = n_items // asked.per_row
    n_cores, size = core_sizes(config, asked, n_rows, lengths, limit)
    core_items = size * asked.per_row
    whole = core_items >= n_items
    mean = float(lengths.items.mean())
    separator = outline.tokenizer([asked.separator], add_special_tokens=False)["input_ids"][0]
    after_separators = int(lengths.items.sum())
    n_chunks = -(-n_rows // config.chunk_rows)
    before = lengths.preamble
    plain = after_separators + n_chunks * before - (0 if before else n_items * len(separator))
    tree = round(core_items * (mean + lengths.label) * (1 + math.log2(max(2, core_items)))) + before
    context = round(config.keep * core_items * (mean + lengths.label)) + before
    after = 0 if whole else n_cores * (after_separators + n_chunks * context)
    n_views = 1 + (0 if whole else n_cores)
    prompts = sampled_prompts(len(templates), n_items)
    sample = round(prompts.n_prompts * mean) + prompts.n_passes * before
    search = n_cores * SEARCH_EVALUATIONS * tree
    seconds = _seconds(outline, (plain + search + sample, before), (after, context))
    numbers = kv_numbers_per_token(outline.config)
    return LabelPlan(
        n_rows=n_rows,
        n_known=0,
        n_duplicates=0,
        n_cores=n_cores,
        core_rows=size,
        template_tokens=sample,
        plain_tokens=plain,
        search_tokens=search,
        core_tokens=after,
        seconds=seconds,
        weight_bytes=outline.weight_bytes,
        pool_bytes=_pool_tokens(config, lengths, context, tree) * numbers * outline.dtype_bytes,
        row_bytes=n_rows * (80 + 8 * len(task.labels) * (n_views + 6)),
        free_bytes=available_bytes(),
        processors=available_processors(),
        longest_row=int(lengths.items.max()),
        context=limit,
        n_prompts=prompts.n_prompts + n_items * n_views + n_cores * SEARCH_EVALUATIONS * core_items,
        disk_bytes=4 * n_items * len(task.labels) * n_views + n_rows * (20 + 4 * len(task.labels)),
        preamble_tokens=before,
    )


def _pool_tokens(config: LabelConfig, lengths: Lengths, context: int, tree: int) -> int:
    """Tokens whose keys and values are held at once, at most."""
    per_batch = context + config.batch_tokens + int(lengths.items.max())
    return min(config.kv_budget_tokens, max(per_batch, tree))


def _duplicates(table: Table, task: LabelTask) -> int:
    seen: set[int] = set()
    n = 0
    for row in table.rows():
        # 64 bits for each text: a row in millions may be counted too much, and memory stays small.
        key = hash(same_text(task.examples(row)[0].prompt))
        n += key in seen
        seen.add(key)
    return n


def _seconds(outline: ModelOutline, *parts: tuple[int, int]) -> float:
    """Seconds for tokens, in pairs of their number and of what else they attend to."""
    config = outline.config
    layers, heads = int(config.num_hidden_layers), int(config.num_attention_heads)
    attention = 4.0 * layers * heads * head_dim(config)
    work = sum(n * (2.0 * outline.decoder_parameters + 2.0 * attention * c) for n, c in parts)
    return work / (_EFFICIENCY * _speed(outline))


def _speed(outline: ModelOutline) -> float:
    """Operations per second of a large product in the model's type, measured for a moment."""
    import torch

    a = torch.ones(512, 1024, dtype=outline.dtype, device=outline.device)
    b = torch.ones(1024, 1024, dtype=outline.dtype, device=outline.device)
    best = math.inf
    for _ in range(6):
        started = time.perf_counter()
        float((a @ b)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2.0 * 512 * 1024 * 1024 / best


def _mib(n_bytes: int) -> str:
    return f"{np.ceil(n_bytes / 2**20):,.0f}"
