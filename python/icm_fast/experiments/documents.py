"""What an experiment writes as JSON: facts of its cells, and the document made of them."""

from __future__ import annotations

from typing import Literal, TypedDict, final

Kind = Literal["plain", "calibrated"]
KINDS: tuple[Kind, Kind] = ("plain", "calibrated")

Versions = dict[str, str]
"""Of packages, and the machine."""


class AgreementFacts(TypedDict):
    """Found labels against gold; counts are by label."""

    agreement: float
    permuted_agreement: float
    gold_counts: list[int]
    found_counts: list[int]


class SearchFacts(AgreementFacts):
    """One search, or all of them where batches are labelled one by one.

    ``gold_utility`` is None where gold is incomplete or each batch has another model.
    """

    gold_utility: float | None
    n: int
    n_labelled: int
    utility: float
    n_evaluations: int
    n_iterations: int
    n_parameters: int
    n_tokens: int
    seconds: float
    reason: str
    concerns: list[str]


class SeedSearch(SearchFacts):
    """The search of one seed."""

    seed: int


class HeldOutFacts(TypedDict):
    """Held-out examples; ``pairs`` holds the constraints as first, second, allowed table."""

    ids: list[str]
    gold: list[int]
    groups: list[str | None]
    labels: list[str]
    pairs: list[tuple[int, int, tuple[tuple[bool, ...], ...]]]


class Order(TypedDict):
    """One random order of all contexts."""

    seed: int
    utility: float
    agreement: float
    accuracy: float
    calibrated: float


class OrderFacts(TypedDict):
    """Several orders; ``spread`` is the standard deviation of an own label's log-probability."""

    orders: list[Order]
    spread: float


class SeedOrders(OrderFacts):
    """The orders of one seed."""

    seed: int


class Record(TypedDict):
    """What the results of a cell came from, and each set of versions that computed some."""

    identity: dict[str, object]
    versions: list[Versions]


class Accuracies(TypedDict):
    """Accuracies of one method, means over seeds."""

    accuracy: float
    by_seed: list[float]
    balanced_accuracy: float


class MethodAccuracies(Accuracies):
    """The same with a 95 % interval and the share of satisfied constraints."""

    interval: list[float]
    consistency: float | None


@final
class MethodFigures(TypedDict):
    """One method over all seeds."""

    n_shots: float | None
    labels_accuracy: float | None
    n_tokens: float | None
    seconds: float | None
    plain: MethodAccuracies
    calibrated: MethodAccuracies
    calibration_error: float | None
    auc: float | None


@final
class LeftOut(TypedDict):
    """A method that does not apply, and why."""

    left_out: str


MethodDocument = MethodFigures | LeftOut


class Difference(TypedDict):
    """A difference of accuracies with its 95 % interval."""

    difference: float
    interval: list[float]


class MethodDifference(TypedDict):
    """Two methods on the same examples: accuracy of ``method`` minus that of ``against``."""

    method: str
    against: str
    plain: Difference
    calibrated: Difference


class SeedSearches(TypedDict):
    """The searches of a column."""

    seeds: list[SeedSearch]


class ColumnDocument(TypedDict):
    """One column over its seeds; ``x`` is its place on a numeric axis."""

    name: str
    task: str
    model: str
    n: int
    x: float | None
    definition: dict[str, object]
    identities: list[dict[str, object]]
    n_test: int
    majority: float
    search: SeedSearches
    orders: list[SeedOrders]
    methods: dict[str, MethodDocument]
    differences: list[MethodDifference]


class Heading(TypedDict):
    """What the definition says of the whole experiment."""

    title: str
    experiment: str
    suite: str
    source: str
    note: str
    figure: str
    x_label: str
    log_x: bool
    seeds: list[int]


class ExperimentDocument(Heading):
    """The result of an experiment."""

    command: str
    machine: str
    versions: Versions
    columns: list[ColumnDocument]


class Point(TypedDict):
    """A value of a figure with its interval."""

    accuracy: float
    interval: list[float]
