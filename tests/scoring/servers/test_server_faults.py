"""What goes wrong between here and a server never becomes a score."""

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import icm_fast
from fake_servers import DIALECTS, hashed, serve
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.servers.address import Reach, parse_address, reach_of
from icm_fast.scoring.servers.client import Ask
from icm_fast.scoring.servers.lazy import LazyServer
from run_fakes import run_bytes
from tiny_models import MULTI, SINGLE, byte_tokenizer, mixed_labels, reviews

QUICK = Reach(requests=8, timeout=60.0, patience=300.0)
"""Limits that a busy machine keeps: nothing is repeated here but what a test spoils."""

HASTY = replace(QUICK, timeout=0.5)
"""For servers that stay silent. More may be repeated then, which changes no answer."""

FAULTS = (
    *("429", "500", "503", "truncated", "wrong ids", "missing ids", "nan", "positive", "empty"),
    *("other prompt", "reset", "slow"),
)
"""`slow` does not answer before the time limit."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("icm_fast.scoring.servers.transport._LONGEST_PAUSE", 0.05)


def opened(address, tokenizer, reach=QUICK):
    return LazyServer(address, tokenizer=tokenizer, reach=reach)


def some(share, faults=FAULTS, seed=0):
    """Faults at random requests; each request of a kind fails independently of the others."""
    drawn = np.random.default_rng(seed)
    spoiled = drawn.random(9999) < share
    kinds = drawn.integers(len(faults), size=9999)
    return lambda number: faults[kinds[number]] if spoiled[number] else ""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_wrong_score_is_accepted_in_a_thousand_requests(dialect, tokenizer):
    truth = hashed(spread=0.3)
    rng = np.random.default_rng(1)

    def is_text(token):  # others a generic server cannot name
        text = byte_tokenizer().decode([token])
        return text and "\ufffd" not in text

    # A generic server returns the most likely tokens only; others are not wanted of it here.
    faults = [fault for fault in FAULTS if dialect != "openai" or "ids" not in fault]
    asks = []
    for _ in range(130):
        ids = tuple(rng.integers(3, 400, 6).tolist())
        likely = [t for t in np.argsort(-truth(ids))[:12].tolist() if is_text(t)]
        asks.append(Ask(ids, tuple(sorted(likely[:3]))))
    with serve(dialect, truth) as (address, state):
        client = opened(address, tokenizer, HASTY).load().client
        state.fault = some(0.08 if dialect == "llama.cpp" else 0.2, faults)
        found = [answers for _ in range(2) for answers in client.ask(asks)]
        assert state.n_requests > 260
    for ask, answers in zip(asks * 2, found, strict=True):
        expected = truth(ask.ids)
        assert set(answers) == set(ask.wanted)
        assert all(answers[t] == pytest.approx(expected[t], abs=1e-9) for t in ask.wanted)


def test_a_search_through_faults_ends_with_the_labels_of_an_undisturbed_one(tokenizer, tmp_path):
    dataset = reviews(MULTI)
    config = SearchConfig(tokenizer=tokenizer, max_evaluations=12, seed=2)
    with serve("vllm", hashed()) as (address, state):
        calm = icm_fast.search(
            dataset, model=opened(address, tokenizer), config=config, output_dir=tmp_path / "calm"
        )
        state.fault = some(0.2)
        server = opened(address, tokenizer, HASTY)
        rough = icm_fast.search(dataset, model=server, config=config, output_dir=tmp_path / "rough")
    assert np.array_equal(calm.labels, rough.labels)
    assert np.array_equal(calm.scores, rough.scores)
    assert run_bytes(tmp_path / "calm") == run_bytes(tmp_path / "rough")


def test_a_server_that_stays_away_ends_in_one_line_and_the_run_resumes(tokenizer, tmp_path):
    dataset = reviews(SINGLE)
    config = SearchConfig(tokenizer=tokenizer, max_evaluations=8, seed=1)
    reach = replace(QUICK, patience=0.3)
    with serve("sglang", hashed()) as (first, state):
        calm = icm_fast.search(dataset, model=opened(first, tokenizer), config=config)
        half = state.n_requests + state.n_requests // 2
        state.fault = lambda number: "reset" if number >= half else ""
        with pytest.raises(InputError) as caught:
            icm_fast.search(
                dataset,
                model=opened(first, tokenizer, reach),
                config=config,
                output_dir=tmp_path / "run",
            )
    message = str(caught.value)
    assert "does not answer" in message
    assert "run the same command again to resume" in message
    assert "\n" not in message
    scored = (tmp_path / "run" / "evaluations.bin").stat().st_size
    with serve("sglang", hashed()) as (address, state):
        resumed = icm_fast.search(
            dataset,
            model=opened(address, tokenizer),
            config=config,
            output_dir=tmp_path / "run",
        )
        assert state.n_requests < half + 20, "nothing was read from the folder"
    assert scored > 100
    assert np.array_equal(calm.labels, resumed.labels)
    # A finished run needs no server.
    again = icm_fast.search(
        dataset, model=opened(first, tokenizer), config=config, output_dir=tmp_path / "run"
    )
    assert np.array_equal(again.labels, resumed.labels)


def test_a_patience_of_days_ends_in_one_line_too(monkeypatch):
    """A thousand tries and more, whose pauses do not grow without bound."""
    monkeypatch.setattr("icm_fast.scoring.servers.transport._LONGEST_PAUSE", 1e-9)
    waits = iter(range(10**9))
    monkeypatch.setattr("icm_fast.scoring.servers.transport.time.monotonic", lambda: next(waits))
    reach = replace(QUICK, patience=3000.0)
    with pytest.raises(InputError, match="does not answer"):
        LazyServer("http://localhost:1", reach=reach).load()


def test_another_model_after_the_same_name_is_found(tokenizer):
    dataset = reviews(SINGLE)
    labels = mixed_labels(dataset)
    with serve("vllm", hashed()) as (address, state):
        scorer = make_scorer(opened(address, tokenizer).load(), dataset, SearchConfig())
        right = scorer.score(labels).scores
        state.logprobs = hashed(seed=1)
        with pytest.raises(InputError, match=r"another model answers at .* than at the start"):
            scorer.score(labels)
        state.logprobs = hashed()
        assert np.array_equal(scorer.score(labels).scores, right)


def test_another_model_in_the_middle_of_a_labelling_and_back_after_a_restart(tokenizer):
    """The connection breaks at both changes, so the sentence is asked while it is away."""
    dataset = reviews(MULTI)
    labels = mixed_labels(dataset)
    with serve("vllm", hashed()) as (address, state):
        scorer = make_scorer(
            opened(address, tokenizer, replace(QUICK, requests=1)).load(), dataset, SearchConfig()
        )
        begin = state.n_requests

        def fault(number):
            state.logprobs = hashed(seed=int(begin + 3 < number <= begin + 6))
            return "reset" if number in (begin + 3, begin + 7) else ""

        state.fault = fault
        with pytest.raises(InputError, match="another model answers"):
            scorer.score(labels)


def test_a_run_knows_its_model_again_in_another_process(tokenizer, tmp_path):
    dataset = reviews(SINGLE)
    config = SearchConfig(tokenizer=tokenizer, max_evaluations=3)
    folder = tmp_path / "run"

    def run(seed, noise=0.0, more=0):
        plain = hashed(seed)

        def noisy(ids):
            return plain(ids) - noise * (ids[-1] % 2)

        with serve("vllm", noisy) as (address, _):
            wanted = replace(config, max_evaluations=3 + more)
            icm_fast.search(
                dataset, model=opened(address, tokenizer), config=wanted, output_dir=folder
            )

    run(0)
    (folder / "summary.json").unlink()
    (folder / "evaluations.bin").unlink()
    with pytest.raises(InputError, match="holds scores of another model than the one"):
        run(1)
    run(0, noise=0.02)


def test_the_limit_of_a_pause_that_the_server_asks_for(tokenizer):
    with serve("openai", hashed()) as (address, state):
        client = opened(address, tokenizer, replace(QUICK, patience=1.0)).load().client
        state.fault = lambda number: "503"
        began = time.monotonic()
        with pytest.raises(InputError, match=r"does not answer \(status 503\).*limit is 1 s"):
            client.ask([Ask((5, 6), (7,))])
        assert time.monotonic() - began < 3


def test_a_server_that_is_always_wrong(tokenizer):
    with serve("vllm", hashed()) as (address, state):
        client = opened(address, tokenizer, replace(QUICK, patience=2.0)).load().client
        state.fault = lambda number: "wrong ids"
        with pytest.raises(InputError, match=r"8 times in a row .*by its id and is missing"):
            client.ask([Ask((5, 6), (7,))])


def test_an_interrupt_does_not_wait_for_answers(tokenizer):
    with serve("vllm", hashed()) as (address, state):
        client = opened(address, tokenizer, replace(QUICK, patience=60.0)).load().client
        state.fault = lambda number: "429"
        timer = threading.Timer(0.3, client.transport.stop)
        timer.start()
        with pytest.raises(InputError, match="were stopped"):
            client.ask([Ask((5, k), (7,)) for k in range(20)])
        timer.join()


# ---- keys and addresses


SECRET = "sk-planted-0123456789abcdef"


def test_a_planted_key_is_nowhere(tokenizer, tmp_path, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    (tmp_path / "key").write_text(f"{SECRET}\n")
    monkeypatch.setenv("ICM_FAST_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("ICM_FAST_PATIENCE", "0.2")
    dataset = reviews(SINGLE)
    config = SearchConfig(tokenizer=tokenizer, max_evaluations=3)
    run = tmp_path / "out" / "run"
    told = []
    with serve("vllm", hashed(), key=SECRET) as (address, state):
        icm_fast.search(dataset, model=address, config=config, output_dir=run)
        assert any(SECRET in header.get("Authorization", "") for header in state.headers)
        icm_fast.label(
            [{"text": f"a row {k}", "n": k} for k in range(12)],
            text="text",
            labels=["good", "bad"],
            template="Text: {text}\nLabel:",
            model=address,
            config=icm_fast.LabelConfig(tokenizer=tokenizer, core_size=4, cores=1),
            output_dir=tmp_path / "out" / "labelling",
        )
        state.fault = lambda number: "500"
        state.key = "another one"
        for fault in ("500", "reset"):
            state.fault = lambda number, fault=fault: fault
            with pytest.raises(InputError) as caught:
                icm_fast.search(dataset, model=address, config=config)
            told.append(str(caught.value))
            state.key = SECRET
    assert "refuses the key (status 401)" in told[0]
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 6
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert not [path for path in written if SECRET in path.name]
    out, err = capfd.readouterr()
    assert caplog.records
    assert SECRET not in " ".join([caplog.text, out, err, *told, repr(reach_of())])


def test_a_key_is_not_in_the_list_of_processes(tokenizer, tmp_path):
    """Neither the command line nor a name of a thread or process holds it."""
    (tmp_path / "key").write_text(SECRET)
    code = (
        "from icm_fast.scoring.servers.address import reach_of; import time\n"
        "assert reach_of().key.startswith('sk-'); print('ready', flush=True); time.sleep(30)\n"
    )
    environment = {**os.environ, "ICM_FAST_API_KEY_FILE": str(tmp_path / "key")}
    child = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline().strip() == "ready"
        for name in ("cmdline", "comm", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{child.pid}/{name}").read_bytes()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_the_key_is_asked_for(tokenizer):
    with (
        serve("vllm", hashed(), key=SECRET) as (address, _),
        pytest.raises(InputError, match=r"refuses a request without a key .*ICM_FAST_API_KEY"),
    ):
        opened(address, tokenizer).load()


def test_what_the_server_says_is_shown_without_the_key(tokenizer):
    with (
        serve("vllm", hashed(), key="other") as (address, _),
        pytest.raises(InputError) as caught,
    ):
        opened(address, tokenizer, replace(QUICK, key=SECRET)).load()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["http://me:pass@host:1/v1", "https://host/v1?api_key=1", "http://:pw@localhost:8000"],
)
def test_addresses_with_secrets_are_refused(address):
    with pytest.raises(InputError, match="holds a password or a query") as caught:
        parse_address(address, allow_http=True)
    assert "pass@" not in str(caught.value)
    assert "api_key=1" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://", "http://a b", "http://host:port", "http://[::1"])
def test_what_is_not_an_address(address):
    with pytest.raises(InputError, match="is not of the form"):
        parse_address(address)


def test_http_leaves_this_machine_only_where_that_is_allowed():
    for near in ("http://localhost:8000/v1", "http://127.0.0.1:1", "http://[::1]:9", "https://far"):
        assert parse_address(near).base == near.removesuffix("/v1")
    for far in ("http://gpu1:8000", "http://10.0.0.1", "http://localhost.example.org"):
        with pytest.raises(InputError, match=r"is not encrypted.*--allow-http"):
            parse_address(far)
        assert parse_address(far, allow_http=True).base == far


def test_what_the_environment_says(tmp_path):
    given = {"ICM_FAST_REQUESTS": "3", "ICM_FAST_TIMEOUT": "2.5", "ICM_FAST_ALLOW_HTTP": "1"}
    assert reach_of(given) == Reach(requests=3, timeout=2.5, allow_http=True)
    assert reach_of({"ICM_FAST_ALLOW_HTTP": "0", "OPENAI_API_KEY": "sk-1"}) == Reach()
    for bad, message in (
        ({"ICM_FAST_REQUESTS": "0"}, "ICM_FAST_REQUESTS = 0 is outside"),
        ({"ICM_FAST_PATIENCE": "long"}, "ICM_FAST_PATIENCE must be a number"),
        ({"ICM_FAST_API_KEY": "two words"}, "holds blanks"),
        ({"ICM_FAST_API_KEY_FILE": str(tmp_path / "none")}, "correct ICM_FAST_API_KEY_FILE"),
    ):
        with pytest.raises(InputError, match=message):
            reach_of(bad)
