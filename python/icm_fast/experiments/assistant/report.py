"""The report of the assistant as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from icm_fast.experiments.assistant.documents import AssistantReport, SeedsReport, Share
from icm_fast.files.text import cell

_MEASURES = (
    ("reward", "reward", "{:+.2f}"),
    ("kl", "divergence, nats per token", "{:.3f}"),
    ("perplexity", "perplexity under the start policy", "{:.1f}"),
    ("length", "tokens", "{:.1f}"),
    ("finished", "share that ends on its own", "{:.2f}"),
    ("repetition", "share of repeated three-token sequences", "{:.3f}"),
    ("distinct", "share of different token pairs", "{:.2f}"),
)
_Policy = Literal["start", "icm", "gold", "human"]
_POLICIES: tuple[_Policy, ...] = ("start", "icm", "gold", "human")
_NAMES = {
    "icm": "found labels",
    "gold": "gold labels",
    "human": "gold labels of the pool too",
    "start": "start policy",
}


def report_text(report: AssistantReport) -> str:
    """Markdown tables of what ``run_assistant`` returns."""
    search, positive = report["search"], report["positive"]
    judge = positive["judge_accuracy"]
    episodes = _episodes(report["config"]["policy"])
    parts = [
        f"# An assistant without labels: {cell(report['model'])}",
        f"{search['n']} reviews were labelled without supervision; {search['agreement']:.2f} of "
        "the labels agree with gold. Intervals are 95 % bootstrap.",
        "## Reward models on held-out pairs",
        _table(
            ("labels", "initial", "final, after labelling the pool"),
            [
                (_NAMES.get(name, name), _figure(stages.get("initial")), _figure(stages["final"]))
                for name, stages in report["reward_models"].items()
            ],
        ),
        "The reward models of found and of gold labels have these of the same reviews, and label "
        "the pool themselves. The third one has gold labels of the pool's reviews instead, and as "
        "many pairs. The judge is trained on gold labels of other reviews. It separates positive "
        "from negative "
        f"held-out reviews in {_figure(judge)} of cases.",
        "## What the policies write for held-out prompts",
        f"The start policy is the model fine-tuned on {report['config']['n_start']} other reviews, "
        f"without labels. Each of the other policies is trained for {episodes} episodes.",
        _table(
            ("policy", "positive by the judge"),
            [(_NAMES[name], _figure(positive[name])) for name in _POLICIES],
        ),
        _table(
            ("by the judge", "win rate", "ties"),
            [
                (_bout_name(bout), _figure(won), str(won["ties"]))
                for bout, won in report["bouts"].items()
            ],
        ),
        "## Is the reward hacked?",
        _table(
            ("on held-out prompts", *_headings(report["policies"])),
            [
                (title, *(form.format(m[key]) for m in _ends(report["policies"])))
                for key, title, form in _MEASURES
            ],
        ),
        "Rewards of different reward models are on different scales.",
    ]
    return "\n\n".join(parts) + "\n"


def _headings(policies: Mapping[str, Sequence[Mapping[str, object]]]) -> list[str]:
    return [
        f"{_NAMES[name]}, {when}"
        for name, measured in policies.items()
        for when in ("before", f"after {measured[-1]['step']} steps")
    ]


def _ends(policies: Mapping[str, Sequence[Mapping[str, object]]]) -> list[Mapping[str, object]]:
    return [measured[end] for measured in policies.values() for end in (0, -1)]


def _episodes(policy: Mapping[str, int]) -> int:
    return policy["steps"] * policy["batch_size"] * policy["group_size"]


def _figure(figure: Share | None) -> str:
    if figure is None:
        return "–"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seeds_text(report: SeedsReport) -> str:
    """Markdown tables of what ``run_seeds`` returns."""
    listed = ", ".join(map(str, report["seeds"]))
    heads = tuple(f"seed {seed}" for seed in report["seeds"])
    parts = [
        f"# An assistant without labels: {cell(report['model'])}, seeds {listed}",
        "Intervals are 95 % bootstrap, seeds and prompts drawn together, each prompt with all its "
        "samples.",
        "## Policies, by the judge of each seed",
        _table(
            ("policy", "positive", *heads),
            [(_NAMES[n], _figure(f), *_each(f["seeds"])) for n, f in report["positive"].items()],
        ),
        _table(
            ("win rate", "mean", *heads),
            [
                (_bout_name(n), _figure(f), *_each(f["seeds"]))
                for n, f in report["win_rates"].items()
            ],
        ),
        _table(
            ("difference of win rates against the start policy", "mean", *heads),
            [
                (
                    " minus ".join(_NAMES[part] for part in n.split(" minus ")),
                    _figure(f),
                    *_each(f["seeds"]),
                )
                for n, f in report["differences"].items()
            ],
        ),
        "## Labels and reward models",
        _table(
            ("right", *heads),
            [
                ("found labels, on reviews", *_each(report["agreement"])),
                *(
                    (
                        f"reward model of {_NAMES.get(name, 'the judge')}, on held-out pairs",
                        *_each(values),
                    )
                    for name, values in report["reward_models"].items()
                ),
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _bout_name(bout: str) -> str:
    return " against ".join(_NAMES[name] for name in bout.split(" against "))


def _each(values: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in values]
