"""The command ``icm-fast label``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icm_fast.cli.parameters import (
    MODEL_HELP,
    AllowHttp,
    Engine,
    ProgressKind,
    ReportTo,
    Seed,
    Server,
    Tokenizer,
)
from icm_fast.cli.search import resumable
from icm_fast.cli.settings import parse_assignments, read_settings_file, say, say_json
from icm_fast.cli.workers import Ray, RayGpus, RayWorkers, models
from icm_fast.errors import InputError, shown
from icm_fast.model.lazy import LazyModel
from icm_fast.tracking import Tracking

if TYPE_CHECKING:
    from icm_fast.labelling import Labelling, LabelTask
    from icm_fast.labelling.config import LabelConfig
    from icm_fast.model.loaded import LoadedModel
    from icm_fast.scoring.models import Opened, OpenModel

_SHARES = {
    "given": "as given",
    "estimated": "estimated from the rows",
    "assumed": "taken to be about equal; if one label is rare, say so with --shares",
}
_ANNOUNCED = "no --model given: labelling with the small embedded model {}"
_QUESTION = "Question"
_SETTINGS = "Settings"

_Table = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="CSV, TSV, JSON, JSONL (also .gz) or Parquet file, or hub:NAME.",
        show_default=False,
    ),
]
_Labels = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Labels, 2 to 50.", rich_help_panel=_QUESTION),
]


def _column(help: str) -> Any:
    return typer.Option(metavar="COLUMN", help=help, rich_help_panel=_QUESTION)


def _share(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel=_SETTINGS)


_Claim = Annotated[str | None, _column("Instead of --text: texts that are true or false.")]
_Group = Annotated[str | None, _column("Group inside which rules work.")]
_Answer = Annotated[str | None, _column("Answer that rules compare.")]
_Known = Annotated[str | None, _column("Known labels; empty cells are labelled.")]
_Text = Annotated[str | None, _column("Texts to label.")]
_Compare = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="A B",
        help="Two columns, of which one has the better text; --text may name the question.",
        rich_help_panel=_QUESTION,
    ),
]
_Template = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Prompt with {column} placeholders that ends right before the label.",
        rich_help_panel=_QUESTION,
    ),
]
_Instruction = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Stands once before all rows, such as what the labels are for.",
        rich_help_panel=_QUESTION,
    ),
]
_Describe = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LABEL=TEXT",
        help="What a label means; may be repeated.",
        rich_help_panel=_QUESTION,
    ),
]
_Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="NAME",
        help="Rule inside groups: exclusive, equal, asymmetric; may be repeated.",
        rich_help_panel=_QUESTION,
    ),
]
_Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help=f"{MODEL_HELP} By default smollm2.", show_default=False),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The labelled table; TABLE-labelled.csv by default, - is standard output.",
        show_default=False,
    ),
]
_Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where an interrupted labelling resumes; runs/label-TABLE-seedN by default.",
        show_default=False,
    ),
]
_Abstain = Annotated[
    float | None,
    _share("--abstain", "SHARE", "Leave this share of the rows, the least certain, unlabelled."),
]
_Shares = Annotated[
    str | None, _share("--shares", "X,Y", "Expected share of each label, if it is known.")
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the labelling; may be repeated.",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
_Prefix = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Put before the names of the new columns.")
]
_Corrections = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Reviewed rows with corrected labels, which become known.",
        show_default=False,
    ),
]
_ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file of options and settings by their names; flags override it.",
        show_default=False,
    ),
]
_Plan = Annotated[
    bool, typer.Option("--plan", help="Print rows, tokens, time and memory, and stop.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the plan or the summary as JSON.")]


def label(
    table: _Table,
    text: _Text = None,
    labels: _Labels = None,
    claim: _Claim = None,
    compare: _Compare = None,
    template: _Template = None,
    instruction: _Instruction = None,
    describe: _Describe = None,
    known: _Known = None,
    group: _Group = None,
    answer: _Answer = None,
    rules: _Rules = None,
    model: _Model = None,
    output: _Output = None,
    folder: _Folder = None,
    seed: Seed = None,
    abstain: _Abstain = None,
    shares: _Shares = None,
    assignments: _Set = None,
    prefix: _Prefix = None,
    corrections: _Corrections = None,
    file: _ConfigFile = None,
    plan: _Plan = False,
    report_to: ReportTo = None,
    as_json: _AsJson = False,
    engine: Engine = None,
    server: Server = None,
    tokenizer: Tokenizer = None,
    allow_http: AllowHttp = False,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    ray_gpus: RayGpus = None,
    progress: ProgressKind = "auto",
) -> None:
    """Label every row of a table; run it again to resume."""
    flags: dict[str, object] = {
        "labels": None if labels is None else _listed(labels),
        "text": text,
        "claim": claim,
        "compare": compare,
        "template": template,
        "instruction": instruction,
        "descriptions": _described(describe),
        "known": known,
        "group": group,
        "answer": answer,
        "rules": rules,
        "model": model,
        "output": output,
        "folder": folder,
        "prefix": prefix,
        "corrections": corrections,
        "seed": seed,
        "abstain": abstain,
        "engine": engine,
        "server": server,
        "tokenizer": tokenizer,
    }
    request = _request(file, assignments or [], shares, flags)
    if plan:
        _print_plan(table, request, as_json)
        return
    with models(ray, ray_workers, ray_gpus) as open_one:
        _run(table, request, open_one, as_json, progress, Tracking(report_to or ()))


@dataclass(frozen=True, slots=True)
class _Request:
    """What the options and a file say."""

    task: LabelTask
    config: LabelConfig
    model: str | None
    output: Path | None
    folder: Path | None
    prefix: str
    corrections: Path | None


_TASK_TEXTS = ("text", "claim", "template", "instruction", "known", "group", "answer")
_TASK_LISTS = ("labels", "compare", "rules", "descriptions")
OTHERS = ("model", "output", "folder", "prefix", "corrections")


def _request(
    file: Path | None, assignments: list[str], shares: str | None, flags: dict[str, object]
) -> _Request:
    """Merge a YAML file, ``--set`` assignments and flags (None where not given)."""
    from icm_fast.labelling import LabelTask
    from icm_fast.labelling.config import LabelConfig

    settings = [field.name for field in dataclasses.fields(LabelConfig)]
    names = (*_TASK_TEXTS, *_TASK_LISTS, *OTHERS)
    content: dict[str, Any] = {}
    if file is not None:
        texts = frozenset((*_TASK_TEXTS, *OTHERS, "labels", "descriptions", "compare"))
        content = read_settings_file(file, (*names, *settings), texts)
    content |= parse_assignments(assignments, settings)
    if shares is not None:
        content["shares"] = _numbers(shares)
    content |= {name: value for name, value in flags.items() if value is not None}
    for name in OTHERS:
        value = content.get(name)
        if value is not None and not isinstance(value, str | Path):
            raise InputError(f"{name} must be text, got {shown(value)}")
    config = LabelConfig.from_mapping({k: v for k, v in content.items() if k not in names})
    asked = {k: v for k, v in content.items() if k in (*_TASK_TEXTS, *_TASK_LISTS)}
    paths = {
        name: Path(content[name]) if content.get(name) else None
        for name in ("output", "folder", "corrections")
    }
    return _Request(
        task=LabelTask(**{k: v for k, v in asked.items() if v is not None}),
        config=config,
        model=content.get("model"),
        prefix=content.get("prefix") or "",
        **paths,
    )


def _run(
    name: str,
    request: _Request,
    open_one: OpenModel,
    as_json: bool,
    progress: str,
    track: Tracking,
) -> None:
    from icm_fast.engine.progress import make_progress
    from icm_fast.labelling import label_rows, open_table
    from icm_fast.labelling.api import (
        DEFAULT_MODEL,
        check_new_columns,
        output_path,
        write_labelled,
    )
    from icm_fast.labelling.review import corrected_table

    task, config, model = request.task, request.config, request.model
    opened = open_table(name)
    path = output_path(opened, request.output)
    stem = (path.name if request.output is None else Path(name).name).partition(".")[0]
    folder = request.folder or (
        Path("runs") / f"label-{stem.removesuffix('-labelled')}-seed{config.seed}"
    )
    check_new_columns(opened, task, request.prefix)
    if request.corrections is not None:
        opened, task = corrected_table(opened, task, request.corrections)
    if model is None and config.engine == "auto":
        lazy = _default(open_one, config)
    else:
        lazy = open_one(model or DEFAULT_MODEL, config)
    with resumable(folder):
        labelling = label_rows(
            opened,
            task,
            model=lazy,
            config=config,
            folder=folder,
            progress=make_progress(progress),
            track=track,
        )
        write_labelled(opened, labelling, path, request.prefix)
    if as_json:
        say_json(labelling.summary(), err=str(path) == "-")
        return
    for line in summary_lines(labelling, str(path), folder):
        say(line, err=str(path) == "-")


def _default(open_one: OpenModel, config: LabelConfig) -> Opened:
    """The default model, which says its name when it loads: once the table is known to be good."""
    from icm_fast.labelling.api import DEFAULT_MODEL
    from icm_fast.scoring.models import open_model

    if open_one is not open_model:
        say(_ANNOUNCED.format(DEFAULT_MODEL), err=True)
        return open_one(DEFAULT_MODEL, config)

    class Announced(LazyModel):
        said = False

        def load(self) -> LoadedModel:
            if not self.said:
                self.said, name = True, self.name
                say(_ANNOUNCED.format(name), err=True)
            return super().load()

    return Announced(DEFAULT_MODEL, dtype=config.dtype, device=config.device)


def summary_lines(labelling: Labelling, path: str, folder: Path) -> list[str]:
    """What a labelling found, for people."""
    decision = labelling.decision
    n_rows = len(decision.labels)
    how = ", ".join(f"{n:,} by {name}" for name, n in decision.counts().items() if n)
    lines = [f"{n_rows:,} rows: {how.replace('by abstained', 'left without a label')}"]
    counts = zip(labelling.task.labels, decision.label_counts(), strict=True)
    lines += ["labels: " + ", ".join(f"{name} {n:,} ({n / n_rows:.0%})" for name, n in counts)]
    lines += [f"shares: {_SHARES[decision.shares_from]}"]
    confidence = decision.confidence.copy()
    confidence.sort()
    lines += [
        f"confidence: {confidence.mean():.2f} in the mean, "
        f"below {confidence[n_rows // 10]:.2f} in the least certain tenth"
    ]
    if (verdict := labelling.verdict) is not None:
        lines += [f"verdict: {verdict.headline}", *(f"  - {reason}" for reason in verdict.reasons)]
        lines += [f"  {verdict.advice}"] if verdict.advice else []
    lines += [f"prompt: {labelling.task.template!r}"]
    return [*lines, f"labelled table: {path}", f"everything that was scored: {folder}"]


def _print_plan(name: str, request: _Request, as_json: bool) -> None:
    from icm_fast.labelling import open_table
    from icm_fast.labelling.api import DEFAULT_MODEL
    from icm_fast.labelling.plan import plan_labelling

    model = request.model or DEFAULT_MODEL
    plan = plan_labelling(open_table(name), request.task, model, request.config)
    if as_json:
        content = {**dataclasses.asdict(plan), "n_tokens": plan.n_tokens}
        if plan.server is not None:
            content["n_requests"] = plan.n_requests
        say_json(content)
        return
    for line in plan.lines():
        say(line)


def _numbers(shares: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in shares.split(","))
    except ValueError:
        raise InputError(f"--shares {shares!r} must be numbers, such as 0.9,0.1") from None


def _described(assignments: list[str] | None) -> dict[str, str] | None:
    """Descriptions by label, from words ``LABEL=TEXT``."""
    found: dict[str, str] = {}
    for assignment in assignments or ():
        label, equals, text = assignment.partition("=")
        if not equals or not label.strip() or not text.strip():
            raise InputError(f"--describe {shown(assignment)} must be LABEL=TEXT")
        if label.strip() in found:
            raise InputError(f"--describe has {shown(label.strip())} twice; leave one of them")
        found[label.strip()] = text
    return found or None


def _listed(labels: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in labels.split(","))
