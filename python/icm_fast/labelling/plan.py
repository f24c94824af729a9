"""What a labelling will do and cost, from the table, the tokenizer and the configuration alone.

Of a server a few prompts are timed, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from icm_fast.engine.progress import clock
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.plan_server import ServerRate, measure_server
from icm_fast.labelling.run import core_sizes
from icm_fast.labelling.scan import Lengths, Scan, measure_prompts, scan_table
from icm_fast.labelling.tables import Table
from icm_fast.labelling.task import LabelTask
from icm_fast.labelling.template_choice import SAMPLE_ROWS, sampled_prompts
from icm_fast.labelling.texts import SAMPLE_ROWS as TEXT_ROWS
from icm_fast.model.hardware import available_bytes, available_processors
from icm_fast.model.kv_size import head_dim, kv_numbers_per_token
from icm_fast.model.load import ModelOutline, outline_model
from icm_fast.plan.text_ids import Tokenizer
from icm_fast.plan.texts import MAX_SHOWN
from icm_fast.scoring.servers.address import is_address
from icm_fast.scoring.servers.lazy import LazyServer, ServedModel
from icm_fast.tasks.duplicates import same_text

SEARCH_EVALUATIONS = 4
"""Evaluations of U(D) in a typical search of a core, which starts from sure labels; measured."""
BOOTSTRAP_EVALUATIONS = 2
"""What a search of a core takes without moves, as the preset ``default``, in such evaluations."""

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
        n_texts: How many of them are texts after a label.
        disk_bytes: What the folder will hold, about.
        preamble_tokens: Tokens of the instruction, in the other sums, too.
        texts_tokens: Tokens of the rows that are asked the other way round.
        server: The server that scores; it has weights, keys and values, which count as 0 here.
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
    texts_tokens: int = 0
    n_texts: int = 0
    server: ServerRate | None = None

    @property
    def n_requests(self) -> int:
        """Requests to the server, about; 0 without one. A text takes one, whatever the labels."""
        if self.server is None:
            return 0
        return (self.n_prompts - self.n_texts) * self.server.requests_per_prompt + self.n_texts

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        asked = self.plain_tokens + self.search_tokens + self.core_tokens + self.texts_tokens
        return self.template_tokens + asked

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
        if self.texts_tokens:
            yield (
                f"texts      up to {TEXT_ROWS} rows after each label, {self.texts_tokens:,} tokens"
            )
        yield from self._time_and_memory()
        yield f"disk       {_mib(self.disk_bytes)} MiB in the folder"

    def _time_and_memory(self) -> Iterator[str]:
        server = self.server
        if server is not None:
            yield (
                f"time       about {clock(self.seconds)} at {server.tokens_per_second:,.0f} tokens "
                f"per second, measured on {server.n_timed} prompts"
            )
            yield f"tokens     {self.n_tokens:,} beyond the prefix cache of the server"
            each = server.requests_per_prompt
            what = "one for each prompt" if each == 1 else f"{each} for each prompt"
            yield f"server     {server.kind}, about {self.n_requests:,} requests, {what}"
            yield (
                f"memory     {_mib(self.row_bytes)} MiB of rows here; "
                f"{_mib(self.free_bytes)} MiB are free"
            )
            return
        yield (
            f"time       about {clock(self.seconds)} on {self.processors} processors "
            f"({self.n_tokens:,} tokens)"
        )
        yield (
            f"memory     up to {_mib(self.memory_bytes)} MiB ({_mib(self.weight_bytes)} weights, "
            f"{_mib(self.pool_bytes)} keys and values, {_mib(self.row_bytes)} rows); "
            f"{_mib(self.free_bytes)} MiB are free"
        )


def plan_labelling(table: Table, task: LabelTask, model: str, config: LabelConfig) -> LabelPlan:
    """Plan a labelling; the model's weights are not loaded.

    Args:
        table: The rows.
        task: What is asked of each.
        model: The model as the user names it; a server is asked for some prompts.
        config: Settings.

    Raises:
        InputError: What a labelling with the same arguments would refuse, too.
    """
    config = config.for_labels(len(task.labels))
    config.check_labels(task.labels)
    if is_address(model):
        return _plan_on_server(table, task, model, config)
    scan = scan_table(table, task)
    outline = outline_model(model, dtype=config.dtype, device=config.device)
    asked = task.with_template(task.templates()[0])
    limit = config.context_limit or outline.max_context
    lengths = measure_prompts(table, asked, outline.tokenizer, limit)
    plan = counted_plan(task, lengths, outline, config)
    return _with_rows(plan, scan, table, asked)


def _plan_on_server(table: Table, task: LabelTask, model: str, config: LabelConfig) -> LabelPlan:
    scan = scan_table(table, task)
    served = LazyServer(model, server=config.server, tokenizer=config.tokenizer).load()
    asked = task.with_template(task.templates()[0])
    limit = config.context_limit or served.max_context
    lengths = measure_prompts(table, asked, served.tokenizer, limit)
    plan = _counted(task, lengths, served.tokenizer, limit, config, served).plan
    server = measure_server(served, table, asked)
    seconds = plan.n_tokens / server.tokens_per_second
    return _with_rows(replace(plan, seconds=seconds, server=server), scan, table, asked)


def _with_rows(plan: LabelPlan, scan: Scan, table: Table, task: LabelTask) -> LabelPlan:
    """The plan with what only the rows tell."""
    n_known = int((scan.known >= 0).sum())
    return replace(plan, n_known=n_known, n_duplicates=_duplicates(table, task))


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
    limit = config.context_limit or outline.max_context
    counted = _counted(task, lengths, outline.tokenizer, limit, config)
    plan, before = counted.plan, lengths.preamble
    first = plan.n_tokens - plan.core_tokens
    numbers = kv_numbers_per_token(outline.config)
    return replace(
        plan,
        seconds=_seconds(outline, (first, before), (plan.core_tokens, counted.context)),
        weight_bytes=outline.weight_bytes,
        pool_bytes=_pool_tokens(config, lengths, counted.context, counted.tree)
        * numbers
        * outline.dtype_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """A plan without times and memory of a model.

    Attributes:
        plan: The plan.
        context: Tokens before the rows that are read after a core.
        tree: Tokens of one evaluation of U(D).
    """

    plan: LabelPlan
    context: int
    tree: int


def _counted(
    task: LabelTask,
    lengths: Lengths,
    tokenizer: Tokenizer,
    limit: int,
    config: LabelConfig,
    served: ServedModel | None = None,
) -> _Counted:
    templates = task.templates()
    asked = task.with_template(templates[0])
    n_items = len(lengths.items)
    n_rows = n_items // asked.per_row
    n_cores, size = core_sizes(config, asked, n_rows, lengths, limit)
    core_items = size * asked.per_row
    whole = core_items >= n_items
    mean = float(lengths.items.mean())
    separator = tokenizer([asked.separator], add_special_tokens=False)["input_ids"][0]
    after_separators = int(lengths.items.sum())
    n_chunks = -(-n_rows // config.chunk_rows)
    before = lengths.preamble
    plain = after_separators + n_chunks * before - (0 if before else n_items * len(separator))
    tree = round(core_items * (mean + lengths.label) * (1 + math.log2(max(2, core_items)))) + before
    context = round(config.keep * core_items * (mean + lengths.label)) + before
    after = 0 if whole else n_cores * (after_separators + n_chunks * context)
    n_views = 1 + (0 if whole else n_cores)
    evaluations = BOOTSTRAP_EVALUATIONS if config.preset == "default" else SEARCH_EVALUATIONS
    n_texts, text, search_texts, in_searches = 0, mean, 0, 0.0
    reads_texts = served is None or served.reads_texts
    if reads_texts and not whole and config.asks_for_texts(asked.per_row):
        n_texts = (min(TEXT_ROWS, n_rows - size) + round(config.keep * size)) * len(task.labels)
    if served is not None and reads_texts and config.search_config().uses_channel:
        search_texts = n_cores * 2 * core_items * len(task.labels)  # requests of their own
        if not served.caches_texts:  # whole prompts, of which every other one has demonstrations
            demonstrations = config.keep * core_items
            demonstrations /= max(2, math.ceil(demonstrations / MAX_SHOWN))  # of each context
            text = before + mean + demonstrations * (mean + lengths.label)
            in_searches = search_texts * (before + mean + text) / 2
    prompts = sampled_prompts(len(templates), n_items)
    plan = LabelPlan(
        n_rows=n_rows,
        n_known=0,
        n_duplicates=0,
        n_cores=n_cores,
        core_rows=size,
        template_tokens=round(prompts.n_prompts * mean) + prompts.n_passes * before,
        plain_tokens=plain,
        search_tokens=n_cores * evaluations * tree + round(in_searches),
        texts_tokens=round(n_texts * text),
        core_tokens=after,
        seconds=0.0,
        weight_bytes=0,
        pool_bytes=0,
        row_bytes=n_rows * (80 + 8 * len(task.labels) * (n_views + 6)),
        free_bytes=available_bytes(),
        processors=available_processors(),
        longest_row=int(lengths.items.max()),
        context=limit,
        n_prompts=prompts.n_prompts
        + n_items * n_views
        + n_cores * evaluations * core_items
        + n_texts
        + search_texts,
        n_texts=n_texts + search_texts,
        disk_bytes=4 * n_items * len(task.labels) * n_views + n_rows * (20 + 4 * len(task.labels)),
        preamble_tokens=before,
    )
    return _Counted(plan, context, tree)


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
