"""What is shown of long work without a terminal, and what --help shows of its texts."""

import re

import pytest
import typer

from icm_fast.cli import run as icm_fast_command
from icm_fast.cli.commands import app
from icm_fast.engine import progress
from icm_fast.engine.progress import PlainLines, Quiet, TerminalProgress, make_progress
from icm_fast.errors import InputError


class Steps:
    def __init__(self, done, total=10):
        self.done, self.total = done, total

    def describe(self):
        return f"loss {self.done}.5\x1b[31m"


def test_plain_lines_come_every_half_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = PlainLines()
    for second in range(0, 100, 5):
        now[0] = float(second)
        shown.update(Steps(second))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("/")[0] for line in lines] == ["30", "60", "90"]
    assert lines[0] == "30/10  loss 30.5\\x1b[31m"


@pytest.mark.parametrize(
    ("kind", "made"), [("rich", TerminalProgress), ("plain", PlainLines), ("none", Quiet)]
)
def test_kinds(kind, made):
    assert type(make_progress(kind)) is made


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(InputError, match="did you mean 'plain'"):
        make_progress("plane")


def commands(command, path=()):
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))
LONG = [
    ("search",),
    ("demo",),
    ("experiment",),
    ("assistant",),
    ("evaluate", "run"),
    ("evaluate", "policy"),
    *(("train", name) for name in ("sft", "texts", "iterative", "reward", "rl")),
]


@pytest.mark.parametrize("path", LONG, ids=" ".join)
def test_every_long_command_takes_progress(path):
    assert "--progress" in {option for param in ALL[path].params for option in param.opts}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_shows_every_word_of_its_texts(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    icm_fast_command([*path, "--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    command = ALL[path]
    texts = [command.help or "", *(getattr(param, "help", None) or "" for param in command.params)]
    texts += [
        (inner.help or "").split("\n\n")[0] for inner in getattr(command, "commands", {}).values()
    ]
    for text in texts:
        for word in text.replace("\\[", "[").split():
            assert word in shown, (path, text)
    assert "\\[" not in shown
