"""The report of the assistant, as ``report.json`` holds it."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Share(TypedDict):
    """A share or rate with its 95 % interval."""

    value: float
    low: float
    high: float


class CountedShare(Share):
    """The same with the number of pairs or bouts."""

    n: int


class Bout(CountedShare):
    """Win rate of one policy against another; ``ties`` count half."""

    ties: int


class SearchSummary(TypedDict):
    """Found labels against gold."""

    n: int
    agreement: float


class RewardModelReport(TypedDict):
    """Accuracies on held-out pairs; ``human`` and the judge have no initial model."""

    initial: NotRequired[CountedShare]
    final: CountedShare


class PositiveShares(TypedDict):
    """Share of positive reviews by policy, with the judge's threshold and own accuracy."""

    threshold: float
    judge_accuracy: Share
    icm: Share
    start: Share
    gold: Share
    human: Share


class AssistantReport(TypedDict):
    """Every stage in figures; ``policies`` are the measurements of each training."""

    model: str
    config: dict[str, Any]
    search: SearchSummary
    reward_models: dict[str, RewardModelReport]
    policies: dict[str, list[dict[str, object]]]
    positive: PositiveShares
    bouts: dict[str, Bout]


class SeedsFigure(Share):
    """A mean over seeds; its interval is over seeds and prompts, both drawn together."""

    seeds: list[float]


class SeedsReport(TypedDict):
    """What the reports of several seeds say together.

    ``win_rates`` are those of the bouts; ``differences`` are of win rates against the start policy,
    paired by seed, prompt and sample; ``reward_models`` are accuracies, by seed.
    """

    model: str
    seeds: list[int]
    agreement: list[float]
    reward_models: dict[str, list[float]]
    positive: dict[str, SeedsFigure]
    win_rates: dict[str, SeedsFigure]
    differences: dict[str, SeedsFigure]
