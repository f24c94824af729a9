"""Names that no file can have, wherever a command takes one: one line, exit code 2."""

import pytest

from icm_fast.cli import run

LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "truthfulqa", f"{LONG}.jsonl", "--model", "fake"],
        ["search", "custom", f"{LONG}.yaml", "--model", "fake"],
        ["search", "arithmetic", "--model", LONG, "--limit", "4"],
        ["search", "truthfulqa", "data.jsonl", "--model", "fake", "--config", LONG],
        ["report", LONG],
        ["export", LONG],
        ["train", "sft", LONG],
        ["experiment", f"{LONG}.yaml"],
        ["doctor", "truthfulqa", f"{LONG}.csv", "--model", "fake"],
    ],
    ids=lambda arguments: " ".join(arguments[:2])[:20],
)
def test_a_long_name_is_one_line(arguments, tmp_path, monkeypatch, capsys):
    # Found by fuzzing: Path.is_file raises OSError for these.
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("icm-fast: ")
    assert not [line for line in lines if "Traceback" in line]
    assert len(lines[-1]) < 800


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "a.jsonl", *["b.jsonl"] * 2000],
        ["export", f"--{'x' * 5000}"],
        ["y" * 5000],
        ["search", "truthfulqa", "--seed", "9" * 5000],
    ],
    ids=("thousands of files", "option", "command", "number"),
)
def test_words_that_were_not_expected_are_not_all_repeated(arguments, capsys):
    # Found by fuzzing: a pattern of the shell may bring thousands of names.
    assert run(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("icm-fast: ")
    assert len(last) < 700
