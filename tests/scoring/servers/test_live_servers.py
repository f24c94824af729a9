"""Real servers: the scores there equal those of the naive scorer here, on the same orders.

llama.cpp's server comes with the wheel xllamacpp. By itself this file runs it with two layers of
SmolLM2; ``make test-servers`` runs it with all of them, and vLLM's server where ``make servers``
has installed it.
"""

import csv
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_models import FEW_LAYERS, write_float32
from text_reference import expected_texts

from benchmarks.servers import compare
from benchmarks.vllm_server import BLOCK_SIZE, IN_PROCESS, vllm_server, vllm_variables
from benchmarks.vllm_server import PYTHON as VLLM_PYTHON
from icm_fast.assets.locate import embedded_model
from icm_fast.cli import run
from icm_fast.config import SearchConfig
from icm_fast.model import load_model
from icm_fast.model.gguf import converted_folder
from icm_fast.scoring.factory import make_scorer, make_text_scorer
from icm_fast.scoring.models import open_model, reads_texts
from icm_fast.scoring.servers.in_process import OPTIONS
from tiny_models import MULTI, PREFIX, REVIEWS, SINGLE, mixed_labels, reviews

LIVE = "ICM_FAST_LIVE_SERVERS"
"""Environment variable: set by ``make test-servers``, which may take minutes."""

LABELS = {"single": SINGLE, "multi": MULTI, "prefix": PREFIX}
COMMON = {
    "single": (" a", " and"),
    "multi": (" a one", " a other", " and so"),
    "prefix": (" a", " a one", " and"),
}
TEMPLATE = "Review: {text}\nSentiment:"

pytestmark = pytest.mark.model
HERE = Path(__file__).resolve().parent


@dataclass
class Live:
    """A server that runs, and the same weights here.

    ``folder`` holds them, ``local`` is the model in float32, ``few`` says that it has few layers.
    """

    kind: str
    address: str
    folder: str
    local: Any
    few: bool = False

    def labels(self, kind="single"):
        """Labels that are not too unlikely: llama.cpp returns the most likely tokens only."""
        return (COMMON if self.few else LABELS)[kind]

    def config(self, **settings):
        return SearchConfig(tokenizer=self.folder, **settings)

    def scorer(self, dataset, **settings):
        config = self.config(**settings)
        return make_scorer(open_model(self.address, config).load(), dataset, config)

    def naive(self, dataset, **settings):
        config = replace(self.config(**settings), scorer="naive")
        return make_scorer(self.local, dataset, config)

    def flags(self):
        return ["--model", self.address, "--tokenizer", self.folder]

    def local_flags(self):
        return ["--model", self.folder, "--set", "dtype=float32"]


