"""HTTP servers in this process that answer like vLLM, SGLang, llama.cpp and OpenAI's completions.

Their scores come from a function of token ids. ``fault`` may spoil any answer.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tiny_models import VOCABULARY, byte_tokenizer

Logprobs = Callable[[Sequence[int]], np.ndarray]
DIALECTS = ("vllm", "sglang", "llama.cpp", "openai")
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llama.cpp": "llamacpp", "openai": "someone"}


def hashed(seed: int = 0, spread: float = 1.5) -> Logprobs:
    """Log-probabilities that depend on every token of the prompt."""

    def logprobs(ids: Sequence[int]) -> np.ndarray:
        digest = hashlib.sha256(np.array([seed, *ids], "<i4").tobytes()).digest()
        rng = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little")))
        logits = spread * rng.normal(size=VOCABULARY)
        return logits - np.logaddexp.reduce(logits)

    return logprobs


def of_model(model: Any) -> Logprobs:
    """Those of a transformers model."""
    import torch

    def logprobs(ids: Sequence[int]) -> np.ndarray:
        with torch.inference_mode():
            logits = model(torch.tensor([list(ids)])).logits[0, -1].double()
        return logits.log_softmax(-1).numpy()

    return logprobs


@dataclass
class State:
    """What a server is made of, and what it was asked."""

    dialect: str
    logprobs: Logprobs
    fault: Callable[[int], str] = lambda number: ""
    key: str = ""
    n_slots: int = 2
    top: int = 20
    max_context: int = 512
    tokenizer: Any = field(default_factory=byte_tokenizer)
    models: tuple[str, ...] = ("fake/model",)
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    n_requests: int = 0
    n_computed: int = 0
    lock: Any = field(default_factory=threading.Lock)
    running: int = 0
    most_running: int = 0

    def cached(self, ids: tuple[int, ...]) -> int:
        """Tokens that an earlier prompt begins with, too; the last one is always computed."""
        best = 0
        for other in self.prompts:
            if other[:best] == ids[:best]:
                while best < min(len(ids), len(other)) and other[best] == ids[best]:
                    best += 1
        return min(best, len(ids) - 1)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 20  # headers and content in one packet
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def state(self) -> State:
        state: State = self.server.state
        return state

    def do_GET(self) -> None:
        state = self.state
        if self._refused():
            return
        if self.path == "/v1/models":
            rows = [
                {
                    "id": name,
                    "owned_by": _OWNERS[state.dialect],
                    "root": name,
                    **({} if state.dialect == "openai" else {"max_model_len": state.max_context}),
                    "meta": {"n_vocab": VOCABULARY, "n_params": 1234567, "size": 99},
                }
                for name in state.models
            ]
            self._send({"object": "list", "data": rows})
        elif self.path == "/props" and state.dialect == "llama.cpp":
            settings = {"n_ctx": state.max_context}
            self._send({"default_generation_settings": settings, "total_slots": state.n_slots})
        elif self.path == "/get_model_info" and state.dialect == "sglang":
            self._send({"model_path": state.models[0], "is_generation": True})
        else:
            self._send({"error": {"message": "File Not Found"}}, 404)

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        if self.path == "/tokenize" and state.dialect != "openai":
            text = body["content" if state.dialect == "llama.cpp" else "prompt"]
            ids = state.tokenizer(text, add_special_tokens=False)["input_ids"]
            self._send({"tokens": ids, "count": len(ids)})
            return
        with state.lock:
            number = state.n_requests
            state.n_requests += 1
            state.running += 1
            state.most_running = max(state.most_running, state.running)
        try:
            self._complete(body, state.fault(number))
        finally:
            with state.lock:
                state.running -= 1

    def _refused(self) -> bool:
        self.state.headers.append(dict(self.headers))
        if self.state.key and self.headers.get("Authorization") != f"Bearer {self.state.key}":
            self._send({"error": {"message": f"bad key {self.headers.get('Authorization')}"}}, 401)
            return True
        return False

    def _complete(self, body: dict[str, Any], fault: str) -> None:
        state = self.state
        prompt = body.get("input_ids") or body.get("prompt") or body.get("text")
        if isinstance(prompt, str):
            prompt = state.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = tuple(prompt)
        if fault in ("429", "500", "503"):
            headers = {"Retry-After": "0.01"} if fault == "429" else {}
            self._send({"error": {"message": "later"}}, int(fault), headers)
            return
        if fault == "reset":  # the connection breaks, as in a restart
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if fault == "slow":  # no answer before the client has given up, however slow that is
            self.connection.settimeout(60)
            self.rfile.read(1)
            self.close_connection = True
            return
        logprobs = state.logprobs(ids)
        with state.lock:
            n_cached = state.cached(ids)
            state.prompts.append(ids)
            state.n_computed += len(ids) - n_cached
        answer = _ANSWERS[state.dialect](state, body, ids, logprobs, n_cached)
        if isinstance(answer, int):
            self._send({"error": {"message": f"logprobs must be at most {state.top}"}}, answer)
            return
        self._send(_spoiled(answer, fault, state.dialect), cut=fault == "truncated")

    def _send(
        self,
        content: Any,
        status: int = 200,
        headers: dict[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        payload = json.dumps(content).encode()
        if cut:
            payload = payload[: len(payload) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)


def _own(state: State, ids: Sequence[int]) -> list[float]:
    """Log-probabilities of a prompt's own tokens; that of the first one tells nothing."""
    return [0.0] + [float(state.logprobs(ids[:k])[ids[k]]) for k in range(1, len(ids))]


