"""Real servers: ``make test-servers`` opens llama.cpp's; one of vLLM is used where there is one.

The scores of SmolLM2 there equal those of the naive scorer here, on the same orders.
"""

import os
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import icm_fast
from icm_fast.assets.locate import embedded_model
from icm_fast.config import SearchConfig
from icm_fast.engine.doctor import diagnose
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.models import open_model
from icm_fast.types import Dataset, LabelSpace

LLAMA = "ICM_FAST_LLAMA_CPP"
"""Environment variable: the interpreter of an environment with xllamacpp."""

VLLM = "ICM_FAST_VLLM"
"""Environment variable: the address of a vLLM server with SmolLM2."""

pytestmark = pytest.mark.model
HERE = Path(__file__).resolve().parent


def in_float32(source, target):
    """The weights as they are here: llama.cpp would round activations before 4-bit products."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, content in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind, *inner = content.types
        writer.add_key_value(name, content.contents(), kind, inner[-1] if inner else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def llama_server(model):
    child = subprocess.Popen(
        [os.environ[LLAMA], str(HERE / "llama_server.py"), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield child.stdout.readline().strip()
    finally:
        child.stdin.close()
        child.stdout.close()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@pytest.fixture(scope="module", params=["llama.cpp", "vllm"])
def server(request, tmp_path_factory):
    if request.param == "vllm":
        if VLLM not in os.environ:
            pytest.skip(f"{VLLM} does not name a server")
        yield request.param, os.environ[VLLM]
        return
    if LLAMA not in os.environ:
        pytest.skip("make test-servers runs it")
    model = tmp_path_factory.mktemp("model") / "smollm2-f32.gguf"
    in_float32(embedded_model("smollm2"), model)
    with llama_server(model) as address:
        yield request.param, address


def data(labels=(" positive", " negative"), n=8):
    rows, _ = icm_fast.load_task("movie-sentiment", limit=n, seed=0)
    return Dataset(rows.examples, LabelSpace(labels), (), "reviews")


@pytest.mark.parametrize("labels", [(" positive", " negative"), (" very good", " very bad", " so")])
def test_scores_equal_those_of_naive(server, labels, smollm2):
    _, address = server
    dataset = data(labels)
    state = (np.arange(len(dataset)) % len(labels)).astype(np.int32)
    config = SearchConfig(tokenizer="smollm2", dtype="float32")
    scorer = make_scorer(open_model(address, config).load(), dataset, config)
    there = scorer.score(state)
    here = make_scorer(smollm2, dataset, replace(config, scorer="naive")).score(state)
    apart = np.abs(there.scores - here.scores)
    median, most = np.median(apart), apart.max()
    print(f"\n{server[0]}, {len(labels)} labels: median {median:.2g}, maximum {most:.2g}")
    assert median <= 1e-2
    assert most <= 1e-1
    assert there.n_tokens == scorer.plan(state).n_tokens


def test_its_cache_computes_what_the_plan_says(server):
    """By the server's own counts, over all prompts of one labelling."""
    _, address = server
    dataset = data(n=10)
    state = (np.arange(len(dataset)) % 2).astype(np.int32)
    config = SearchConfig(tokenizer="smollm2", seed=7)
    served = open_model(address, config).load()
    scorer = make_scorer(served, dataset, config)
    counted = []
    client = served.client
    post = client.dialect.read

    def read(content, wanted):
        answer = post(content, wanted)
        counted.append(answer.n_computed)
        return answer

    client.dialect.read = read
    hits = client.dialect.cache_hits(client.transport)
    scorer.score(state)
    plan = scorer.plan(state)
    if hits is None:
        computed = sum(counted)
    else:
        sent = sum(len(plan.prompt_ids(i)) for i in range(len(dataset)))
        computed = sent - (client.dialect.cache_hits(client.transport) - hits)
    natural = sum(len(plan.prompt_ids(i)) for i in range(len(dataset)))
    print(f"\n{server[0]}: {computed} tokens computed, {plan.n_tokens} planned, {natural} sent")
    assert computed <= 1.15 * plan.n_tokens


def test_search_and_label_end_to_end(server, tmp_path):
    _, address = server
    dataset = data()
    config = SearchConfig(tokenizer="smollm2", max_evaluations=4)
    result = icm_fast.search(dataset, model=address, config=config, output_dir=tmp_path / "run")
    assert (result.labels >= 0).all()
    again = icm_fast.search(dataset, model=address, config=config, output_dir=tmp_path / "run")
    assert np.array_equal(result.labels, again.labels)
    rows = [{"text": example.prompt.split("\n")[0]} for example in dataset.examples]
    labelled = icm_fast.label(
        rows,
        text="text",
        labels=["positive", "negative"],
        model=address,
        config=icm_fast.LabelConfig(tokenizer="smollm2", cores=1, core_size=6),
    )
    assert {row["label"] for row in labelled} <= {"positive", "negative"}
    assert len(labelled) == len(dataset)


def test_doctor_says_what_it_supports(server):
    name, address = server
    config = SearchConfig(tokenizer="smollm2")
    findings = {f.check: f for f in diagnose(data, open_model(address, config), config)}
    for finding in findings.values():
        print(f"\n{finding.state:4} {finding.check}: {finding.detail}", end="")
    assert all(finding.passed for finding in findings.values())
    assert findings["server"].fields["server"] == name
    assert findings["prefix cache"].state == "ok"


@pytest.mark.parametrize("word", [" xylophone", " zebras"])
def test_unlikely_labels_are_found(server, word, smollm2):
    """llama.cpp returns the most likely tokens only, so their number is doubled."""
    _, address = server
    dataset = data((" positive", word), n=4)
    state = np.array([0, 1, -1, 0], np.int32)
    config = SearchConfig(tokenizer="smollm2", dtype="float32", normalize="vocabulary")
    there = make_scorer(open_model(address, config).load(), dataset, config).score(state).scores
    here = make_scorer(smollm2, dataset, config).score(state).scores
    assert np.abs(there - here).max() <= 0.2
