"""``--ray`` with and without an address, and several seeds."""

from __future__ import annotations

import json

import pytest

from icm_fast.cli import run
from icm_fast.cli.search import read_seeds
from icm_fast.cli.workers import with_ray_address
from icm_fast.errors import InputError
from run_fakes import install_fake_model, write_claims


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("label a.csv --ray", "label a.csv --ray local"),
        ("label --ray a.csv --text b", "label --ray local a.csv --text b"),
        ("label --ray auto a.csv", "label --ray auto a.csv"),
        ("label --ray head:6379 a.csv", "label --ray head:6379 a.csv"),
        ("label --ray 10.0.0.1:6379", "label --ray 10.0.0.1:6379"),
        ("label --ray [::1]:6379", "label --ray [::1]:6379"),
        ("label --ray=auto a.csv", "label --ray=auto a.csv"),
        ("label --ray --ray-workers 2", "label --ray local --ray-workers 2"),
        ("label --ray hub:NAME", "label --ray local hub:NAME"),
    ],
)
def test_an_address_may_be_left_out(words, expected):
    assert with_ray_address(words.split()) == expected.split()


def test_seeds():
    assert read_seeds("0-7") == list(range(8))
    assert read_seeds("3, 5,9-10") == [3, 5, 9, 10]


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "7-0", "0-1000", "1,1", "0-3,2", "9" * 50])
def test_seeds_that_are_none(text):
    with pytest.raises(InputError, match="--seeds"):
        read_seeds(text)


@pytest.fixture
def claims(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_claims(tmp_path / "data.jsonl")
    install_fake_model(monkeypatch)


SEARCH = ["search", "truthfulqa", "data.jsonl", "--model", "fake", "--limit", "8"]
QUICK = ["--set", "max_evaluations=10", "--set", "n_initial=2", "--progress", "none"]


@pytest.mark.usefixtures("claims")
def test_a_search_for_each_seed(tmp_path, capsys):
    assert run([*SEARCH, *QUICK, "--seeds", "0-2", "-o", "runs"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("runs/seed-0") < shown.index("runs/seed-1") < shown.index("runs/seed-2")
    assert run([*SEARCH, *QUICK, "--seed", "1", "-o", "alone"]) == 0
    for name in ("labels.jsonl", "evaluations.bin", "events.jsonl", "config.yaml"):
        ours = (tmp_path / "runs" / "seed-1" / name).read_bytes()
        assert ours == (tmp_path / "alone" / name).read_bytes()
    prompts = [
        {json.loads(line)["id"] for line in (tmp_path / f).read_text().splitlines()}
        for f in ("runs/seed-0/examples.jsonl", "runs/seed-1/examples.jsonl")
    ]
    assert prompts[0] != prompts[1]


@pytest.mark.usefixtures("claims")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seed", "1", "--seeds", "0-2"], "exclude each other"),
        (["--ray-workers", "2"], "add --ray"),
        (["--ray-gpus", "2"], "add --ray"),
        (["--ray", "--ray-workers", "0"], "--ray-workers is 0"),
        (["--ray", "ray://head:10001"], "run the command on the cluster"),
    ],
)
def test_options_that_do_not_fit(more, message, capsys):
    assert run([*SEARCH, *QUICK, *more]) == 2
    assert message in capsys.readouterr().err
