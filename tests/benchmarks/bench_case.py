"""Tiny cases, and a launcher that runs peers in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.engines.cases import Case, choose_case
from benchmarks.engines.launch import PeerError
from benchmarks.engines.peers.ours import OurSession
from benchmarks.engines.peers.protocol import measure
from benchmarks.engines.peers.transformers_cache import CacheSession
from benchmarks.engines.peers.transformers_naive import NaiveSession
from tiny_models import VOCABULARY

N = 8


def claims_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer for which " True" and " False" are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = "Question: Q1?\nClaim: claim 1\nI think this Claim is"
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{text} True\n\n{text} False\n\n"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def case_on(folder: Path, data: Path, n: int = N, **changes: Any) -> Case:
    """A case of the tests."""
    settings = {"model": str(folder), "task": "truthfulqa", "data": str(data), "n": n}
    return choose_case(None, **(settings | {"dtype": "float32"} | changes))


SESSIONS = {
    "ours": OurSession,
    "ours-int8": OurSession,
    "transformers-naive": NaiveSession,
    "transformers-cache": CacheSession,
}


@dataclass
class LocalLauncher:
    """Runs peers in this process; ``spoil`` changes a result, ``broken`` peers fail."""

    spoil: dict[str, Any]
    broken: tuple[str, ...] = ()
    threads: int = 1

    def __post_init__(self) -> None:
        self.cpus = [0]
        self.runs: list[str] = []

    def check(self, peer: str) -> None:
        """Every peer is in place."""

    def gemm_peak(self, dtype: str) -> float:
        """A machine of one GFLOP per second."""
        return 1e9

    def run(self, peer: str, job: Any) -> dict[str, Any]:
        """Measure, through JSON as between processes."""
        self.runs.append(peer)
        if peer in self.broken:
            raise PeerError("first line\nout of patience")
        job = type(job)(**json.loads(json.dumps(job_fields(job))))
        result = json.loads(json.dumps(measure(SESSIONS[peer](job), job)))
        is_reference = len(self.runs) <= 2
        return result if is_reference else self.spoil.get(peer, lambda found: found)(result)


def job_fields(job: Any) -> dict[str, Any]:
    """Fields of a job as plain types."""
    return {name: getattr(job, name) for name in job.__slots__}
