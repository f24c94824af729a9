"""Peer ``ours``: icm_fast's tree scorer, planning included."""

from __future__ import annotations

from typing import Any

import numpy as np

from .protocol import Job, Logits, Prompts, main


class OurSession:
    """The scorer of one data set, with queries in the order of the job's prompts."""

    reuses_prefix = True
    divisible = False
    packages: tuple[str, ...] = ("icm-fast", "torch", "transformers", "numpy")

    def __init__(self, job: Job) -> None:
        import torch

        from icm_fast.config import SearchConfig
        from icm_fast.model import load_model
        from icm_fast.scoring.factory import make_scorer
        from icm_fast.tasks.source import TaskSource

        torch.set_num_threads(job.threads)
        source = job.source
        dataset = TaskSource(**source["task_source"]).load_dataset()
        self._examples = [int(i) for i in source["examples"]]
        self._labels = np.array(source["labels"], np.int32)
        config = SearchConfig(
            seed=source["seed"],
            context_limit=source.get("context_limit", 0),
            int8=bool(job.options.get("int8")),
        )
        self._scorer: Any = make_scorer(load_model(job.model, dtype=job.dtype), dataset, config)
        self.tokens_forwarded: int | None = 0
        self.details: dict[str, Any] = {}
        self._planned = self._check_plan(job.prompts)

    def _check_plan(self, prompts: Prompts) -> int:
        """Tokens planned; fails unless the plan's prompts equal the job's, token by token."""
        plan = self._scorer.plan(self._labels)
        for prompt, i in zip(prompts, self._examples, strict=True):
            if plan.prompt_ids(i) != list(prompt):
                raise RuntimeError(f"the prompt of example {i} is not that of the job")
        return int(plan.n_tokens)

    def reset(self) -> None:
        """Nothing is cached: every score plans and forwards its whole tree."""
        self.tokens_forwarded = 0

    def label_logits(self, prompts: Prompts) -> Logits:
        """Scores of the queries of the job's first prompts; all of them when timed."""
        wanted = self._examples[: len(prompts)]
        queries = np.zeros(len(self._labels), np.bool_)
        queries[wanted] = True
        scored = self._scorer.score(self._labels, queries)
        if queries.all() and scored.n_tokens != self._planned:
            raise RuntimeError(
                f"{scored.n_tokens} tokens were forwarded, {self._planned} planned: not cold"
            )
        self.tokens_forwarded = scored.n_tokens
        self.details["kv_pool_bytes"] = self._scorer.runner.peak_kv_bytes
        return [[float(x) for x in scored.scores[i]] for i in wanted]


if __name__ == "__main__":
    main(OurSession)
