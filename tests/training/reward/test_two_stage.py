"""Pools, both stages, evaluation of files, and the command line."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from reward_cases import CONFIG, pool_pairs, pool_rows, save_base, toy_pairs, train, write_lines

from icm_fast import InputError, SearchConfig, search
from icm_fast.cli import run
from icm_fast.model import load_model
from icm_fast.tasks.registry import load_task
from icm_fast.tasks.source import TaskSource
from icm_fast.training.reward import (
    PairSet,
    evaluate_reward,
    load_reward_model,
    reward_text,
    two_stage,
)
from icm_fast.training.reward import pool as pool_module
from icm_fast.training.reward.beginnings import beginning
from icm_fast.training.reward.pool import CHUNK, PoolRows, label_pool
from icm_fast.training.steps import TrainingStep
from listeners import Listener
from tiny_models import one_thread, tiny_loaded  # noqa: F401 - in force by its import

QUICK = ["--set", "epochs=2", "--set", "batch_size=4", "--set", "learning_rate=0.01"]

# Labels a pool chunk by chunk until it is killed.
SCRIPT = """
import sys, time
from pathlib import Path
import torch
from icm_fast.training.reward import load_reward_model
from icm_fast.training.reward.pool import label_pool
from listeners import Listener
torch.set_num_threads(1)

def progress(rows):
    print(rows.done, flush=True)
    time.sleep(0.5)

model = load_reward_model(sys.argv[1], dtype="float32")
label_pool(model, Path(sys.argv[2]), Path(sys.argv[3]), progress=Listener(progress))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def judge(base, tmp_path_factory):
    """The folder of a reward model that knows the toy preference."""
    folder = tmp_path_factory.mktemp("judge") / "rm"
    loaded = load_model(str(base), dtype="float32")
    train(folder, pairs=pool_pairs(60), loaded=loaded, epochs=6)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_pool_gets_the_labels_of_the_model(judge, tmp_path):
    model = load_reward_model(judge, dtype="float32")
    rows = pool_rows()
    rows[3] = {"question": "Q?", "choice": "bad", "choice_2": "good", "label": 0}
    rows[4]["response_2"] = rows[4]["response_1"]
    rows[5]["response_2"] = "good " * 600
    pool = write_lines(tmp_path / "in.jsonl", rows)
    pool.write_text(pool.read_text().replace("\n", "\n\n", 1))  # a blank line is no row
    told = Listener()
    done = label_pool(model, pool, tmp_path / "out", progress=told)
    assert told.done == [64, 128, 150]
    assert (done.n_rows, done.n_skipped) == (150, 2)
    found = lines(done.path)
    assert len(found) == 150
    assert found[4]["skipped"] == "both responses are the same"
    assert found[5]["skipped"] == "longer than the 512 tokens of the model"
    labelled = [line for line in found if "skipped" not in line]
    assert found[3]["prompt"] == "Q?"
    right = [line["chosen"].find("good") >= 0 for line in labelled]
    assert np.mean(right) > 0.95
    for k, line in enumerate(found[:3]):
        both = {rows[k]["response_1"], rows[k]["response_2"]}
        assert {line["chosen"], line["rejected"]} == both
        assert line["swapped"] == (line["chosen"] == rows[k]["response_2"])
        texts = [reward_text(line["prompt"], line[side]) for side in ("chosen", "rejected")]
        assert line["rewards"] == pytest.approx(model.score(texts).tolist(), abs=1e-4)
        gap = line["rewards"][0] - line["rewards"][1]
        assert line["probability"] == pytest.approx(1 / (1 + np.exp(-gap)))
    pairs = done.pairs()
    assert len(pairs) == 148
    assert pairs[0].probability == found[0]["probability"]
    hard = label_pool(model, pool, tmp_path / "hard", soft=False).pairs()
    assert {p.probability for p in hard} == {1.0}
    assert [p.chosen for p in hard] == [p.chosen for p in pairs]