@contextmanager
def llama_server(model):
    child = subprocess.Popen(
        [sys.executable, str(HERE / "llama_server.py"), str(model)],
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


@pytest.fixture(scope="module", params=["llama.cpp, few layers", "llama.cpp", "vllm"])
def live(request, tmp_path_factory):
    kind, few = request.param.partition(",")[::2]
    if not few and LIVE not in os.environ:
        pytest.skip("make test-servers runs it")
    scratch = tmp_path_factory.mktemp("live")
    whole = embedded_model("smollm2")
    if kind == "vllm":
        if not VLLM_PYTHON.is_file():
            pytest.skip("make servers installs vLLM")
        folder = converted_folder(whole)
        with vllm_server(folder, scratch / "vllm.log") as address:
            yield Live(kind, address, str(folder), request.getfixturevalue("smollm2"))
        return
    if find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install xllamacpp")
    weights = scratch / "float32.gguf"
    write_float32(whole, weights, FEW_LAYERS if few else None)
    with pytest.MonkeyPatch.context() as patch:
        if few:  # the cache is for models that come again
            patch.setenv("ICM_FAST_CACHE", str(scratch / "cache"))
        folder = converted_folder(weights if few else whole)
    local = load_model(str(folder), dtype="float32", device="cpu")
    with llama_server(weights) as address:
        yield Live(kind, address, str(folder), local, few=bool(few))


@pytest.mark.parametrize(
    ("kind", "normalize"), [("single", "labels"), ("multi", "labels"), ("prefix", "vocabulary")]
)
def test_scores_equal_those_of_naive(live, kind, normalize):
    dataset = reviews(live.labels(kind))
    state = mixed_labels(dataset)
    scorer = live.scorer(dataset, normalize=normalize)
    there = scorer.score(state)
    here = live.naive(dataset, normalize=normalize).score(state)
    apart = np.abs(there.scores - here.scores)
    print(f"\n{live.kind}, {kind} labels: median {np.median(apart):.2g}, maximum {apart.max():.2g}")
    assert apart.max() <= 1e-3
    assert there.n_tokens == scorer.plan(state).n_tokens


def test_its_cache_computes_what_the_plan_says(live):
    """By the server's own counts, over all prompts of one labelling."""
    if live.kind == "vllm":
        pytest.skip("its blocks are as long as these demonstrations; 64 claims are measured below")
    dataset = reviews(live.labels())
    state = mixed_labels(dataset, unlabelled=())
    scorer = live.scorer(dataset, seed=7)
    client = scorer._served.client
    counted = []
    read = client.dialect.read

    def counting(content, wanted):
        answer = read(content, wanted)
        counted.append(answer.n_computed)
        return answer

    client.dialect.read = counting
    scorer.score(state)
    plan = scorer.plan(state)
    sent = sum(len(plan.prompt_ids(i)) for i in range(len(dataset)))
    computed = sum(counted[: len(dataset)])
    print(f"\n{live.kind}: {computed} tokens computed, {plan.n_tokens} planned, {sent} sent")
    assert computed <= 1.15 * plan.n_tokens


def test_unlikely_labels_are_found(live):
    """llama.cpp returns the most likely tokens only, so their number is doubled."""
    dataset = reviews((live.labels()[0], " zebras"), n=2)
    state = np.array([0, 1], np.int32)
    there = live.scorer(dataset, normalize="vocabulary").score(state).scores
    here = live.naive(dataset, normalize="vocabulary").score(state).scores
    assert np.abs(there - here).max() <= 1e-2


def test_texts_are_those_of_the_weights(live):
    """Where the server tells how probable a text is; the others say that they do not."""
    dataset = reviews(live.labels())
    model = open_model(live.address, live.config())
    assert reads_texts(model) is (live.kind == "vllm")
    if live.kind != "vllm":
        return
    scorer = make_text_scorer(model.load(), dataset, live.config())
    for state in (np.full(len(dataset), -1, np.int32), mixed_labels(dataset)):
        there = scorer.score_texts(state)
        here = expected_texts(live.local.model, dataset, scorer.plan(state))
        apart = np.abs(there.scores - here)
        print(f"\n{live.kind}, texts: median {np.median(apart):.2g}, maximum {apart.max():.2g}")
        assert apart.max() <= 1e-3
        assert there.n_tokens == scorer.predict_text_tokens(state)


@pytest.fixture
def table(live, tmp_path, monkeypatch):
    """A folder with a table and the description of a task on it."""
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in REVIEWS))
    task = {
        "data": "table.csv",
        "template": TEMPLATE,
        "labels": [label.strip() for label in live.labels()],
    }
    Path("task.yaml").write_text(json.dumps(task))


def rows_of(name):
    return list(csv.DictReader(Path(name).read_text().splitlines()))


