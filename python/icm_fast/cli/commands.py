"""The program ``icm-fast``, assembled from one file for each family of commands."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer
from typer.completion import install_callback, show_callback
from typer.core import TyperGroup

from icm_fast.cli.assistant import assistant
from icm_fast.cli.config import config
from icm_fast.cli.demo import demo
from icm_fast.cli.evaluate import evaluate_app
from icm_fast.cli.experiment import experiment
from icm_fast.cli.export import export
from icm_fast.cli.kernels import tune_kernels
from icm_fast.cli.label import label
from icm_fast.cli.parameters import AsJson
from icm_fast.cli.publish import merge, push
from icm_fast.cli.report import report
from icm_fast.cli.review import review
from icm_fast.cli.runs import runs_app
from icm_fast.cli.search import doctor, search_command
from icm_fast.cli.settings import say_json
from icm_fast.cli.train import train_app
from icm_fast.runs.provenance import versions

if TYPE_CHECKING:
    from typer._click import Context

_LABEL = "Label data"
_USE = "Use the labels"
_PAPER = "Repeat the paper"
_INSTALLATION = "This installation"
_COMPLETION = {"--install-completion": install_callback, "--show-completion": show_callback}


class _Program(TyperGroup):
    """The group of all commands, which also lets the user name the shell to complete in.

    typer detects the shell from the parent process, which fails in containers and scripts.
    """

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if len(args) == 2 and args[0] in _COMPLETION:
            # Both end the process once they have a shell; they do not read the parameter.
            _COMPLETION[args[0]](ctx, self.params[0], args[1])
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Program,
    help="Label data with a language model and no supervision.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"icm-fast {metadata.version('icm-fast')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Label data with a language model and no supervision."""


app.command(rich_help_panel=_LABEL)(demo)
app.command(rich_help_panel=_LABEL)(label)
app.command("search", rich_help_panel=_LABEL)(search_command)
app.command(rich_help_panel=_LABEL)(doctor)
app.command(rich_help_panel=_LABEL)(report)
app.command(rich_help_panel=_LABEL)(review)
app.add_typer(runs_app, name="runs", rich_help_panel=_LABEL)
app.add_typer(evaluate_app, name="evaluate", rich_help_panel=_USE)
app.command(rich_help_panel=_USE)(export)
app.add_typer(train_app, name="train", rich_help_panel=_USE)
app.command(rich_help_panel=_USE)(merge)
app.command(rich_help_panel=_USE)(push)
app.command(rich_help_panel=_PAPER)(experiment)
app.command(rich_help_panel=_PAPER)(assistant)
app.command(rich_help_panel=_INSTALLATION)(config)
app.command(rich_help_panel=_INSTALLATION)(tune_kernels)


@app.command(rich_help_panel=_INSTALLATION)
def version(as_json: AsJson = False) -> None:
    """Print the versions of icm-fast, Python and the main packages."""
    if as_json:
        say_json(versions())
        return
    for name, number in versions().items():
        typer.echo(f"{name} {number}")
