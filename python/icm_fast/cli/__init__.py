"""The command ``icm-fast``: one clear line and exit code 2 for whatever the user can mend."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer

from icm_fast.cli.commands import app
from icm_fast.distributed import say_once, stop
from icm_fast.errors import InputError

_TWO_WORDS = {"evaluate reward": "evaluate-reward", "evaluate policy": "evaluate-policy"}
"""Other ways to say a command; not where the second word is a folder of that name."""

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        0 on success, 2 on a usage or input error, 130 when interrupted.
    """
    if not arguments:
        run(["--help"])
        return EXIT_INPUT
    return run_app(app, _spelled(arguments), "icm-fast")


def run_app(app: typer.Typer, arguments: Sequence[str], name: str) -> int:
    """Run a command line of any program of ours; see :func:`run`."""
    command = typer.main.get_command(app)
    try:
        code = command.main(list(arguments), prog_name=name, standalone_mode=False)
    except InputError as error:
        return _fail(str(error), EXIT_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; the same command goes on where it stopped", EXIT_INTERRUPTED)
    except Exception as error:
        # typer brings its own copy of click or uses the installed one: known by its method.
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message(), EXIT_INPUT)
    stop()
    return code if isinstance(code, int) else 0


def _spelled(arguments: Sequence[str]) -> list[str]:
    """The arguments with a command of two words as the one that it stands for."""
    name = _TWO_WORDS.get(" ".join(arguments[:2]))
    if name is None or Path(arguments[1]).is_dir():
        return list(arguments)
    return [name, *arguments[2:]]


def _fail(message: str, code: int) -> int:
    say_once("icm-fast: " + " ".join(message.split()), lambda text: typer.echo(text, err=True))
    return code