def lines_of(folder):
    return [json.loads(line) for line in Path(folder, "labels.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("table")
def test_label_gives_what_the_same_weights_give_here(live):
    command = ["label", "table.csv", "--text", "text", "--template", TEMPLATE]
    command += ["--labels", ",".join(label.strip() for label in live.labels())]
    # Texts after labels are compared above: a server counts a token among the whole vocabulary.
    command += ["--set", "core_size=4", "--set", "cores=1", "--set", "channel=false"]
    command += ["--progress", "none"]
    assert run([*command, *live.flags(), "-o", "there.csv", "--folder", "a"]) == 0
    assert run([*command, *live.local_flags(), "-o", "here.csv", "--folder", "b"]) == 0
    there, here = rows_of("there.csv"), rows_of("here.csv")
    assert len(there) == len(REVIEWS)
    for one, other in zip(there, here, strict=True):
        assert one["label"] == other["label"]
        assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=5e-3)


@pytest.mark.usefixtures("table")
def test_search_gives_what_the_same_weights_give_here(live):
    command = ["search", "custom", "task.yaml", "--progress", "none"]
    # Texts after labels are compared above: a server counts a token among the whole vocabulary.
    command += ["--set", "max_evaluations=3", "--set", "channel=false", "--seed", "1"]
    assert run([*command, *live.flags(), "-o", "there"]) == 0
    assert run([*command, *live.local_flags(), "-o", "here"]) == 0
    there, here = lines_of("there"), lines_of("here")
    assert len(there) == len(REVIEWS)
    assert [row["label"] for row in there] == [row["label"] for row in here]


@pytest.mark.usefixtures("table")
def test_doctor_says_what_it_supports(live, capsys):
    command = ["doctor", "custom", "task.yaml", "--json", *live.flags()]
    assert run(command) == 0
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert {finding["state"] for finding in findings.values()} <= {"ok", "note"}
    assert findings["server"]["fields"]["server"] == live.kind
    assert findings["tokenizer"]["fields"]["by_ids"] is True
    assert findings["known answer"]["state"] == "ok"
    assert findings["prefix cache"]["state"] == "ok"
    assert findings["cost"]["fields"]["seconds"] > 0


def test_our_order_is_three_times_as_fast_on_vllm_s_server(live):
    """One exact U(D) of 64 claims; minutes."""
    if live.kind != "vllm":
        pytest.skip("measured on vLLM's server")
    compared = compare(open_model(live.address, live.config()).load(), 64)
    print("", *compared.lines(), sep="\n")
    assert compared.ours.computed <= 1.15 * compared.planned
    assert compared.natural.computed >= 3 * compared.ours.computed
    assert compared.times_as_fast >= 3


@pytest.mark.skipif(LIVE not in os.environ, reason="make test-servers runs it")
def test_vllm_in_the_process_scores_like_naive(smollm2):
    if not IN_PROCESS.is_file():
        pytest.skip("make servers installs vLLM with icm-fast beside it")
    tables = [reviews(labels) for labels in (SINGLE, MULTI, PREFIX)]
    states = [mixed_labels(table) for table in tables]
    asked = [
        [[example.prompt for example in table.examples], list(table.label_space), state.tolist()]
        for table, state in zip(tables, states, strict=True)
    ]
    folder = converted_folder(embedded_model("smollm2"))
    options = {"enforce_eager": True, "block_size": BLOCK_SIZE, "max_model_len": 4096}
    done = subprocess.run(
        [str(VLLM_PYTHON), str(HERE / "in_process_scores.py"), str(folder)],
        input=json.dumps(asked),
        env=os.environ | vllm_variables() | {OPTIONS: json.dumps(options)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(row for row in done.stdout.splitlines() if row.startswith("[[")))
    config = SearchConfig(scorer="naive", normalize="vocabulary")
    for table, state, (scores, n_tokens, texts) in zip(tables, states, found, strict=True):
        here = make_scorer(smollm2, table, config).score(state).scores
        apart = np.abs(np.array(scores, np.float32) - here)
        print(f"\nvllm in the process: median {np.median(apart):.2g}, maximum {apart.max():.2g}")
        assert apart.max() <= 1e-3
        assert n_tokens > 0
        plan = make_text_scorer(smollm2, table, SearchConfig()).plan(state)
        told = expected_texts(smollm2.model, table, plan)
        assert np.abs(np.array(texts, np.float32) - told).max() <= 1e-3
