"""vLLM in this process: the same prompts, order and checks as for its server, without HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from icm_fast.errors import InputError, first_line, shown
from icm_fast.scoring.servers.address import Reach, is_address, reach_of
from icm_fast.scoring.servers.dialect import ServerFacts, token_key
from icm_fast.scoring.servers.lazy import LazyServer, ServedModel
from icm_fast.scoring.servers.transport import UnusableError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

OPTIONS = "ICM_FAST_VLLM_OPTIONS"
"""Environment variable: further arguments of ``vllm.LLM`` as a JSON object."""

_REQUESTS = 256
"""Prompts in flight, unless the environment says it: no connection is held for each here."""


class LazyEngine(LazyServer):
    """A model that vLLM runs in this process, opened on first use.

    Args:
        model: Hub id, folder, ``.gguf`` file or embedded name.
        dtype: Of the weights; ``auto`` for vLLM's choice.
        tokenizer: See :class:`LazyServer`; by default that of the model.
        reach: How many prompts are in flight; by default as the environment says.

    Raises:
        InputError: The model is the address of a server, or not named.
    """

    def __init__(
        self, model: object, *, dtype: str = "auto", tokenizer: str = "", reach: Reach | None = None
    ) -> None:
        if not isinstance(model, str) or is_address(model):
            raise InputError(
                "engine=vllm runs a model that is named (a hub id or a folder) in this process, "
                f"got {shown(model)}; drop engine, or name a model"
            )
        self.name = model
        self._dtype = dtype
        self._tokenizer = tokenizer
        self._reach = reach or reach_of(default_requests=_REQUESTS)
        self._opened: ServedModel | None = None

    def _open(self) -> ServedModel:
        from icm_fast.model.load import load_tokenizer, model_source
        from icm_fast.scoring.servers.client import Client
        from icm_fast.scoring.servers.verification import check_tokenizer
        from icm_fast.scoring.servers.vllm import VLLM

        source = model_source(self.name)
        name = self._tokenizer or self.name
        tokenizer = load_tokenizer(name)
        engine, longest = _start(source, self._dtype)
        channel = _Channel(engine, self.name)
        dialect = VLLM()
        facts = ServerFacts(
            self.name,
            source,
            max_context=longest - 1,  # one token is generated
            identity={"root": self.name, "dtype": self._dtype},
        )
        client = Client(channel, dialect, facts, self._reach.requests)
        check = check_tokenizer(
            tokenizer,
            name,
            lambda text: dialect.tokenize(channel, facts.model, text),
            lambda text: client.answer(text, ()),
        )
        content = ["vllm in process", facts.model, dict(facts.identity)]
        return ServedModel(
            name=self.name,
            tokenizer=tokenizer,
            fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            max_context=longest - 1,
            client=client,
            probe=client.begin(tokenizer, self.name),
            token_check=check,
        )


def _start(source: str, dtype: str) -> tuple[Any, int]:
    """VLLM's engine, and the longest prompt with its answer in tokens."""
    try:
        from vllm import LLM
    except ImportError as error:
        raise InputError(
            f"engine=vllm needs vLLM in this environment ({first_line(error)}): install it beside "
            "icm-fast in an environment of its own (docs/servers.md), or start its server and pass "
            "the address as the model"
        ) from error
    options = {"dtype": dtype, "seed": 0, "enable_prefix_caching": True, **_options()}
    try:
        engine = LLM(model=source, **options)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if "bootstrapping phase" in str(error):  # of multiprocessing, in the process that it starts
            raise InputError(
                "vLLM starts processes that read the script again: put what it does below "
                '`if __name__ == "__main__":`'
            ) from error
        raise InputError(
            f"vLLM cannot run {source}: {first_line(error)}; check the model and {OPTIONS}"
        ) from error
    return engine, int(engine.llm_engine.model_config.max_model_len)


def _options() -> Mapping[str, object]:
    text = os.environ.get(OPTIONS, "").strip()
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"{OPTIONS} must be a JSON object with arguments of vllm.LLM, such as "
            f'{{"tensor_parallel_size": 2}}, got {shown(text)}'
        )
    return found


class _Channel:
    """Takes requests of any number of threads to the engine, which only one thread may call.

    Everything that waits goes into one call; vLLM splits it into batches.

    Args:
        engine: ``vllm.LLM``.
        name: The model, for messages.
    """

    n_breaks = 0
    """Nothing else can answer in this process."""

    def __init__(self, engine: Any, name: str) -> None:
        self.base = f"vLLM with {name}"
        self._engine = engine
        self._tokenizer: PreTrainedTokenizerBase = engine.get_tokenizer()
        self._waiting: queue.SimpleQueue[tuple[Mapping[str, Any], Future[object]]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._work, name="icm-fast-vllm", daemon=True).start()

    def get(self, path: str) -> object:
        """Nothing: what is known of the engine needs no request."""
        return None

    def get_text(self, path: str) -> str | None:
        """Nothing: answers say what was cached."""
        return None

    def start(self) -> None:
        """Nothing was stopped."""

    def stop(self) -> None:
        """Do nothing: what the engine computes ends by itself."""

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[object], T]) -> T:
        """Answer as vLLM's server would.

        Raises:
            InputError: The engine fails, or its answer cannot be used.
        """
        if path == "/tokenize":
            ids = self._tokenizer.encode(body["prompt"], add_special_tokens=False)
            return read({"tokens": list(ids)})
        answer: Future[object] = Future()
        self._waiting.put((body, answer))
        try:
            return read(answer.result())
        except UnusableError as error:
            raise InputError(f"{self.base} gave an answer that cannot be used: {error}") from None

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            try:
                found = self._generate([body for body, _ in batch])
            except Exception as error:
                reason = InputError(f"{self.base} fails: {first_line(error)}")
                for _, answer in batch:
                    answer.set_exception(reason)
                continue
            for (_, answer), content in zip(batch, found, strict=True):
                answer.set_result(content)

    def _generate(self, bodies: Sequence[Mapping[str, Any]]) -> list[object]:
        from vllm import SamplingParams

        prompts, sampling = [], []
        for body in bodies:
            prompt = body["prompt"]
            ids = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            prompts.append({"prompt_token_ids": list(ids)})
            # Likely and named tokens at once have to be of one number; the named ones do.
            names = ("logprob_token_ids", "prompt_logprobs", "logprobs")
            asked = next({name: body[name]} for name in names if name in body)
            sampling.append(
                SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, **asked)
            )
        return [_completion(o) for o in self._engine.generate(prompts, sampling, use_tqdm=False)]


def _completion(output: Any) -> dict[str, object]:
    """The answer of vLLM's server for an output of its engine."""
    choice: dict[str, object] = {}
    if output.outputs[0].logprobs:
        top = {token_key(t): value for t, value in _by_id(output.outputs[0].logprobs[0]).items()}
        choice["logprobs"] = {"top_logprobs": [top]}
    if output.prompt_logprobs:
        choice["prompt_logprobs"] = [
            row and {str(t): {"logprob": value} for t, value in _by_id(row).items()}
            for row in output.prompt_logprobs
        ]
    usage = {
        "prompt_tokens": len(output.prompt_token_ids),
        "prompt_tokens_details": {"cached_tokens": int(output.num_cached_tokens or 0)},
    }
    return {"choices": [choice], "usage": usage}


def _by_id(found: Mapping[Any, Any]) -> dict[int, float]:
    """Log-probabilities of one place, by token ids."""
    return {int(token): float(entry.logprob) for token, entry in found.items()}
