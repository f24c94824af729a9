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
    """Accuracies on held-out pairs; the judge has no initial model."""

    initial: NotRequired[CountedShare]
    final: CountedShare


class PositiveShares(TypedDict):
    """Share of positive reviews by policy, with the judge's threshold and own accuracy."""

    threshold: float
    judge_accuracy: Share
    icm: Share
    start: Share
    gold: Share


class AssistantReport(TypedDict):
    """Every stage in figures; ``policies`` are the measurements of each training."""

    model: str
    config: dict[str, Any]
    search: SearchSummary
    reward_models: dict[str, RewardModelReport]
    policies: dict[str, list[dict[str, object]]]
    positive: PositiveShares
    bouts: dict[str, Bout]
