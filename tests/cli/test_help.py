"""What a newcomer reads: the commands, their help texts, the version and shell completion."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import shellingham
import typer
from typer.core import TyperCommand, TyperGroup

import icm_fast
from icm_fast.cli import run
from icm_fast.cli.commands import app

DIALECT = ("most", "goes on", "go on", "is no", "behind", "else", "whole number", "asked")


def commands(
    command: TyperCommand | TyperGroup, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], TyperCommand | TyperGroup]]:
    """Every command and group with the words that call it."""
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def help_texts(command: TyperCommand | TyperGroup) -> dict[str, str]:
    """Help texts by parameter, and of the command itself under the empty name."""
    texts = {param.name: param.help or "" for param in command.params}
    return {"": command.help or "", **texts}


def name_of(words: object) -> str | None:
    return " ".join(("icm-fast", *words)) if isinstance(words, tuple) else None


def test_the_commands():
    assert {" ".join(words) for words in COMMANDS if words} == {
        *(
            "search",
            "label",
            "demo",
            "report",
            "review",
            "export",
            "assistant",
            "experiment",
            "doctor",
        ),
        *("merge", "push", "tune-kernels", "version", "config", "runs", "runs ls"),
        *("evaluate", "evaluate run", "evaluate reward", "evaluate policy"),
        *("train", "train sft", "train texts", "train iterative", "train reward", "train rl"),
        "train dpo",
    }


@pytest.mark.parametrize("words", COMMANDS, ids=name_of)
def test_every_help_text_is_a_plain_sentence(words):
    for name, text in help_texts(COMMANDS[words]).items():
        assert text.rstrip().endswith("."), (name, text)
        for term in DIALECT:
            assert not re.search(rf"\b{term}\b", text, re.IGNORECASE), (name, text)


@pytest.mark.parametrize("words", COMMANDS, ids=name_of)
def test_every_option_with_a_value_says_what_the_value_is(words):
    for param in COMMANDS[words].params:
        if param.param_type_name == "argument" or not getattr(param, "is_flag", False):
            assert param.metavar, param.name


@pytest.mark.parametrize("words", COMMANDS, ids=name_of)
def test_many_options_are_in_groups(words):
    options = [p for p in COMMANDS[words].params if p.param_type_name == "option"]
    if len(options) > 8:
        assert len({p.rich_help_panel for p in options}) > 1


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("words", COMMANDS, ids=name_of)
def test_help_is_printed_and_fits_80_columns(words, flag, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*words, flag]) == 0
    out = capsys.readouterr().out
    assert f"Usage: {' '.join(('icm-fast', *words))}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_version_is_one_line(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"icm-fast {icm_fast.__version__}\n"


def test_a_folder_after_evaluate_names_the_fix(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert run(["evaluate", "runs"]) == 2
    err = capsys.readouterr().err
    assert "`icm-fast evaluate run runs`" in err
    assert err.count("\n") == 1


def test_the_former_names_are_gone(capsys):
    for word in ("evaluate-reward", "evaluate-policy"):
        assert run([word, "a", "b"]) == 2
        assert word in capsys.readouterr().err


def stops(arguments: list[str]) -> object:
    """Exit code of a command line that ends the process."""
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    return stop.value.code


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_a_named_shell_is_printed(shell, capsys):
    assert stops(["--show-completion", shell]) == 0
    out = capsys.readouterr().out
    assert "_ICM_FAST_COMPLETE" in out
    assert f"complete_{shell}" in out


def test_completion_of_the_shell_in_use_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("zsh", "/bin/zsh"))
    assert stops(["--show-completion"]) == 0
    assert "complete_zsh" in capsys.readouterr().out


def test_completion_is_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert stops(["--install-completion", "bash"]) == 0
    (script,) = (path for path in tmp_path.rglob("*icm-fast*") if path.is_file())
    assert "_ICM_FAST_COMPLETE" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_completion_names_the_commands(capsys, monkeypatch):
    monkeypatch.setenv("_ICM_FAST_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "icm-fast evaluate ")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert stops([]) == 0
    assert capsys.readouterr().out.split() == ["run", "reward", "policy"]