def _completions(
    state: State, body: dict[str, Any], ids: Sequence[int], logprobs: np.ndarray, n_cached: int
) -> Any:
    usage = {"prompt_tokens": len(ids), "prompt_tokens_details": {"cached_tokens": n_cached}}
    if "prompt_logprobs" in body:
        assert state.dialect == "vllm"
        assert body["prompt_logprobs"] == 0
        rows = [
            {str(t): {"logprob": v, "rank": 1}} for t, v in zip(ids, _own(state, ids), strict=True)
        ]
        return {"choices": [{"text": "?", "prompt_logprobs": [None, *rows[1:]]}], "usage": usage}
    if body["logprobs"] > state.top:
        return 400
    best = np.argsort(-logprobs)[: body["logprobs"]].tolist()
    if state.dialect == "vllm":
        best = list(dict.fromkeys([*best, *body.get("logprob_token_ids", [])]))
        named = {f"token_id:{t}": float(logprobs[t]) for t in best}
    else:
        named = {state.tokenizer.decode([t]): float(logprobs[t]) for t in reversed(best)}
    return {"choices": [{"text": "?", "logprobs": {"top_logprobs": [named]}}], "usage": usage}


def _generate(
    state: State, body: dict[str, Any], ids: Sequence[int], logprobs: np.ndarray, n_cached: int
) -> Any:
    def rows(tokens: Sequence[int]) -> list[list[Any]]:
        return [[float(logprobs[t]), t, None] for t in tokens]

    assert body["return_logprob"] is True
    start = body["logprob_start_len"]
    meta: dict[str, Any] = {"prompt_tokens": len(ids), "cached_tokens": n_cached}
    if start >= 0:  # the first of these has no log-probability, wherever it is
        own = [None, *_own(state, ids)[start + 1 :]]
        return {
            "text": "?",
            "meta_info": meta
            | {
                "input_token_logprobs": [
                    [v, t, None] for v, t in zip(own, ids[start:], strict=True)
                ]
            },
        }
    meta |= {
        "output_top_logprobs": [rows(np.argsort(-logprobs)[: body["top_logprobs_num"]].tolist())],
        "output_token_ids_logprobs": [rows(body.get("token_ids_logprob", []))],
    }
    return {"text": "?", "meta_info": meta}


def _llama(
    state: State, body: dict[str, Any], ids: Sequence[int], logprobs: np.ndarray, n_cached: int
) -> Any:
    best = np.argsort(-logprobs)[: body["n_probs"]].tolist()
    rows = [{"id": t, "token": "?", "bytes": [], "logprob": float(logprobs[t])} for t in best]
    return {
        "tokens_evaluated": len(ids),
        "timings": {"cache_n": n_cached, "prompt_n": len(ids) - n_cached},
        "completion_probabilities": [{**rows[0], "top_logprobs": rows}],
    }


_ANSWERS = {"vllm": _completions, "openai": _completions, "sglang": _generate, "llama.cpp": _llama}


def _spoiled(answer: Any, fault: str, dialect: str) -> Any:
    """The answer with wrong ids, without ids, with NaN, or for another prompt."""
    if fault not in ("wrong ids", "missing ids", "nan", "positive", "other prompt", "empty"):
        return answer
    if fault == "empty":
        return {}
    if fault == "other prompt":
        for counts, name in (
            (answer.get("usage"), "prompt_tokens"),
            (answer.get("meta_info"), "prompt_tokens"),
            (answer, "tokens_evaluated"),
        ):
            if counts and name in counts:
                counts[name] += 3
        return answer
    if "prompt_logprobs" in answer.get("choices", [{}])[0]:
        rows = answer["choices"][0]["prompt_logprobs"]
        plain = [{int(t): entry["logprob"] for t, entry in (row or {}).items()} for row in rows]
        answer["choices"][0]["prompt_logprobs"] = [
            {str(t): {"logprob": v} for t, v in _spoiled_map(row, fault).items()} for row in plain
        ]
    elif "input_token_logprobs" in answer.get("meta_info", {}):
        first, *rows = answer["meta_info"]["input_token_logprobs"]
        plain = [_spoiled_map({t: v}, fault) for v, t, _ in rows]
        answer["meta_info"]["input_token_logprobs"] = [
            first,
            *([v, t, None] for row in plain for t, v in row.items()),
        ]
    elif dialect in ("vllm", "openai"):
        named = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        answer["choices"][0]["logprobs"]["top_logprobs"][0] = _spoiled_map(named, fault)
    elif dialect == "sglang":
        for name in ("output_top_logprobs", "output_token_ids_logprobs"):
            named = {row[1]: row[0] for row in answer["meta_info"][name][0]}
            spoiled = _spoiled_map(named, fault)
            answer["meta_info"][name][0] = [
                [value, token, None] for token, value in spoiled.items()
            ]
    else:
        position = answer["completion_probabilities"][0]
        named = {row["id"]: row["logprob"] for row in position["top_logprobs"]}
        spoiled = _spoiled_map(named, fault)
        position["top_logprobs"] = [{"id": t, "logprob": value} for t, value in spoiled.items()]
    return answer


def _spoiled_map(named: dict[Any, float], fault: str) -> dict[Any, float]:
    if fault == "nan":
        return dict.fromkeys(named, float("nan"))
    if fault == "positive":
        return {token: -value + 0.5 for token, value in named.items()}
    if fault == "missing ids":
        return {}
    return {
        (t + VOCABULARY if isinstance(t, int) else f"token_id:{90000 + k}"): value
        for k, (t, value) in enumerate(named.items())
    }


@contextmanager
def serve(dialect: str, logprobs: Logprobs, **options: Any) -> Iterator[tuple[str, State]]:
    """Run a server; yields its address and its state."""
    state = State(dialect, logprobs, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
