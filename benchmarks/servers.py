"""Our order of contexts against the natural one on a vLLM server: time and tokens of one U(D).

    make servers
    python -m benchmarks.servers [--n 64] [--output benchmarks/results/servers.json]

Both orders send whole prompts for the same claims and labels, and begin with an empty prefix cache.
Ours is that of :class:`~icm_fast.scoring.servers.scorer.ServerScorer`; in the natural one example i
follows all others in their order, and a prompt is sent once the one before it is in the cache,
which is the best for that order. Compare the times with each other only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.vllm_server import BLOCK_SIZE, PYTHON, vllm_server
from icm_fast.assets.locate import embedded_model
from icm_fast.config import SearchConfig
from icm_fast.engine.progress import Stopwatch
from icm_fast.errors import InputError
from icm_fast.files import write_output
from icm_fast.model.gguf import converted_folder
from icm_fast.plan.pieces import TokenizedDataset, tokenize_dataset
from icm_fast.scoring.models import open_model
from icm_fast.scoring.servers.client import Ask, Client
from icm_fast.scoring.servers.lazy import ServedModel
from icm_fast.scoring.servers.scorer import ServerScorer
from icm_fast.types import Dataset, Example, IntArray, LabelSpace

_NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")
_THINGS = ("apples", "books", "coins", "dogs", "eggs", "flowers", "goats", "hats")


@dataclass(frozen=True, slots=True)
class Measured:
    """One exact U(D) on a server.

    Attributes:
        seconds: From the first request to the last answer.
        sent: Tokens of all prompts.
        computed: Of these, the ones that the server did not find in its prefix cache.
    """

    seconds: float
    sent: int
    computed: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Both orders.

    Attributes:
        n: Number of claims.
        block_size: Tokens of one block of the server's cache.
        planned: Tokens that our plan forwards.
        ours: In our order.
        natural: In the order of the examples.
    """

    n: int
    block_size: int
    planned: int
    ours: Measured
    natural: Measured

    @property
    def times_as_fast(self) -> float:
        """Seconds of the natural order over those of ours."""
        return self.natural.seconds / self.ours.seconds

    def lines(self) -> list[str]:
        """The comparison for people."""
        found = [
            f"{name:8} {m.seconds:8.1f} s  {m.computed:8,} of {m.sent:,} tokens computed"
            for name, m in (("ours", self.ours), ("natural", self.natural))
        ]
        return [
            *found,
            f"n = {self.n}: {self.times_as_fast:.2f} times as fast, "
            f"{self.natural.computed / self.ours.computed:.2f} times fewer tokens, "
            f"{self.ours.computed / self.planned:.3f} times the {self.planned:,} of the plan",
        ]


def claims(n: int, opening: str) -> Dataset:
    """Short claims, each another one, after an opening that no other data set begins with."""
    drawn = np.random.default_rng(0).permutation(len(_NAMES) * len(_THINGS) * 90)[:n]
    examples = []
    for k in drawn.tolist():
        name, thing, count = _NAMES[k % 8], _THINGS[k // 8 % 8], 10 + k // 64
        text = f"{name} counted {count} {thing} on the way home, more than the {96 - k % 83} before"
        examples.append(Example(f"claim-{k}", f"{text}.\nThis claim is"))
    return Dataset(tuple(examples), LabelSpace((" true", " false")), preamble=opening)


def natural_asks(pieces: TokenizedDataset, labels: IntArray) -> list[Ask]:
    """Whole prompts in the order of the examples."""
    wanted = tuple(sorted(ids[0] for ids in pieces.labels))
    prompts = []
    for i in range(len(pieces)):
        others = [j for j in range(len(pieces)) if j != i]
        prompt = pieces.prompt(i, first=not others)
        prompts.append((*pieces.context(others, labels.tolist()), *prompt))
    shared = [0, *(_common(one, other) for one, other in pairwise(prompts))]
    return [Ask(ids, wanted, common) for ids, common in zip(prompts, shared, strict=True)]


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    different = (k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(different, min(len(one), len(other)))


def compare(served: ServedModel, n: int) -> Compared:
    """Measure both orders on a server that nobody else asks."""
    labels = (np.arange(n) % 2).astype(np.int32)
    config = SearchConfig()

    def pieces(order: str) -> TokenizedDataset:
        # Digits at random: nothing of an earlier run is in the cache.
        opening = f"Claims {np.random.default_rng().integers(10**12)}, order {order}."
        return tokenize_dataset(claims(n, opening), served.tokenizer)

    client = served.client
    scorer = ServerScorer(served, pieces("ours"), config)
    planned = scorer.predict_tokens(labels)
    sent = sum(len(scorer.plan(labels).prompt_ids(i)) for i in range(n))
    ours = _measured(client, sent, lambda: scorer.score(labels))
    asks = natural_asks(pieces("natural"), labels)
    sent = sum(len(ask.ids) for ask in asks)
    natural = _measured(client, sent, lambda: client.ask(asks))
    return Compared(n, BLOCK_SIZE, planned, ours, natural)


def _measured(client: Client, sent: int, work: Callable[[], object]) -> Measured:
    hits = _hits(client)
    watch = Stopwatch()
    work()
    return Measured(watch.seconds(), sent, sent - (_hits(client) - hits))


def _hits(client: Client) -> int:
    found = client.dialect.cache_hits(client.transport)
    if found is None:
        raise InputError("the server does not count what its prefix cache holds; use vLLM")
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=64, help="claims; 64 by default")
    parser.add_argument("--output", type=Path, help="a JSON file with all numbers")
    options = parser.parse_args()
    if not PYTHON.is_file():
        raise SystemExit("error: vLLM is not installed; run make servers")
    folder = converted_folder(embedded_model("smollm2"))
    with (
        tempfile.TemporaryDirectory() as scratch,
        vllm_server(folder, Path(scratch) / "log") as address,
    ):
        served = open_model(address, SearchConfig(tokenizer=str(folder))).load()
        compared = compare(served, options.n)
    print("\n".join(compared.lines()))
    if options.output is not None:
        content = asdict(compared) | {"times_as_fast": compared.times_as_fast}
        write_output(options.output, (json.dumps(content, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
