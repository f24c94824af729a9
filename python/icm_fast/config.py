"""Every setting of a search, validated once, immutable afterwards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from icm_fast.errors import InputError, suggest

OBJECTIVES = ("calibrated", "mean_logprob", "sum_logprob", "mean_logodds")
MOVES = ("single", "group", "sweep", "grow")
SCORERS = ("tree", "naive")
NORMALIZATIONS = ("labels", "vocabulary")
COOLING_CLOCKS = ("iterations", "accepted")
STARTS = ("zero-shot", "random", "given")
CONTEXT_ORDERS = ("tree", "append")
DTYPES = ("auto", "float32", "bfloat16", "float16")

_PRESETS: dict[str, dict[str, Any]] = {
    # Ours: calibrated objective, moves that change many labels for one evaluation, proposals that
    # lean on what the label words mean to the model.
    "default": {
        "objective": "calibrated",
        "moves": ("grow", "sweep", "group"),
        "initial_temperature": 1.0,
        "cooling_clock": "iterations",
        "cooling": 0.99,
        "fix_both_false": True,
        "fix_accepts_ties": False,
        "max_iterations": 1000,
        "return_best": True,
        "start": "zero-shot",
        "prior_weight": 1.0,
    },
    # Algorithms 1 and 2 as printed in arXiv 2506.10139.
    "paper": {
        "objective": "mean_logprob",
        "moves": ("single",),
        "initial_temperature": 10.0,
        "cooling_clock": "iterations",
        "cooling": 0.99,
        "fix_both_false": True,
        "fix_accepts_ties": False,
        "max_iterations": 3000,
        "return_best": False,
        "start": "random",
        "prior_weight": 0.0,
    },
    # The choices of the authors' repository.
    "authors-code": {
        "objective": "mean_logodds",
        "moves": ("single",),
        "initial_temperature": 10.0,
        "cooling_clock": "accepted",
        "cooling": 2.0,
        "fix_both_false": False,
        "fix_accepts_ties": True,
        "max_iterations": 3000,
        "return_best": False,
        "start": "random",
        "prior_weight": 0.0,
    },
}
PRESETS = tuple(_PRESETS)

REMOVED_SETTINGS: dict[str, Any] = {
    "anchors": 0,
    "sequential_test": 0.0,
    "delayed_acceptance": False,
}
"""Settings that only version 0.1 had, each with the value that switched it off."""


def without_removed(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` without removed settings: one that was off changes nothing.

    Raises:
        InputError: One was on.
    """
    for name, off in REMOVED_SETTINGS.items():
        if content.get(name, off) not in (off, None):
            raise InputError(
                f"{name} was removed in 0.2; use icm_fast 0.1 for this run, or drop it"
            )
    return {name: value for name, value in content.items() if name not in REMOVED_SETTINGS}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Settings of one search. ``None`` means "what the preset says".

    Attributes:
        preset: ``default``, ``paper`` or ``authors-code``.
        objective: Mutual predictability P(D): ``calibrated``, ``mean_logprob``,
            ``sum_logprob`` or ``mean_logodds``.
        alpha: Weight of P(D) in U(D) = alpha P(D) - I(D).
        initial_temperature: T_0 of the schedule T = max(T_min, T_0 / (1 + beta log n)).
        min_temperature: T_min.
        cooling: beta, the coefficient of the logarithm.
        cooling_clock: n counts ``iterations`` (paper) or 1 + ``accepted`` changes (authors' code).
        start: Labels before the first move: ``random`` (n_initial of them, balanced),
            ``zero-shot`` (every example's best label without any demonstration, calibrated) or
            ``given`` (initial_labels).
        n_initial: K, examples with balanced random labels at a random start.
        initial_labels: Index of each example's label at the start ``given``, -1 where unlabelled.
            The search may change them.
        label_shares: Expected share of each label, in the order of the label space, where it is
            known roughly. The calibrated objective cannot tell a model's preference for a label
            from a label that is frequent, and its proposals aim at equal shares without this.
        prior_weight: Weight, in proposals alone, of the calibrated zero-shot log-probabilities
            beside the leave-one-out ones. The label words then keep their meaning: without it a
            small model climbs to labellings that predict each other better than true ones do.
        fix_rounds: M, rounds of ConsistencyFix.
        fix_both_false: Whether the fix may set a pair to label 0 on both sides.
        fix_accepts_ties: Whether the fix accepts an equal utility.
        group_weight: Weight of unlabelled examples that share a constraint with
            labelled ones, against 1 for all others, when an example is drawn.
        moves: Kinds of proposals: ``single`` (the paper's), ``group`` (the best consistent labels
            of one constraint group), ``sweep`` (all groups with a disagreement at once), ``grow``
            (several additions at once).
        growth: Examples that ``grow`` adds, as a share of those labelled.
        single_tries: Rejected ``single`` and ``group`` moves after which a state is left alone
            (only beside ``group``, ``sweep`` or ``grow``; the paper's draws are not limited).
        restarts: How often a search that has settled goes on from its best labelling, with the
            share ``kick`` of the examples relabelled at random.
        kick: That share, above 0 and at most 1.
        chains: Searches that run side by side, share what was scored, and of which the best result
            counts. The first starts as ``start`` says, the others from random labels.
        lazy_queries: Score an unlabelled example only when a step draws it, where nothing else
            needs its scores. Changes no decision.
        early_rejection: Stop scoring a candidate once its remaining examples cannot save it from
            rejection (objectives ``mean_logprob`` and ``sum_logprob``). Changes no decision.
        max_iterations: Upper bound of search steps (null draws count).
        max_evaluations: Upper bound of exact evaluations of U(D); 0 for no bound.
        max_tokens: Tokens forwarded after which no further labelling is scored; 0 for no bound.
        return_best: Return the best complete labelling seen instead of the last state.
        context_order: ``tree``: the contexts are a function of the labels. ``append``: a labelling
            that adds to one scored before keeps its contexts and appends what is new, so that an
            addition costs one encoding and one query per example; U then depends on that order,
            and the final labels are scored again under ``tree``. Only with the ``tree`` scorer.
        context_demonstrations: An approximation for data sets beyond the context window: each
            context holds at most so many other labelled examples (scorers/bounded.py). 0: all.
        normalize: Log-softmax over the ``labels`` or over the ``vocabulary``.
        seed: Seed of every draw and of the context orders.
        scorer: ``tree`` (shared prefixes) or ``naive`` (one prompt per example).
        dtype: Weights' dtype; ``auto`` takes bfloat16 where the machine multiplies it fast.
        int8: Approximate the linear layers by 8-bit integers, weights and activations with a scale
            for every 64 inputs. Only with the ``tree`` scorer, on processors with AVX-512 VNNI.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or ``balanced``: layers over all GPUs.
        kv_budget_tokens: Most tokens whose keys and values are held at a time.
        batch_tokens: Most tokens in one forward pass.
        context_limit: Longest context in tokens; 0 takes the model's own.
    """

    preset: str = "default"
    objective: str | None = None
    alpha: float = 50.0
    initial_temperature: float | None = None
    min_temperature: float = 0.01
    cooling: float | None = None
    cooling_clock: str | None = None
    start: str | None = None
    n_initial: int = 8
    initial_labels: tuple[int, ...] = ()
    label_shares: tuple[float, ...] = ()
    prior_weight: float | None = None
    fix_rounds: int = 10
    fix_both_false: bool | None = None
    fix_accepts_ties: bool | None = None
    group_weight: int = 100
    moves: tuple[str, ...] | None = None
    growth: float = 1.0
    single_tries: int = 2
    restarts: int = 0
    kick: float = 0.25
    chains: int = 1
    lazy_queries: bool = True
    early_rejection: bool = True
    max_iterations: int | None = None
    max_evaluations: int = 0
    max_tokens: int = 0
    return_best: bool | None = None
    context_order: str = "tree"
    context_demonstrations: int = 0
    normalize: str = "labels"
    seed: int = 0
    scorer: str = "tree"
    dtype: str = "auto"
    int8: bool = False
    device: str = "auto"
    kv_budget_tokens: int = 65536
    batch_tokens: int = 4096
    context_limit: int = 0

    def __post_init__(self) -> None:
        if self.preset not in _PRESETS:
            raise InputError(f"unknown preset {self.preset!r}{suggest(self.preset, PRESETS)}")
        for name, value in _PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "moves", tuple(self.moves or ()))
        object.__setattr__(self, "label_shares", tuple(self.label_shares))
        # NumPy's numbers are no YAML.
        given = tuple(y.item() if hasattr(y, "item") else y for y in self.initial_labels)
        object.__setattr__(self, "initial_labels", given)
        self._check_choices()
        self._check_ranges()

    def _check_choices(self) -> None:
        for name, known in (
            ("objective", OBJECTIVES),
            ("cooling_clock", COOLING_CLOCKS),
            ("start", STARTS),
            ("normalize", NORMALIZATIONS),
            ("scorer", SCORERS),
            ("context_order", CONTEXT_ORDERS),
            ("dtype", DTYPES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"unknown {name} {value!r}{suggest(str(value), known)}")
        for name in ("int8", "lazy_queries", "early_rejection"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.int8 and self.scorer != "tree":
            raise InputError(f"int8 runs with scorer=tree only, got {self.scorer}; drop int8")
        growing, bounded = self.context_order == "append", self.context_demonstrations != 0
        if (growing or bounded) and self.scorer != "tree":
            name = "context_order=append" if growing else "context_demonstrations"
            raise InputError(f"{name} needs scorer=tree, got {self.scorer}; drop one of them")
        if growing and bounded:
            raise InputError(
                "context_order=append keeps all demonstrations in every context; drop it or "
                f"context_demonstrations={self.context_demonstrations}"
            )
        for share in self.label_shares:
            if not isinstance(share, (int, float)) or not 0 < share <= 1:
                raise InputError(f"label_shares must lie above 0 and at most at 1, got {share!r}")
        if self.label_shares and abs(sum(self.label_shares) - 1) > 0.01:
            raise InputError(f"label_shares add up to {sum(self.label_shares)}; they must give 1")
        self._check_initial_labels()
        if not self.moves:
            raise InputError(f"moves is empty; name at least one of {', '.join(MOVES)}")
        for move in self.moves:
            if move not in MOVES:
                raise InputError(f"unknown move {move!r}{suggest(move, MOVES)}")

    def _check_initial_labels(self) -> None:
        if bool(self.initial_labels) != (self.start == "given"):
            raise InputError(
                f"start={self.start} with {len(self.initial_labels)} initial_labels; give "
                "initial_labels and start=given together, or neither"
            )
        for row, label in enumerate(self.initial_labels):
            if isinstance(label, bool) or not isinstance(label, int) or label < -1:
                raise InputError(
                    f"initial_labels[{row}] = {label!r} is no label; give the index of a label, or "
                    "-1 for none"
                )

    def _check_ranges(self) -> None:
        for name, low, high in (
            ("alpha", 0.0, 1e9),
            ("initial_temperature", 0.0, 1e9),
            ("min_temperature", 0.0, 1e9),
            ("cooling", 0.0, 1e9),
            ("n_initial", 1, 1_000_000),
            ("prior_weight", 0.0, 1e6),
            ("fix_rounds", 0, 1_000_000),
            ("group_weight", 1, 1_000_000),
            ("growth", 0.0, 1e6),
            ("single_tries", 1, 1_000_000),
            ("restarts", 0, 1_000_000),
            ("kick", 1e-9, 1.0),
            ("chains", 1, 10_000),
            ("max_iterations", 0, 10**12),
            ("max_evaluations", 0, 10**12),
            ("max_tokens", 0, 10**15),
            ("context_demonstrations", 0, 1_000_000),
            ("seed", 0, 2**63 - 1),
            ("kv_budget_tokens", 1, 10**12),
            ("batch_tokens", 1, 10**12),
            ("context_limit", 0, 10**12),
        ):
            check_number(name, getattr(self, name), low, high)

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved settings as plain YAML types."""
        content = dataclasses.asdict(self)
        content["moves"] = list(self.moves or ())
        content["label_shares"] = list(self.label_shares)
        content["initial_labels"] = list(self.initial_labels)
        return content

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> SearchConfig:
        """Build from YAML content; an unknown key is an error that names the nearest one."""
        settings = without_removed(content)
        check_names(settings, (f.name for f in dataclasses.fields(cls)))
        return cls(**settings)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise InputError unless ``value`` is a number in ``low .. high``; a whole one if low is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} must be a number, got {value!r}")
    if isinstance(low, int) and not isinstance(value, int):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(f"{name} = {value} lies outside {low} .. {high}")


def check_names(names: Iterable[Any], known: Iterable[str]) -> None:
    """Raise InputError for the first of ``names`` that is no setting; it names the nearest."""
    settings = set(known)
    for name in names:
        if name not in settings:
            raise InputError(f"unknown setting {name!r}{suggest(str(name), settings)}")
