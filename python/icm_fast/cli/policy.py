"""The command ``icm-fast evaluate-policy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate_policy_command(
    policy_a: Annotated[str, typer.Argument(help="Model: hub id, folder, .gguf file or name.")],
    policy_b: Annotated[str, typer.Argument(help="The model that it is compared with.")],
    judge: Annotated[
        str,
        typer.Option(help="Folder that `train reward` wrote; with --pairwise a language model."),
    ],
    prompts: Annotated[
        str, typer.Option(help="File with the column prompt, or .txt with a prompt on each line.")
    ],
    kind: Annotated[
        str, typer.Option(help="dialogue (prompts are questions) or continuation (beginnings).")
    ] = "dialogue",
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="The judge compares two responses, in both orders.")
    ] = False,
    tokens: Annotated[int, typer.Option(help="Most tokens of a continuation.")] = 128,
    samples: Annotated[int, typer.Option(help="Continuations of each policy and prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Draw from this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    tie_margin: Annotated[float, typer.Option(help="Scores that differ by no more tie.")] = 0.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="JSON file, beside it Markdown and the samples; by default in runs/.",
        ),
    ] = None,
) -> None:
    """How often a judge prefers what one policy writes to what another one does."""
    from icm_fast.engine.progress import make_progress
    from icm_fast.model import load_model
    from icm_fast.training.rl import evaluate_policies, write_head_to_head
    from icm_fast.training.rl.outcome import check_output

    names = ("-".join(Path(policy).parts[-2:]) for policy in (policy_a, policy_b))
    path = output or Path("runs") / f"{'-against-'.join(names)}.json"
    check_output(path)
    judging: Any = load_model(judge) if pairwise else judge
    result = evaluate_policies(
        policy_a,
        policy_b,
        judge=judging,
        prompts=prompts,
        kind=kind,
        max_new_tokens=tokens,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        tie_margin=tie_margin,
        progress=make_progress(),
    )
    markdown, rows = write_head_to_head(result, path)
    typer.echo(result.to_markdown().rstrip())
    typer.echo(f"\nwritten to {path}, {markdown.name} and {rows.name}")
