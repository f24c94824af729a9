"""The token ids of a case, the same for every peer, in two orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.engines.cases import Case, balanced_labels
from benchmarks.engines.peers.protocol import Job
from benchmarks.engines.random_model import model_folder
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError, first_line
from icm_fast.plan.leave_one_out import LeaveOneOutPlan, plan_pieces
from icm_fast.types import Dataset, IntArray

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

ORDERS = ("ours", "natural")


@dataclass(frozen=True, slots=True)
class OrderedPrompts:
    """One prompt per example, in the order in which they are sent.

    Attributes:
        order: ``ours`` (contexts of the plan, depth-first) or ``natural`` (ascending contexts).
        examples: Example of each prompt.
        prompts: Token ids of each prompt, which ends right before the label.
    """

    order: str
    examples: list[int]
    prompts: list[list[int]]

    def rows(self, chosen: Sequence[int]) -> list[list[int]]:
        """The prompts at some positions."""
        return [self.prompts[k] for k in chosen]


@dataclass(frozen=True, slots=True)
class Workload:
    """A case that is ready to be measured.

    Attributes:
        case: The case.
        folder: Folder (or hub id) of the model.
        dtype: ``bfloat16`` or ``float32``, decided for this machine.
        config: Configuration of the model.
        plan: The leave-one-out plan.
        label_ids: The token of each label.
        context_limit: Longest context; 0 for the model's own.
    """

    case: Case
    folder: str
    dtype: str
    config: PretrainedConfig
    plan: LeaveOneOutPlan
    label_ids: list[int]
    context_limit: int = 0

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.plan.labels)

    def ordered(self, order: str) -> OrderedPrompts:
        """The prompts in one of ``ORDERS``."""
        if order == "natural":
            examples = list(range(self.n))
            return OrderedPrompts(order, examples, [self._natural(i) for i in examples])
        examples = depth_first_queries(self.plan)
        return OrderedPrompts(order, examples, [self.plan.prompt_ids(i) for i in examples])

    def _natural(self, example: int) -> list[int]:
        others = [j for j in range(self.n) if j != example]
        pieces = self.plan.pieces
        prompt = pieces.prompt(example, first=not others)
        return pieces.context(others, self.plan.labels.tolist()) + list(prompt)

    def job(self, ordered: OrderedPrompts, **settings: Any) -> Job:
        """A job over all prompts; ``settings`` are fields of :class:`Job`."""
        content: dict[str, Any] = {
            "prompts": ordered.prompts,
            "label_ids": self.label_ids,
            "model": self.folder,
            "dtype": self.dtype,
            "source": self._source(ordered),
        }
        return Job(**(content | settings))

    def _source(self, ordered: OrderedPrompts) -> dict[str, Any]:
        return {
            "task_source": {**self.case.source.to_dict(), "seed": self.case.seed},
            "labels": self.plan.labels.tolist(),
            "examples": ordered.examples,
            "seed": self.case.seed,
            "context_limit": self.context_limit,
        }


def make_workload(case: Case) -> Workload:
    """Load the data, tokenize and plan; no weights are read.

    Raises:
        InputError: Data or model can't be read, a label has several tokens, or the contexts
            exceed the model's length.
    """
    from icm_fast.scoring.factory import check_context

    dataset = case.source.load_dataset()
    folder = model_folder(case.model)
    config, tokenizer = _read_model(case.model, folder)
    labels = balanced_labels(len(dataset), len(dataset.label_space), case.seed)
    plan = _plan(case, dataset, tokenizer, labels)
    check_context(plan.pieces, int(config.max_position_embeddings))
    return Workload(case, folder, _dtype(case), config, plan, _label_ids(dataset, plan))


def _read_model(name: str, folder: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return config.get_text_config(decoder=True), AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"cannot read model {name!r}: {first_line(error)}; pass a hub id, a folder, a .gguf "
            "file, smollm2, gemma3-270m or qwen-shape"
        ) from error


def _dtype(case: Case) -> str:
    from icm_fast.model.hardware import fast_bfloat16

    if case.dtype != "auto":
        return case.dtype
    return "bfloat16" if fast_bfloat16() else "float32"


def _plan(
    case: Case, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, labels: IntArray
) -> LeaveOneOutPlan:
    from icm_fast.plan.pieces import tokenize_dataset

    pieces = tokenize_dataset(dataset, tokenizer)
    return plan_pieces(pieces, labels, ((), ()), SearchConfig(seed=case.seed))


def _label_ids(dataset: Dataset, plan: LeaveOneOutPlan) -> list[int]:
    for text, ids in zip(dataset.label_space, plan.pieces.labels, strict=True):
        if len(ids) != 1:
            raise InputError(
                f"label {text!r} has {len(ids)} tokens, but the peers score the next token only; "
                "use a task whose labels are single tokens of this model"
            )
    return [ids[0] for ids in plan.pieces.labels]


def depth_first_queries(plan: LeaveOneOutPlan) -> list[int]:
    """Examples in the order in which a depth-first walk of the tree meets their prompts."""
    tree = plan.tree
    children: dict[int, list[int]] = {}
    for segment, parent in enumerate(tree.parent.tolist()):
        children.setdefault(parent, []).append(segment)
    found: list[int] = []
    waiting = children.get(-1, [])[::-1]
    while waiting:
        segment = waiting.pop()
        if tree.query[segment] >= 0:
            found.append(int(tree.query[segment]))
        waiting += children.get(segment, [])[::-1]
    assert sorted(found) == np.flatnonzero(plan.queries).tolist()
    return found
