"""Whole command lines, in a folder with a data file, a task, a run and a fake model."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

from icm_fast import cli
from icm_fast.errors import InputError

from ..target import LONGEST_MESSAGE, Target

_FILES = ("data.jsonl", "settings.yaml", "custom.yaml", "run")
_OPTIONS = (
    *(
        "--set",
        "--option",
        "--model",
        "--config",
        "--preset",
        "--limit",
        "--seed",
        "--output",
        "-o",
    ),
    *("--format", "--json", "--rows", "--progress", "--n-test", "--push", "--csv-safe", "--help"),
    *("--min-margin", "--methods", "--threads", "--version", "--only", "--shots", "--dry-run"),
)
_COMMANDS = (
    *("search", "doctor", "report", "export", "evaluate", "train", "experiment", "version"),
    *("sft", "reward", "rl", "texts", "iterative", "compare", "run", "tune-kernels", "demo"),
    *("assistant", "many-shot", "truthfulqa", "arithmetic", "larger-than", "custom", "fake"),
)


class Commands(Target):
    """One argument per line."""

    name = "commands"
    seconds = 20.0
    words = tuple(f"\n{word}\n".encode() for word in (*_OPTIONS, *_COMMANDS, *_FILES)) + tuple(
        f"{word}=".encode() for word in ("alpha", "max_evaluations", "seed", "moves", "limit")
    )

    def prepare(self, folder: Path) -> None:
        """Make the files, and a finished run by the fake model."""
        import run_fakes

        self._folder = folder
        self._fake_model(run_fakes)
        run_fakes.write_claims(folder / "data.jsonl", 4)
        (folder / "settings.yaml").write_text("task: truthfulqa\nmodel: fake\ndata: data.jsonl\n")
        (folder / "custom.yaml").write_text(
            "data: data.jsonl\ntemplate: '{question} {choice}:'\nlabels: [' a', ' b']\n"
        )
        line = "search truthfulqa data.jsonl --model fake --limit 6 --output run"
        assert self._run(line.split()) == 0
        shutil.copytree(folder, folder.parent / "whole")

    def _fake_model(self, run_fakes: ModuleType) -> None:
        """Only searches get a model: trainings and evaluations need a real one."""

        class Patch:
            @staticmethod
            def setitem(mapping: dict[str, object], key: str, value: object) -> None:
                mapping[key] = value

        run_fakes.install_fake_model(Patch())
        module = sys.modules["icm_fast.model"]
        load = module.load_model

        def load_model(model: object, **options: object) -> object:
            if self._arguments[:1] not in (["search"], ["doctor"]) or model != "fake":
                raise InputError(f"no model {model!r} here; this is a fuzz target")
            return load(model, **options)

        module.load_model = load_model  # type: ignore[attr-defined]

    _arguments: list[str] = []  # noqa: RUF012 - of the command that runs

    def read(self, data: bytes) -> None:
        """Run one command; its files are put back afterwards."""
        text = data.decode("utf-8", "surrogateescape")
        arguments = [word for word in text.split("\n") if word]
        if any(_leads_out(word) for word in arguments):
            return
        try:
            self._run(arguments)
        finally:
            os.chdir(self._folder)
            for path in self._folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(self._folder.parent / "whole", self._folder, dirs_exist_ok=True)

    def _run(self, arguments: list[str]) -> int:
        self._arguments = arguments
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.run(arguments)
            except SystemExit as error:  # completion scripts end the process
                code = error.code if isinstance(error.code, int) else 0
        last = err.getvalue().rstrip("\n").split("\n")[-1]
        if code == 2 and arguments and not last.startswith("icm-fast: "):
            raise AssertionError(f"exit code 2 after {last!r}")
        if code not in (0, 1, 2) or "Traceback" in err.getvalue():
            raise AssertionError(f"exit code {code}: {err.getvalue()[-500:]}")
        if len(last) > LONGEST_MESSAGE:
            raise AssertionError(f"a message of {len(last)} characters")
        return code


def _leads_out(word: str) -> bool:
    """Whether a word may name a file outside the folder, or a shell's own completion."""
    return ".." in word or "/" in word or "~" in word or "completion" in word