def test_a_pool_killed_in_the_middle_ends_with_the_same_bytes(judge, tmp_path):
    pool = write_lines(tmp_path / "in.jsonl", pool_rows(4 * CHUNK + 7))
    model = load_reward_model(judge, dtype="float32")
    whole = label_pool(model, pool, tmp_path / "whole")
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(judge), str(pool), str(killed)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    for line in process.stdout:
        if int(line) >= 2 * CHUNK:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    part = killed / ".pool.jsonl.part"
    assert not (killed / "pool.jsonl").exists()
    with part.open("ab") as file:
        file.write(b'{"prompt": "torn')  # a write that was cut short
    told = Listener()
    done = label_pool(model, pool, killed, progress=told)
    assert told.done == [3 * CHUNK, 4 * CHUNK, 4 * CHUNK + 7]
    assert done.path.read_bytes() == whole.path.read_bytes()
    assert done.n_rows == whole.n_rows == 4 * CHUNK + 7
    assert not part.exists()


@pytest.mark.parametrize("n_bytes", [0, 1, 5000, -1])
def test_a_part_of_any_length_is_taken_up(n_bytes, judge, tmp_path):
    pool = write_lines(tmp_path / "in.jsonl", pool_rows(CHUNK + 2))
    model = load_reward_model(judge, dtype="float32")
    whole = label_pool(model, pool, tmp_path / "whole").path.read_bytes()
    folder = tmp_path / "part"
    label_pool(model, pool, folder)
    (folder / "pool.jsonl").unlink()
    (folder / ".pool.jsonl.part").write_bytes(whole[: n_bytes % (len(whole) + 1)])
    record = json.loads((folder / "pool.json").read_text())
    (folder / "pool.json").write_text(json.dumps({"identity": record["identity"]}))
    label_pool(model, pool, folder)
    assert (folder / "pool.jsonl").read_bytes() == whole


def test_labels_of_a_network_that_computes_otherwise_are_not_taken(judge, tmp_path):
    pool, folder = write_lines(tmp_path / "pool.jsonl", pool_rows(4)), tmp_path / "out"
    model, other = (load_reward_model(judge, dtype="float32") for _ in range(2))
    label_pool(model, pool, folder)
    other.network.config.rms_norm_eps = 0.5
    assert other.fingerprint == model.fingerprint
    with pytest.raises(InputError, match="model_computation"):
        label_pool(other, pool, folder)


def test_killed_before_the_record_was_written(judge, tmp_path, monkeypatch):
    pool = write_lines(tmp_path / "in.jsonl", pool_rows(5))
    model = load_reward_model(judge, dtype="float32")

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pool_module, "_count", killed)
        with pytest.raises(KeyboardInterrupt):
            label_pool(model, pool, tmp_path / "out")
    monkeypatch.setattr(pool_module, "_write_labels", killed)
    assert label_pool(model, pool, tmp_path / "out").n_rows == 5


def test_a_bad_row_far_down_costs_nothing(judge, tmp_path):
    model = load_reward_model(judge, dtype="float32")
    rows = pool_rows(2 * CHUNK)
    pool = write_lines(tmp_path / "in.jsonl", [*rows, {"response_1": ["a"], "response_2": "b"}])
    told = Listener()
    with pytest.raises(InputError, match=r"line 129: column 'response_1' is a list"):
        label_pool(model, pool, tmp_path / "out", progress=told)
    assert told.done == []
    write_lines(pool, rows)
    assert label_pool(model, pool, tmp_path / "out").n_rows == 2 * CHUNK


def test_bad_pools_are_refused(judge, tmp_path):
    model = load_reward_model(judge, dtype="float32")
    pool = write_lines(tmp_path / "in.jsonl", pool_rows(3))
    label_pool(model, pool, tmp_path / "out")
    write_lines(pool, pool_rows(4))
    with pytest.raises(InputError, match="different labelling of a pool: pool_sha256 is"):
        label_pool(model, pool, tmp_path / "out")
    with pytest.raises(InputError, match="is where the labels go"):
        label_pool(model, tmp_path / "out" / "pool.jsonl", tmp_path / "out")
    for number, (content, text) in enumerate(
        [
            ("", "holds no rows"),
            (
                '{"response_1": "a", "response_2": "b"}\n{"response_1": "a"}\n',
                "line 2: column 'resp",
            ),
            ("[]\n", "line 1: a list instead of an object"),
            ("{\n", "line 1: not JSON"),
        ]
    ):
        pool.write_text(content)
        with pytest.raises(InputError, match=text):
            label_pool(model, pool, tmp_path / f"bad{number}")
    with pytest.raises(InputError, match="cannot read"):
        label_pool(model, tmp_path / "nowhere.jsonl", tmp_path / "bad")


