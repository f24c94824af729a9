"""The command ``icm-fast``: one clear line and exit code 2 for whatever the user can fix."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from icm_fast.cli.commands import app
from icm_fast.cli.workers import with_ray_address
from icm_fast.distributed import say_once, stop
from icm_fast.errors import InputError, shown
from icm_fast.files.text import printable, without_secrets

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130
_LONGEST = 600


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
    return run_app(app, with_ray_address(arguments), "icm-fast")


def run_app(app: typer.Typer, arguments: Sequence[str], name: str) -> int:
    """Run a command line of any of our programs; see :func:`run`."""
    command = typer.main.get_command(app)
    try:
        code = command.main(list(arguments), prog_name=name, standalone_mode=False)
    except InputError as error:
        return _fail(str(error), EXIT_INPUT)
    except OSError as error:
        # Of a path that was looked at before it was opened: too long, in a folder of others, ...
        if error.filename is None or error.strerror is None:
            raise
        message = f"cannot use {shown(error.filename)}: {error.strerror}; name another path"
        return _fail(message, EXIT_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; run the same command again to resume", EXIT_INTERRUPTED)
    except Exception as error:
        # typer brings its own copy of click or uses the installed one, so the class of a usage
        # error is not known here; its method is.
        if not hasattr(error, "format_message"):
            raise
        return _fail(_cut(error.format_message()), EXIT_INPUT)
    stop()
    return code if isinstance(code, int) else 0


def _cut(message: str) -> str:
    """Typer repeats every word that it did not expect, and a glob can bring thousands."""
    return message if len(message) <= _LONGEST else message[:_LONGEST] + " ..."


def _fail(message: str, code: int) -> int:
    line = printable(without_secrets(" ".join(message.split())))
    say_once(f"icm-fast: {line}", lambda text: typer.echo(text, err=True))
    return code
