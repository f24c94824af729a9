"""Arguments and options that several commands share, with their help texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from icm_fast.scoring.servers.address import ALLOW_HTTP

MODEL_HELP = "Hub id, folder, .gguf file, smollm2 / gemma3-270m, or http://host:port of a server."
_SETTINGS = "Settings"
_SERVER = "Model on a server"

Task = Annotated[
    str | None,
    typer.Argument(metavar="TASK", help="Task, for example truthfulqa.", show_default=False),
]
Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA", help="Data file; some tasks bring their own.", show_default=False
    ),
]
RunFolder = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False),
]
Model = Annotated[str | None, typer.Option(metavar="MODEL", help=MODEL_HELP, show_default=False)]
RunModel = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help=f"{MODEL_HELP} By default the model of the run.", show_default=False
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="vllm, sglang, llama.cpp or openai; by default what the server says it is.",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="vllm: run the model by vLLM in this process, where it is installed.",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Hub id or folder of its tokenizer; by default where the server has the model from.",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]


def _allow_http(allowed: bool) -> None:
    if allowed:
        os.environ[ALLOW_HTTP] = "1"


AllowHttp = Annotated[
    bool,
    typer.Option(
        "--allow-http",
        callback=_allow_http,
        help="Send texts and keys unencrypted to another machine.",
        rich_help_panel=_SERVER,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Seed of every random draw; 0 by default.", show_default=False),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of examples to load: whole groups, drawn at random by the seed. All "
        "by default.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Run folder; runs/TASK-PRESET-seedN by default.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Set of defaults: default, paper, paper-literal or authors-code.",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file with settings; options override it.",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the search; may be repeated.",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Change an option of the task; may be repeated.",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
TrainingFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file of settings by their names; --set overrides it.",
        show_default=False,
    ),
]
TrainingAssignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the training; may be repeated.",
        show_default=False,
    ),
]
ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        "--report-to",
        metavar="NAME",
        help="Tracker that receives each step: tensorboard, wandb, trackio, mlflow or jsonl; may "
        "be repeated.",
        show_default=False,
        rich_help_panel="Tracking",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what comes out as JSON.")]
ProgressKind = Annotated[
    str,
    typer.Option(
        "--progress",
        metavar="KIND",
        help="rich (a bar), plain (lines on stderr) or none; by default what stderr can show.",
        show_default=False,
    ),
]