def test_two_stages_and_no_finished_one_is_repeated(tmp_path, monkeypatch):
    pool = write_lines(tmp_path / "in.jsonl", pool_rows(40))
    folder = tmp_path / "rm"

    def stages(pool, progress=None):
        return two_stage(
            PairSet(tuple(toy_pairs())),
            model=tiny_loaded("llama"),
            output_dir=folder,
            pool=pool,
            config=CONFIG,
            progress=progress,
        )

    first = stages(None)
    assert first.final is None
    assert load_home(folder) == "initial"

    def interrupt(progress):
        if isinstance(progress, TrainingStep) and progress.done == 7:
            raise KeyboardInterrupt

    shown = Listener(interrupt)
    with pytest.raises(KeyboardInterrupt):
        stages(pool, shown)
    assert shown.states[0] == PoolRows(40, 40)
    # 4 epochs of (12 + 40) / 4 batches: the first stage was not repeated.
    assert {state.total for state in shown.states[1:]} == {52}
    written = (folder / "pool.jsonl").read_bytes()
    with pytest.raises(InputError, match="final is not finished"):
        load_reward_model(folder)
    shown = Listener()
    done = stages(pool, shown)
    assert shown.done[0] == 7
    assert shown.lines == ["initial: 12 pairs", f"pool: labelling {pool}", "final: 52 pairs"]
    assert done.initial.model.fingerprint == first.initial.model.fingerprint
    assert done.model is done.final.model
    assert done.final.n_pairs == 52
    assert (folder / "pool.jsonl").read_bytes() == written
    assert load_home(folder) == "final"
    assert {p.name for p in folder.iterdir()} == {
        "initial", "final", "pool.jsonl", "pool.json", ".lock"
    }  # fmt: skip

    def must_not_run(*_):
        pytest.fail("a finished stage was repeated")

    monkeypatch.setattr(pool_module, "_write_labels", must_not_run)
    assert stages(pool, Listener(must_not_run)).model.fingerprint == done.model.fingerprint
    scores = done.model.score_pairs(toy_pairs())
    assert (scores[:, 0] > scores[:, 1]).mean() > 0.9


def load_home(folder):
    from icm_fast.training.reward.model import reward_home

    return reward_home(folder).name


def bench_file(path):
    """Pairs of the toy preference under names of RewardBench; every fourth the wrong way round."""
    rows = []
    names = ("alpacaeval-easy", "mt-bench-hard", "donotanswer", "math-prm", "hep-go", "mine")
    for k, pair in enumerate(pool_pairs(48)):
        both = (pair.rejected, pair.chosen) if k % 4 == 0 else (pair.chosen, pair.rejected)
        rows.append({"prompt": pair.prompt, "chosen": both[0], "rejected": both[1]})
        rows[-1]["subset"] = names[k % 6]
    return write_lines(path, rows)


def test_a_file_is_evaluated_by_subset(judge, tmp_path):
    model = load_reward_model(judge, dtype="float32")
    path = bench_file(tmp_path / "bench.jsonl")
    found = evaluate_reward(model, path)
    rows = lines(path)
    for name, figure in found.subsets.items():
        mine = [row for row in rows if row["subset"] == name]
        scores = [model.score([reward_text(r["prompt"], r[s]) for s in ("chosen", "rejected")])
                  for r in mine]  # fmt: skip
        assert figure.value == np.mean([a > b for a, b in scores])
        assert figure.n == 8
    assert found.score is not None
    assert 0.6 < found.overall.value < 0.9
    same = write_lines(tmp_path / "same.jsonl", [{"chosen": "a", "rejected": "a"}])
    tied = evaluate_reward(model, same)
    assert (tied.overall.value, tied.n_ties) == (0.0, 1)
    assert "1 pairs have equal rewards" in tied.to_markdown()
    assert list(tied.subsets) == ["all"]


def test_long_texts_are_cut_and_counted_or_refused(judge, tmp_path):
    model = load_reward_model(judge, dtype="float32")
    long = "so much text " * model.max_context
    rows = [{"chosen": long, "rejected": "b"}, {"chosen": long + "more", "rejected": "c"}]
    path = write_lines(tmp_path / "long.jsonl", rows)
    found = evaluate_reward(model, path)
    assert found.n_truncated == 2
    assert "2 texts are longer than the model's context" in found.to_markdown()
    with pytest.raises(InputError, match="tokens, but the maximum of the reward model"):
        evaluate_reward(model, path, refuse_long=True)
    read = beginning(long, model)
    longer = long[: len(read) + 1]
    assert len(model.token_ids(read)) <= model.max_context < len(model.token_ids(longer))


