"""``icm-fast train``: results, folders that --model takes, and exit codes."""

import json

import pytest

from icm_fast import SearchConfig, search
from icm_fast.cli import run
from icm_fast.model import load_model
from tiny_models import one_thread, reviews, tiny_loaded  # noqa: F401 - in force by its import

QUICK = ("--set", "epochs=2", "--set", "batch_size=2", "--set", "dtype=float32")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a tiny model that can be named."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    loaded = tiny_loaded("llama")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """The folder of a finished search."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = SearchConfig(dtype="float32", max_evaluations=3)
    search(reviews(), model=str(base), config=config, output_dir=folder)
    return folder


def test_sft_tunes_on_the_labels_of_a_run(finished, base, tmp_path, capsys):
    output = tmp_path / "tuned"
    arguments = ["train", "sft", str(finished), *QUICK, "--output", str(output)]
    assert run(arguments) == 0
    told = capsys.readouterr().out
    assert "Tuned on 8 labels: 8 steps, loss" in told
    assert f"Model: {output}" in told
    assert (
        load_model(str(output), dtype="float32").fingerprint
        != load_model(str(base), dtype="float32").fingerprint
    )
    assert run(arguments) == 0
    assert capsys.readouterr().out == told
    assert run([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["folder"], figures["n_examples"]) == (str(output), 8)
    assert len(figures["losses"]) == 8
    assert run([*arguments, "--set", "rank=2"]) == 2
    error = capsys.readouterr().err
    assert "holds a different fine-tuning: rank is 8 there and 2 here" in error
    assert error.count("\n") == 1


def test_a_tuned_folder_is_a_model_on_the_command_line(finished, tmp_path, capsys):
    assert run(["train", "sft", str(finished), *QUICK]) == 0
    tuned = str(finished / "tuning")
    arguments = ["larger-than", "--model", tuned, "--limit", "4", "--set", "dtype=float32"]
    assert run(["doctor", *arguments]) == 0
    assert "ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "name the folder of a run"),
        (["RUN", "--set", "epoch=2"], "unknown setting 'epoch'; did you mean 'epochs'?"),
        (["RUN", "--set", "epochs=0"], "epochs = 0 is outside 1"),
        (["RUN", "--model", "./nothing"], "does not exist"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(arguments, text, finished, capsys):
    words = [str(finished) if word == "RUN" else word for word in arguments]
    assert run(["train", "sft", *words]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_iterative_labels_batch_by_batch(base, tmp_path, capsys):
    arguments = ["train", "iterative", "larger-than", "--model", str(base), "--limit", "8"]
    arguments += ["--batch-size", "4", "--output", str(tmp_path), "--set", "dtype=float32"]
    arguments += ["--set", "max_evaluations=2", "--tuning", "epochs=1"]
    assert run(arguments) == 0
    output = capsys.readouterr()
    assert "batch 2 of 2: tuning on" in output.err
    assert "batch 2: 4 examples, U = " in output.out
    assert (tmp_path / "batch-001" / "tuning" / "tuning.json").is_file()
    assert run([*arguments, "--batch-size", "0"]) == 2
    assert "integer of 1 or more" in capsys.readouterr().err


def test_iterative_without_a_model_ends_with_2(capsys):
    assert run(["train", "iterative", "larger-than"]) == 2
    assert "no model given; add --model" in capsys.readouterr().err


def test_texts_give_a_start_policy_that_is_a_base_from_anywhere(
    base, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("A fine film\n\nDull\u2028 and long\n")
    arguments = ["train", "texts", "texts.txt", "--model", str(base), "-o", "work/start", *QUICK]
    assert run(arguments) == 0
    told = capsys.readouterr().out
    assert "Tuned on 2 texts: 2 steps, loss" in told
    start = load_model("work/start", dtype="float32")
    # A training on top of it names its base as it was called: relative to that working directory.
    again = ["train", "texts", "texts.txt", "--model", "work/start", "-o", "work/next", *QUICK]
    assert run(again) == 0
    here = load_model("work/next", dtype="float32").fingerprint
    assert here != start.fingerprint
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_model("../work/next", dtype="float32").fingerprint == here


def test_texts_from_a_column(base, tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text('{"text": "fine"}\n{"other": "dull"}\n')
    arguments = ["train", "texts", str(tmp_path / "t.jsonl"), "--model", str(base)]
    assert run([*arguments, "-o", str(tmp_path / "out")]) == 2
    assert "t.jsonl, line 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
