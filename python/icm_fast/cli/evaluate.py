"""The commands ``icm-fast evaluate run``, ``evaluate reward`` and ``evaluate policy``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from icm_fast.cli.parameters import (
    AllowHttp,
    AsJson,
    Assignments,
    Data,
    Limit,
    Options,
    Output,
    Preset,
    ProgressKind,
    RunModel,
    Seed,
    Server,
    Tokenizer,
)
from icm_fast.cli.search import request_model, run_search
from icm_fast.cli.settings import read_request, say, say_json
from icm_fast.errors import InputError
from icm_fast.runs.store import CONFIG_FILE
from icm_fast.scoring.models import Opened, open_model

if TYPE_CHECKING:
    from typer._click import Context

    from icm_fast.model.loaded import LoadedModel
    from icm_fast.runs.finished import FinishedRun

_JUDGE = "Judge"
_CONTINUATIONS = "Continuations"


class _Evaluate(TyperGroup):
    """The group ``evaluate``, which names the fix where a folder is given instead of a command."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and Path(args[0]).is_dir():
            raise InputError(
                f"{args[0]} is a folder, not a command of `icm-fast evaluate`; use "
                f"`icm-fast evaluate run {args[0]}`"
            )
        return super().parse_args(ctx, args)


evaluate_app = typer.Typer(
    cls=_Evaluate, help="Measure a run, a reward model or a policy on held-out data."
)


_Target = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Folder of a finished run, or a task to search first.",
        show_default=False,
    ),
]
_NTest = Annotated[int, typer.Option(metavar="N", help="Maximum number of held-out examples.")]