def test_command_line_from_a_file_to_a_score(base, tmp_path, capsys):
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in toy_pairs(16)]
    pairs = write_lines(tmp_path / "pairs.jsonl", [*rows, {"chosen": "a", "rejected": "a"}])
    pool = write_lines(tmp_path / "pool-in.jsonl", pool_rows(20))
    folder = tmp_path / "rm"
    arguments = ["train", "reward", str(pairs), "--model", str(base), "--pool", str(pool), *QUICK]
    arguments += ["-o", str(folder), "--pool-labels", "hard"]
    assert run(arguments) == 0
    told = capsys.readouterr()
    assert "16 pairs; left out: 1 x both texts are the same" in told.out
    assert "Pool: 20 rows labelled by the initial model, 0 skipped" in told.out
    assert "Trained on 36 pairs: 18 steps, loss 0.693 at the start" in told.out
    assert "pool: labelling" in told.err
    assert run(arguments) == 0
    assert capsys.readouterr().out == told.out
    data = bench_file(tmp_path / "bench.jsonl")
    assert run([*arguments, "--json"]) == 0  # both are finished, and only read
    figures = json.loads(capsys.readouterr().out)
    assert figures["final"]["n_pairs"] > 0
    assert len(figures["initial"]["losses"]) > 0
    assert run(["evaluate", "reward", str(folder), str(data), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((folder / f"evaluation-{data.stem}.json").read_text())
    assert run(["evaluate", "reward", str(folder), str(data)]) == 0
    shown = capsys.readouterr().out
    result = json.loads((folder / "evaluation-bench.json").read_text())
    assert result["overall"]["n"] == 48
    assert set(result["sections"]) == {"Chat", "Chat Hard", "Safety", "Reasoning"}
    assert (folder / "evaluation-bench.md").read_text().rstrip() in shown


def test_command_line_from_a_run(tmp_path, capsys):
    dataset, _ = load_task("sun-poems", limit=8, seed=1)
    folder = tmp_path / "run"
    base = save_base(tmp_path / "base", max_position_embeddings=4096)
    search(
        dataset,
        model=str(base),
        config=SearchConfig(dtype="float32", max_evaluations=4, seed=1),
        output_dir=folder,
        source=TaskSource("sun-poems", limit=8, seed=1),
    )
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert run(["train", "reward", str(folder), *QUICK]) == 0
    assert f"Reward model: {folder / 'reward'}" in capsys.readouterr().out
    assert run(["train", "reward", str(folder), "--labels", "gold", *QUICK]) == 0
    assert "4 pairs\n" in capsys.readouterr().out
    assert (folder / "reward-gold" / "initial" / "adapter").is_dir()
    assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    assert run(["train", "reward", str(folder), "--labels", "crowd", *QUICK]) == 2
    assert "has no crowd labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "reward", "nowhere.jsonl", "--model", "BASE"], "no file at"),
        (["train", "reward", "PAIRS"], "no model given; add --model"),
        (["train", "reward", "PAIRS", "--model", "BASE", "--labels", "gold"], "is for the folder"),
        (["train", "reward", "PAIRS", "--pool-labels", "softly"], "did you mean 'soft'"),
        (["train", "reward", "PAIRS", "--set", "margin_scal=1"], "did you mean 'margin_scale'"),
        (["train", "reward", "FOLDER"], "name the folder of a run"),
        (["evaluate", "reward", "FOLDER", "PAIRS"], "holds no reward model"),
        (["evaluate", "reward", "JUDGE", "nowhere.jsonl"], "no file at"),
        (["evaluate", "reward", "JUDGE", "PAIRS", "-o", "x.txt"], "must end in .json"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(arguments, text, base, judge, tmp_path, capsys):
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"chosen": "a", "rejected": "b"}])
    known = {"BASE": base, "PAIRS": pairs, "FOLDER": tmp_path, "JUDGE": judge}
    assert run([str(known.get(word, word)) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
