"""vLLM in the process, with a module of its form: its engine answers from a model of ours."""

import json
import sys
import time
import types

import numpy as np
import pytest

import icm_fast
from fake_servers import hashed, of_model
from icm_fast.cli import run
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.models import open_model
from icm_fast.scoring.servers.in_process import OPTIONS, LazyEngine
from tiny_models import (
    MULTI,
    SINGLE,
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
)


class Sampling:
    def __init__(
        self,
        *,
        max_tokens,
        temperature,
        detokenize,
        logprobs=None,
        logprob_token_ids=None,
        prompt_logprobs=None,
    ):
        assert (max_tokens, temperature, detokenize) == (1, 0.0, False)
        asked = [logprobs, logprob_token_ids, prompt_logprobs]
        assert asked.count(None) == 2, "vLLM takes one of the first two"
        self.logprobs, self.logprob_token_ids, self.prompt_logprobs = asked


class Engine:
    """Like ``vllm.LLM`` 0.32.0, as far as it is used."""

    logprobs = staticmethod(hashed())
    max_model_len = 2048
    spoil = None

    def __init__(self, model, *, dtype, seed, enable_prefix_caching, **options):
        assert enable_prefix_caching
        if "max_model_len" in options:
            raise ValueError("max_model_len is too long")
        self.model, self.options = model, options
        self.llm_engine = types.SimpleNamespace(
            model_config=types.SimpleNamespace(max_model_len=self.max_model_len)
        )
        self.sizes = []
        Engine.last = self

    def get_tokenizer(self):
        return byte_tokenizer(bos=True)

    def generate(self, prompts, sampling, use_tqdm):
        assert use_tqdm is False
        self.sizes.append(len(prompts))
        time.sleep(0.02)  # so that other prompts come and wait
        return [
            self._output(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling, strict=True)
        ]

    def _output(self, ids, sampling):
        output = types.SimpleNamespace(
            outputs=[types.SimpleNamespace(logprobs=None)],
            prompt_token_ids=ids,
            num_cached_tokens=3,
            prompt_logprobs=None,
        )
        if sampling.prompt_logprobs is not None:
            assert sampling.prompt_logprobs == 0
            own = [(t, float(self.logprobs(ids[:k])[t])) for k, t in enumerate(ids) if k]
            rows = [{t: types.SimpleNamespace(logprob=v)} for t, v in own]
            output.prompt_logprobs = [None, *(self.spoil(r) if self.spoil else r for r in rows)]
            return output
        known = self.logprobs(ids)
        tokens = sampling.logprob_token_ids or np.argsort(-known)[: sampling.logprobs].tolist()
        found = {t: types.SimpleNamespace(logprob=float(known[t])) for t in tokens}
        if self.spoil:
            found = self.spoil(found)
        output.outputs[0].logprobs = [found]
        return output


@pytest.fixture
def vllm(monkeypatch):
    """The class of the engine, to be changed."""

    class Own(Engine):
        pass

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = Own, Sampling
    monkeypatch.setitem(sys.modules, "vllm", module)
    return Own


@pytest.fixture
def folder(tmp_path):
    tiny = tiny_loaded("llama", bos=True, max_position_embeddings=2048)
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("labels", [SINGLE, MULTI])
def test_scores_are_those_of_naive(vllm, folder, labels):
    tiny = tiny_loaded("llama", bos=True, max_position_embeddings=2048)
    vllm.logprobs = staticmethod(of_model(tiny.model))
    dataset = reviews(labels)
    state = mixed_labels(dataset)
    config = SearchConfig(engine="vllm", dtype="float32", normalize="vocabulary")
    served = open_model(folder, config).load()
    there = make_scorer(served, dataset, config).score(state)
    here = icm_fast.leave_one_out(
        dataset, state, model=tiny, config=SearchConfig(scorer="naive", normalize="vocabulary")
    )
    assert np.abs(there.scores - here).max() <= 1e-4
    assert served.computation == "vllm"
    assert served.token_check.by_ids
    assert max(Engine.last.sizes) > 1, "prompts that wait go into one call"


def test_search_and_label_by_the_command(vllm, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vllm, "max_model_len", 100_000)
    common = ["--model", folder, "--engine", "vllm"]
    command = ["search", "larger-than", "--limit", "6", "--set", "max_evaluations=2", "-o", "run"]
    assert run([*command, *common, "--progress", "none"]) == 0
    assert "engine: vllm" in (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "table.csv").write_text("text\n" + "".join(f"row {k}\n" for k in range(6)))
    command = ["label", "table.csv", "--text", "text", "--labels", "good,bad", "--set", "cores=1"]
    assert run([*command, *common, "--template", "Text: {text}\nLabel:", "--progress", "none"]) == 0
    capsys.readouterr()
    assert run(["doctor", "larger-than", "--limit", "6", *common, "--json"]) == 0
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["server"]["fields"]["server"] == "vllm"


def test_another_engine_in_a_resumed_run_is_found(vllm, folder, tmp_path):
    dataset, output = reviews(), tmp_path / "run"
    config = SearchConfig(engine="vllm", max_evaluations=2)
    icm_fast.search(dataset, model=folder, config=config, output_dir=output)
    (output / "summary.json").unlink()
    (output / "evaluations.bin").unlink()
    vllm.logprobs = staticmethod(hashed(seed=1))
    with pytest.raises(InputError, match="another model"):
        icm_fast.search(dataset, model=folder, config=config, output_dir=output)


def test_a_script_without_a_guard_is_told(vllm, folder):
    def again(self, *args, **kwargs):
        raise RuntimeError("\n  An attempt ... has finished its bootstrapping phase.\n")

    vllm.__init__ = again
    with pytest.raises(InputError, match='if __name__ == "__main__"'):
        LazyEngine(folder).load()


def test_answers_that_are_no_scores(vllm, folder):
    client = LazyEngine(folder).load().client
    for spoil, message in (
        (lambda found: {}, "cannot be used"),
        (lambda found: {t + 1: v for t, v in found.items()}, "was asked for by its id"),
        (lambda found: {t: types.SimpleNamespace(logprob=np.nan) for t in found}, "probability"),
        (lambda found: 1 / 0, "fails: division by zero"),
    ):
        Engine.last.spoil = spoil
        with pytest.raises(InputError, match=message):
            client.answer((5, 6), (7,))


def test_without_vllm_one_line_says_what_to_do(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"engine=vllm needs vLLM in this environment .*address"):
        LazyEngine(folder).load()


def test_options_of_the_engine(vllm, folder, monkeypatch):
    monkeypatch.setenv(OPTIONS, '{"tensor_parallel_size": 2}')
    LazyEngine(folder).load()
    assert Engine.last.options == {"tensor_parallel_size": 2}
    for text, message in (
        ("[1]", "must be a JSON object"),
        ("{", "must be a JSON object"),
        ('{"max_model_len": 1}', "vLLM cannot run .*: max_model_len is too long"),
    ):
        monkeypatch.setenv(OPTIONS, text)
        with pytest.raises(InputError, match=message):
            LazyEngine(folder).load()


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("http://localhost:1", {}, "drop engine, or name a model"),
        (("model", "tokenizer"), {}, "drop engine, or name a model"),
        ("smollm2", {"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
        ("smollm2", {"server": "sglang"}, "does not go with engine=vllm; drop server"),
    ],
)
def test_what_does_not_go_together(model, settings, message):
    with pytest.raises(InputError, match=message):
        open_model(model, SearchConfig(engine="vllm", **settings))