@evaluate_app.command("run")
def evaluate_run_command(
    target: _Target,
    data: Data = None,
    model: RunModel = None,
    n_test: _NTest = 100,
    seed: Seed = None,
    limit: Limit = None,
    output: Output = None,
    preset: Preset = None,
    assignments: Assignments = None,
    options: Options = None,
    server: Server = None,
    tokenizer: Tokenizer = None,
    allow_http: AllowHttp = False,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Compare zero-shot, found and gold labels on held-out examples."""
    from icm_fast.evaluation.report import comparison_text
    from icm_fast.evaluation.run import evaluate_run
    from icm_fast.runs.finished import read_run

    folder = Path(target)
    if (folder / CONFIG_FILE).exists():
        _refuse_search_options(
            folder,
            {
                "DATA": data,
                "--preset": preset,
                "--seed": seed,
                "--limit": limit,
                "--output": output,
                "--set": assignments,
                "--option": options,
            },
        )
    elif folder.is_dir():
        raise InputError(f"{folder} holds no run (no {CONFIG_FILE}); name a run or a task")
    else:
        request = read_request(
            None,
            assignments or (),
            options or (),
            task=target,
            data=data,
            model=model,
            preset=preset,
            seed=seed,
            limit=limit,
            output=output,
            server=server,
            tokenizer=tokenizer,
        )
        run_search(request, request_model(request), progress)
        folder = request.folder
    run = read_run(folder)
    opened = _predicting(run, model, server, tokenizer)
    comparison = evaluate_run(run, opened, n_test=n_test)
    if as_json:
        say_json(comparison)
        return
    say(comparison_text(comparison))


def _predicting(
    run: FinishedRun, model: str | None, server: str | None, tokenizer: str | None
) -> Opened:
    """The model that predicts: that of the run as it was reached, or another one."""
    config = run.config
    if model is not None:  # how the run's own server was read says nothing about it
        config = replace(config, engine="auto", server="auto", tokenizer="")
    config = replace(
        config, server=server or config.server, tokenizer=tokenizer or config.tokenizer
    )
    return open_model(model or run.model, config)


def _refuse_search_options(folder: Path, given: Mapping[str, object]) -> None:
    """Raise InputError for options that would be ignored, as the search is over."""
    ignored = [name for name, value in given.items() if value not in (None, [])]
    if ignored:
        raise InputError(
            f"{', '.join(ignored)} would change a search, but {folder} is a finished run; "
            "leave it out, or name a task to search"
        )


@evaluate_app.command("reward")
def evaluate_reward_command(
    reward_model: Annotated[
        Path,
        typer.Argument(
            metavar="RM", help="Folder written by `icm-fast train reward`.", show_default=False
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Pairs: a file with the columns prompt, chosen, rejected and subset; or lists of "
            "answers, as RewardBench 2 has them.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="JSON file, with Markdown next to it, or - for JSON on stdout; in RM by default.",
            show_default=False,
        ),
    ] = None,
    prior_sets: Annotated[
        bool, typer.Option("--prior-sets", help="Count RewardBench's prior sets, at half weight.")
    ] = False,
    refuse_long: Annotated[
        bool,
        typer.Option("--refuse-long", help="Refuse texts over the context; do not cut them."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a reward model's accuracy, as RewardBench and RewardBench 2 do."""
    from icm_fast.files import is_stdout, write_atomically, write_output
    from icm_fast.training.reward import evaluate_reward_file, load_reward_model

    path = output or reward_model / f"evaluation-{Path(data).stem}.json"
    if not is_stdout(path) and path.suffix != ".json":
        raise InputError(
            f"--output {path} must end in .json; the Markdown file is written next to it"
        )
    result = evaluate_reward_file(
        load_reward_model(reward_model), data, prior_sets=prior_sets, refuse_long=refuse_long
    )
    content = (json.dumps(result.to_dict(), indent=2) + "\n").encode()
    if is_stdout(path):
        write_output(path, content)
        return
    write = write_atomically if output is None else write_output
    write(path, content)
    write(path.with_suffix(".md"), result.to_markdown().encode())
    if as_json:
        say_json(result.to_dict())
        return
    say(result.to_markdown().rstrip())
    say(f"\nwritten to {path} and {path.with_suffix('.md').name}")


_PolicyA = Annotated[
    str,
    typer.Argument(
        metavar="A", help="A policy: hub id, folder, .gguf file or name.", show_default=False
    ),
]
_PolicyB = Annotated[
    str,
    typer.Argument(metavar="B", help="The policy to compare it with.", show_default=False),
]
_Prompts = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="File with the column prompt (texts or messages), or a .txt file with one per line.",
        show_default=False,
    ),
]
_Judge = Annotated[
    str,
    typer.Option(
        metavar="FOLDER",
        help="Folder of a reward model; with --pairwise, a language model.",
        show_default=False,
        rich_help_panel=_JUDGE,
    ),
]
_Pairwise = Annotated[
    bool,
    typer.Option(
        "--pairwise",
        help="The judge compares two responses, in both orders.",
        rich_help_panel=_JUDGE,
    ),
]
_TieMargin = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Maximum difference between two scores that counts as a tie.",
        rich_help_panel=_JUDGE,
    ),
]
_Kind = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="dialogue (prompts are questions) or continuation (prompts are beginnings).",
        rich_help_panel=_CONTINUATIONS,
    ),
]
_Format = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="What the policies read: plain, or chat (their chat templates); by default what they "
        "were trained with.",
        show_default=False,
        rich_help_panel=_CONTINUATIONS,
    ),
]
_JudgeFormat = Annotated[
    str,
    typer.Option(
        metavar="FORMAT",
        help="With --pairwise: format in which the judge reads prompts, plain or chat.",
        rich_help_panel=_JUDGE,
    ),
]
_Tokens = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Maximum number of tokens in a continuation.",
        rich_help_panel=_CONTINUATIONS,
    ),
]
_Samples = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Number of continuations per policy and prompt.",
        rich_help_panel=_CONTINUATIONS,
    ),
]
_Temperature = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Sampling temperature; 0 always takes the likeliest token.",
        rich_help_panel=_CONTINUATIONS,
    ),
]
_TopP = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Sample from the likeliest tokens that hold this much probability.",
        rich_help_panel=_CONTINUATIONS,
    ),
]
_Seed = Annotated[
    int,
    typer.Option(metavar="N", help="Seed of every random draw.", rich_help_panel=_CONTINUATIONS),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="JSON file, with Markdown and the samples next to it; in runs/ by default.",
        show_default=False,
    ),
]


@evaluate_app.command("policy")
def evaluate_policy_command(
    policy_a: _PolicyA,
    policy_b: _PolicyB,
    prompts: _Prompts,
    judge: _Judge,
    pairwise: _Pairwise = False,
    tie_margin: _TieMargin = 0.0,
    judge_format: _JudgeFormat = "plain",
    kind: _Kind = "dialogue",
    format: _Format = None,
    tokens: _Tokens = 128,
    samples: _Samples = 1,
    temperature: _Temperature = 1.0,
    top_p: _TopP = 1.0,
    seed: _Seed = 0,
    output: _Output = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Measure how often a judge prefers policy A to policy B."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.model import load_model
    from icm_fast.training.rl import evaluate_policies, write_head_to_head
    from icm_fast.training.rl.outcome import check_output

    names = ("-".join(Path(policy).parts[-2:]) for policy in (policy_a, policy_b))
    path = output or Path("runs") / f"{'-against-'.join(names)}.json"
    check_output(path)
    judging: LoadedModel | str = load_model(judge) if pairwise else judge
    result = evaluate_policies(
        policy_a,
        policy_b,
        judge=judging,
        prompts=prompts,
        kind=kind,
        format=format,
        judge_format=judge_format,
        max_new_tokens=tokens,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        tie_margin=tie_margin,
        progress=make_progress(progress),
    )
    markdown, rows = write_head_to_head(result, path)
    if as_json:
        say_json(result.to_dict())
        return
    say(result.to_markdown().rstrip())
    say(f"\nwritten to {path}, {markdown.name} and {rows.name}")
