"""The commands with the address of a server in place of a model."""

import csv
import json
from dataclasses import replace

import pytest

from fake_servers import hashed, of_model, serve
from icm_fast.cli import run
from icm_fast.experiments.experiment import Column, Experiment
from icm_fast.experiments.run import run_experiment
from icm_fast.identity import SERVER_TEXTS
from icm_fast.scoring.servers.lazy import LazyServer, ServedModel
from tiny_models import byte_tokenizer, one_thread, tiny_model  # noqa: F401

ROOMY = {"max_context": 100_000}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ICM_FAST_TIMEOUT", "60")
    monkeypatch.setenv("ICM_FAST_PATIENCE", "1")
    monkeypatch.delenv("ICM_FAST_ALLOW_HTTP", raising=False)
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def on(address):
    return ["--model", address, "--tokenizer", "tokenizer"]


def test_search_then_evaluate(here, capsys):
    with serve("vllm", hashed(), **ROOMY) as (address, state):
        command = ["search", "larger-than", *on(f"{address}/v1"), "--limit", "8", "-o", "run"]
        assert run([*command, "--set", "max_evaluations=3", "--progress", "none"]) == 0
        asked = state.n_requests
        assert run([*command, "--set", "max_evaluations=3", "--progress", "none"]) == 0
        assert state.n_requests == asked, "a finished run asked the server"
        capsys.readouterr()
        assert run(["evaluate", "run", "run", "--n-test", "8"]) == 0
    assert "zero-shot" in capsys.readouterr().out
    assert "tokenizer: tokenizer" in (here / "run" / "config.yaml").read_text()
    stored = json.loads((here / "run" / "evaluation.json").read_text())
    assert stored["model"] == f"{address}/v1"


def test_label_on_a_server_gives_what_the_same_weights_give_here(here):
    rows = "text\n" + "".join(f"row {k} is {'fine' if k % 3 else 'bad'}\n" for k in range(20))
    (here / "table.csv").write_text(rows)
    model = tiny_model("llama", max_position_embeddings=4096)
    (here / "model").mkdir()
    model.save_pretrained(here / "model")
    byte_tokenizer().save_pretrained(here / "model")
    common = ["label", "table.csv", "--text", "text", "--labels", "good,bad", "--progress", "none"]
    common += ["--template", "Text: {text}\nLabel:", "--set", "core_size=6", "--set", "cores=2"]
    local = ["--model", "model", "--set", "dtype=float32", "--set", "channel=false"]
    assert run([*common, *local, "-o", "here.csv", "--folder", "a"]) == 0
    with serve("llama.cpp", of_model(model), max_context=4097) as (address, _):
        assert run([*common, *on(address), "-o", "there.csv", "--folder", "b"]) == 0
        assert run([*common, *on(address), "-o", "again.csv", "--folder", "b"]) == 0
    tables = [
        list(csv.DictReader((here / f"{n}.csv").read_text().splitlines()))
        for n in ("here", "there", "again")
    ]
    assert tables[1] == tables[2]
    assert len(tables[0]) == 20
    for one, other in zip(tables[0], tables[1], strict=True):
        assert (one["label"], one["decided_by"]) == (other["label"], other["decided_by"])
        assert abs(float(one["confidence"]) - float(other["confidence"])) <= 2e-3


@pytest.mark.parametrize(
    ("labels", "each", "texts", "instruction"),
    [
        ("good,bad", 1, False, ""),
        ("good,good enough,bad", 4, False, ""),
        ("good,bad", 1, True, ""),
        ("good,good enough,bad", 4, True, ""),
        ("good,bad", 1, True, "Read each text with care. " * 40),
    ],
)
def test_the_plan_of_a_labelling(here, capsys, labels, each, texts, instruction):
    """Tokens as for weights here; requests as a run sends them."""
    rows = "".join(f"row {k} is {'fine' if k % 3 else 'bad'}\n" for k in range(20))
    (here / "table.csv").write_text("text\n" + rows)
    command = ["label", "table.csv", "--text", "text", "--labels", labels]
    command += ["--template", "Text: {text}\nLabel:", "--set", "core_size=6", "--set", "cores=2"]
    model = tiny_model("llama", max_position_embeddings=99_999)
    model.save_pretrained(here / "model")
    byte_tokenizer().save_pretrained(here / "model")
    command += ["--instruction", instruction] if instruction else []
    if not texts:
        command += ["--set", "channel=false"]
    assert run([*command, "--model", "model", "--plan", "--json"]) == 0
    local = json.loads(capsys.readouterr().out)
    with serve("vllm", hashed(), **ROOMY) as (address, state):
        assert run([*command, *on(address), "--plan", "--json"]) == 0
        asked = state.n_requests
        there = json.loads(capsys.readouterr().out)
        assert run([*command, *on(address), "--plan"]) == 0
        text = capsys.readouterr().out
        before = state.n_requests
        assert run([*command, *on(address), "--folder", "run", "--progress", "none"]) == 0
        sent = state.n_requests - before
    assert asked < 40, "a plan asks for a few prompts only"
    counted = ["n_rows", "plain_tokens", "core_tokens"]
    if not texts:
        counted += ["n_tokens", "n_prompts", "search_tokens"]
    assert {name: there[name] for name in counted} == {name: local[name] for name in counted}
    spent = json.loads((here / "run" / "summary.json").read_text())["n_tokens_forwarded"]
    assert 0.5 * spent <= there["n_tokens"] <= 2 * spent, (spent, there["n_tokens"])
    assert local["server"] is None
    assert there["server"]["requests_per_prompt"] == each
    rate = there["server"]["tokens_per_second"]
    assert there["seconds"] == pytest.approx(there["n_tokens"] / rate)
    n_texts = there["n_texts"]
    assert (n_texts > 0) is texts
    assert there["n_requests"] == each * (there["n_prompts"] - n_texts) + n_texts
    assert 0.5 * sent <= there["n_requests"] <= 2 * sent
    assert "tokens per second, measured on 16 prompts" in text
    assert f"server     vllm, about {there['n_requests']:,} requests" in text


@pytest.mark.parametrize("dialect", ["llama.cpp", "vllm"])
def test_a_labelling_from_before_servers_were_asked_for_texts(here, dialect, monkeypatch):
    """Its scores of labels stay; only the searches ask for texts where the server tells them."""
    rows = "text\n" + "".join(f"row {k} is {'fine' if k % 3 else 'bad'}\n" for k in range(30))
    (here / "table.csv").write_text(rows)
    command = ["label", "table.csv", "--text", "text", "--labels", "good,bad", "--folder", "run"]
    command += ["--template", "Text: {text}\nLabel:", "--progress", "none"]
    command += ["--set", "core_size=8", "--set", "cores=2"]
    own = LazyServer.identity

    def former(server):
        identity = own(server)
        return replace(identity, more={k: v for k, v in identity.more.items() if k != SERVER_TEXTS})

    with serve(dialect, hashed(), **ROOMY) as (address, state):
        with monkeypatch.context() as before:
            before.setattr(LazyServer, "identity", former)
            before.setattr(ServedModel, "reads_texts", False)
            assert run([*command, *on(address)]) == 0
        views = {path.name: path.read_bytes() for path in (here / "run/views").iterdir()}
        first = state.n_requests
        assert run([*command, *on(address)]) == 0
        sent = state.n_requests - first
    for name, content in views.items():
        assert (here / "run/views" / name).read_bytes() == content
    if dialect == "llama.cpp":
        assert sent < 20, "nothing but known sentences"
        assert len(list((here / "run/views").iterdir())) == len(views)
    else:
        assert len(list((here / "run/cores").iterdir())) == 4, "they are searched anew"


def test_the_plan_of_a_server_that_is_away(here, capsys):
    (here / "table.csv").write_text("text\na\nb\n")
    command = ["label", "table.csv", "--text", "text", "--labels", "good,bad", "--plan"]
    assert run([*command, "--model", "http://localhost:1"]) == 2
    assert "http://localhost:1 does not answer" in capsys.readouterr().err


def test_an_experiment_without_fine_tuning(here):
    methods = ("zero-shot-dialogue", "bootstrapped", "icm", "icm-tuned")
    with serve("sglang", hashed(), **ROOMY) as (address, _):
        column = Column(
            name="numbers",
            task="larger-than",
            model=address,
            n=4,
            n_test=4,
            settings={"max_evaluations": 2},
        )
        experiment = Experiment(
            name="served",
            suite="small",
            title="served",
            source="ours",
            figure="bars",
            seeds=(0,),
            methods=methods,
            columns=(column,),
        ).with_settings({"tokenizer": "tokenizer", "server": None})
        document = run_experiment(experiment, output=here / "out", command=["icm-fast"])
    found = document["columns"][0]["methods"]
    assert "fine-tuning needs its weights" in found.pop("icm-tuned")["left_out"]
    assert all("plain" in result for result in found.values())
    assert document["columns"][0]["definition"]["settings"]["tokenizer"] == "tokenizer"


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "llama.cpp"])
def test_doctor(dialect, capsys):
    with serve(dialect, hashed(), **ROOMY) as (address, _):
        command = ["doctor", "larger-than", *on(address), "--limit", "12", "--json"]
        assert run(command) == 0
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert {f["state"] for f in findings.values()} <= {"ok", "note"}
    assert findings["server"]["fields"]["server"] == dialect
    assert findings["tokenizer"]["fields"]["by_ids"] is True
    assert findings["known answer"]["state"] == "ok"
    cache = findings["prefix cache"]["fields"]
    assert cache["computed_again"] <= 2 < 100 < cache["tokens"]
    numbers = findings["cost"]["fields"]
    # The labels have several tokens here: one request for each inner node of their tree.
    assert numbers["requests_per_evaluation"] % 12 == 0
    assert numbers["seconds"] == pytest.approx(
        numbers["tokens"] / findings["speed"]["fields"]["tokens_per_second"]
    )


def test_doctor_of_a_server_that_returns_the_most_likely_tokens_only(capsys):
    with serve("openai", hashed(spread=3.0), **ROOMY) as (address, _):
        assert run(["doctor", "larger-than", *on(address), "--limit", "12"]) == 2
    out, err = capsys.readouterr()
    assert "note  server: openai with fake/model, the 20 most likely tokens only" in out
    assert "FAIL  input: label ' " in out
    assert "is not among the 20 most likely tokens" in err


def test_a_server_far_away_has_to_be_allowed(capsys):
    command = ["search", "larger-than", "--model", "http://gpu1.invalid:8000", "--limit", "8"]
    assert run(command) == 2
    assert "is not encrypted" in capsys.readouterr().err
    assert run([*command, "--allow-http"]) == 2
    error = capsys.readouterr().err
    assert "does not answer" in error
    assert error.count("\n") == 1


def test_an_unknown_kind_of_server(capsys):
    command = ["search", "larger-than", *on("http://localhost:1"), "--server", "vlm"]
    assert run(command) == 2
    assert "unknown server 'vlm'; did you mean 'vllm'?" in capsys.readouterr().err
