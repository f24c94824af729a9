"""Every setting of a search, validated once, immutable afterwards."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import numpy as np

from icm_fast.errors import InputError, shown, suggest
from icm_fast.types import JsonValue

T = TypeVar("T")

OBJECTIVES = ("calibrated", "mean_logprob", "sum_logprob", "mean_logodds")
MOVES = ("single", "group", "sweep", "grow")
SCORERS = ("tree", "naive")
NORMALIZATIONS = ("labels", "vocabulary")
COOLING_CLOCKS = ("iterations", "accepted", "acceptances")
FIX_PAIRS = ("one", "all")
FIX_OPTIONS = ("allowed", "one-label")
STARTS = ("bootstrap", "zero-shot", "random", "given")
CONTEXT_ORDERS = ("tree", "append")
ENGINES = ("auto", "vllm")
SERVERS = ("auto", "vllm", "sglang", "llama.cpp", "openai")
DTYPES = ("auto", "float32", "bfloat16", "float16")

KV_BUDGET_TOKENS = 65536
"""Default of ``kv_budget_tokens``; on a GPU it stands for what fits there (scoring/local.py)."""
BATCH_TOKENS = 4096
"""Default of ``batch_tokens``, likewise."""

ADDED_SETTINGS: dict[str, object] = {
    "violation_weight": 1.0,
    "fix_pairs": "one",
    "fix_options": "allowed",
    "fix_forced": False,
    "quiet_null_draws": False,
    "initial_groups": False,
    "fixed_labels": (),
    "engine": "auto",
    "server": "auto",
    "tokenizer": "",
    "bootstrap_rounds": 2,
    "channel": False,
    "second_opinion": False,
}
"""Settings younger than version 0.1, each with the value that all earlier runs had."""

_PAPER: dict[str, object] = {
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
    **ADDED_SETTINGS,
}

_ANNEALING: dict[str, object] = {
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
    **ADDED_SETTINGS,
}

_PRESETS: dict[str, dict[str, object]] = {
    # Ours: what the model says of each example alone and among confident others. Moves from there
    # gain nothing (dev/LOG.md); from other starts they are those of `annealing`.
    "default": {**_ANNEALING, "start": "bootstrap", "channel": True},
    # The default up to version 0.1: from zero-shot labels, also group by group.
    "annealing": _ANNEALING,
    # Algorithms 1 and 2 of arXiv 2506.10139, with a mean for its sum as in the authors' code, each
    # pair of I(D) counted once, and 3000 iterations whatever n.
    "paper": _PAPER,
    # The same with the formulas as they are printed: P(D) a sum, I(D) over ordered pairs.
    "paper-literal": {
        **_PAPER,
        "objective": "sum_logprob",
        "violation_weight": 2.0,
        "max_iterations": -1,
    },
    # The steps of the authors' repository at commit d6260a9 (docs/settings.md lists what differs).
    "authors-code": {
        **ADDED_SETTINGS,
        "objective": "mean_logodds",
        "moves": ("single",),
        "initial_temperature": 10.0,
        "cooling_clock": "acceptances",
        "cooling": 2.0,
        "fix_both_false": True,
        "fix_accepts_ties": True,
        "fix_pairs": "all",
        "fix_options": "one-label",
        "fix_forced": True,
        "quiet_null_draws": True,
        "max_iterations": 3000,
        "return_best": False,
        "start": "random",
        "initial_groups": True,
        "prior_weight": 0.0,
    },
}
PRESETS = tuple(_PRESETS)

REMOVED_SETTINGS: dict[str, object] = {
    "anchors": 0,
    "sequential_test": 0.0,
    "delayed_acceptance": False,
}
"""Settings that only version 0.1 had, each with the value that switched it off."""


def without_removed(content: Mapping[str, T]) -> dict[str, T]:
    """``content`` without removed settings: one that was off changes nothing.

    Raises:
        InputError: One was on.
    """
    for name, off in REMOVED_SETTINGS.items():
        value = content.get(name)
        alike = value == off and isinstance(value, bool) == isinstance(off, bool)
        if value is not None and not alike:
            raise InputError(
                f"{name} was removed in 0.2; use icm_fast 0.1 for this run, or drop it"
            )
    return {name: value for name, value in content.items() if name not in REMOVED_SETTINGS}


class Limit(ABC):
    """What a setting accepts; part of the annotation that declares the setting."""

    @abstractmethod
    def read(self, name: str, value: object) -> object:
        """Return the value to keep; InputError unless the setting ``name`` accepts it."""

    @abstractmethod
    def schema(self) -> dict[str, JsonValue]:
        """The same limit as a JSON Schema, for editors and other programs."""


@dataclass(frozen=True, slots=True)
class Between(Limit):
    """A number in ``low .. high``, both included; an integer where ``low`` is one."""

    low: float
    high: float

    def read(self, name: str, value: object) -> object:
        """Return a number in the range."""
        check_number(name, value, self.low, self.high)
        return value

    def schema(self) -> dict[str, JsonValue]:
        """A number or an integer, with its bounds."""
        kind = "integer" if isinstance(self.low, int) else "number"
        return {"type": kind, "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class OneOf(Limit):
    """One of the known words."""

    known: tuple[str, ...]

    def read(self, name: str, value: object) -> object:
        """Return a known word."""
        if not isinstance(value, str) or value not in self.known:
            raise InputError(f"unknown {name} {shown(value)}{suggest(str(value), self.known)}")
        return value

    def schema(self) -> dict[str, JsonValue]:
        """The words."""
        return {"enum": list(self.known)}


@dataclass(frozen=True, slots=True)
class Switch(Limit):
    """True or false; numbers do not count."""

    def read(self, name: str, value: object) -> object:
        """Return a boolean."""
        if not isinstance(value, bool):
            raise InputError(f"{name} must be true or false, got {shown(value)}")
        return value

    def schema(self) -> dict[str, JsonValue]:
        """A boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Text(Limit):
    """A text that is not blank.

    Attributes:
        may_be_empty: Whether no text at all will do, too.
    """

    may_be_empty: bool = False

    def read(self, name: str, value: object) -> object:
        """Return a text."""
        if self.may_be_empty and value == "":
            return value
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{name} must be a non-empty text, got {shown(value)}")
        if not value.isprintable():
            raise InputError(f"{name} holds control characters: {shown(value)}; remove them")
        return value

    def schema(self) -> dict[str, JsonValue]:
        """A text, with something else than blanks in it unless it may be empty."""
        return {"type": "string", "pattern": r"^$|\S" if self.may_be_empty else r"\S"}


@dataclass(frozen=True, slots=True)
class LabelIndex(Limit):
    """Index of a label, or -1 for none; how many labels there are is known only with the data."""

    def read(self, name: str, value: object) -> object:
        """Return an index."""
        if isinstance(value, bool) or not isinstance(value, int) or value < -1:
            raise InputError(
                f"{name} = {shown(value)} is not a label; give the index of a label, or -1 for none"
            )
        return value

    def schema(self) -> dict[str, JsonValue]:
        """An integer, -1 or more."""
        return {"type": "integer", "minimum": -1}


@dataclass(frozen=True, slots=True)
class ListOf(Limit):
    """A list, kept as a tuple, each item of which has the same limit.

    Attributes:
        item: Limit of each item.
        noun: Name of one item in messages; by default its position, ``label_shares[1]``.
        required: Whether the list must not be empty.
    """

    item: Limit
    noun: str = ""
    required: bool = False

    def read(self, name: str, value: object) -> tuple[object, ...]:
        """Return the items."""
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InputError(f"{name} must be a list, got {shown(value)}")
        if self.required and not value:
            known = f" of {', '.join(self.item.known)}" if isinstance(self.item, OneOf) else ""
            raise InputError(f"{name} is empty; name at least one{known}")
        # NumPy's numbers are not YAML.
        items = (item.item() if isinstance(item, np.generic) else item for item in value)
        return tuple(
            self.item.read(self.noun or f"{name}[{row}]", item) for row, item in enumerate(items)
        )

    def schema(self) -> dict[str, JsonValue]:
        """An array of what the limit of the items says."""
        least = {"minItems": 1} if self.required else {}
        return {"type": "array", "items": self.item.schema(), **least}


@dataclass(frozen=True, slots=True)
class Offered(Limit):
    """A limit that offers less than it reads: the rest is refused elsewhere, with the reason.

    Attributes:
        offered: What is accepted.
        known: What is read: the reason for refusing the rest is given by who knows it.
    """

    offered: Limit
    known: Limit

    def read(self, name: str, value: object) -> object:
        """Return the value, also one that is refused later."""
        return self.known.read(name, value)

    def schema(self) -> dict[str, JsonValue]:
        """What is accepted."""
        return self.offered.schema()


@cache
def limits(settings: type) -> dict[str, Limit]:
    """The limit that each field of a dataclass declares, by name, in their order."""
    hints = get_type_hints(settings, include_extras=True)
    return {
        name: part
        for name, hint in hints.items()
        for part in getattr(hint, "__metadata__", ())
        if isinstance(part, Limit)
    }


@cache
def _optional(settings: type) -> frozenset[str]:
    """The fields of a dataclass that may be None."""
    hints = get_type_hints(settings)
    return frozenset(name for name, hint in hints.items() if type(None) in get_args(hint))


def read_limits(config: object) -> None:
    """Read every field of a frozen dataclass by its limit; None stays where its type has it.

    Raises:
        InputError: A field has a value that its limit does not accept.
    """
    settings: type = type(config)
    for name, limit in limits(settings).items():
        value = getattr(config, name)
        if value is not None or name not in _optional(settings):
            object.__setattr__(config, name, limit.read(name, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Settings of one search. ``None`` means "what the preset says".

    Attributes:
        preset: ``default``; ``annealing``, the default up to version 0.1; ``paper``, Algorithms 1
            and 2 with the mean of log-probabilities where a sum is printed, each contradictory pair
            counted once, and up to 3000 iterations whatever the number of examples;
            ``paper-literal``, the same as printed: a sum, ordered
            pairs, as many iterations as examples; or ``authors-code``, the steps of the authors'
            repository.
        objective: Mutual predictability P(D): ``calibrated``, ``mean_logprob``,
            ``sum_logprob`` or ``mean_logodds``.
        alpha: Weight of P(D) in U(D) = alpha P(D) - I(D).
        violation_weight: What one contradictory pair adds to I(D): 1, or 2 for the printed sum over
            ordered pairs.
        initial_temperature: T_0 of the schedule T = max(T_min, T_0 / (1 + beta log n)).
        min_temperature: T_min.
        cooling: beta, the coefficient of the logarithm.
        cooling_clock: n counts ``iterations`` (paper), 1 + ``accepted`` changes, or 1 +
            ``acceptances``: accepted proposals, those that the fix led back to where they started
            included (authors' code).
        start: Labels before the first move: ``bootstrap`` (every example's best label given what
            the model says of it alone and among the more confident half of the labels, calibrated;
            :mod:`icm_fast.engine.bootstrap`), ``zero-shot`` (every example's best label without any
            demonstration, calibrated), ``random`` (n_initial of them, balanced) or ``given``
            (initial_labels).
        bootstrap_rounds: How often the start ``bootstrap`` shows the more confident half of the
            labels it has so far.
        channel: Whether a bootstrap also asks how probable each text is after each label, in turned
            prompts (a noisy channel, :mod:`icm_fast.scoring.texts`): each example alone, and in
            every other round among the half that was shown last. Of servers, vLLM and SGLang can be
            asked.
        second_opinion: Whether a search that starts from other labels is compared with a bootstrap
            once it is over: labels that agree with it little more than by chance are judged one
            level worse (:mod:`icm_fast.engine.concerns`). Changes no label. The preset ``default``
            does. At the start ``bootstrap`` there is nothing to compare.
        n_initial: K, examples with balanced random labels at a random start.
        initial_groups: Whether a random start labels whole constraint groups, drawn at random, the
            last one cut after n_initial examples.
        initial_labels: Index of each example's label at the start ``given``, -1 where unlabelled.
            The search may change them.
        fixed_labels: Index of each example's label where it is known, -1 where the search is free.
            Known examples carry their label from the start on, whatever ``start`` and
            initial_labels say, and are evidence in every other example's context; the search never
            changes nor drops them. How well the others predict them counts in P(D). The start
            ``zero-shot`` then has the known labels as demonstrations.
        label_shares: Expected share of each label, in the order of the label space and among the
            examples that are not fixed, where it is roughly known. The calibrated objective cannot
            tell a model's preference for a label from a frequent label, and without this setting
            its proposals aim at equal shares, and a bootstrap at those that it sees.
        prior_weight: Weight, in proposals alone, of the calibrated zero-shot log-probabilities
            next to the leave-one-out ones. The label words then keep their meaning: without them a
            small model climbs to labellings that predict each other better than true ones do.
        fix_rounds: M, rounds of ConsistencyFix.
        fix_both_false: Whether the fix may set a pair to label 0 on both sides.
        fix_accepts_ties: Whether the fix accepts an equal utility.
        fix_pairs: Whether a round of the fix tries ``one`` violated pair, drawn at random
            (Algorithm 2), or ``all`` in random order until one helps; the fix is over where none
            does (authors' code).
        fix_options: Labels that the fix tries for a pair: all that are ``allowed``, or those that
            change ``one-label`` of the pair, where there are any (authors' code).
        fix_forced: Whether the first fix after a new label is taken whatever it does to U (authors'
            code).
        quiet_null_draws: Whether a draw that proposes the present label does nothing even where a
            pair is violated (authors' code); otherwise the fix runs. Not with ``group``, ``sweep``
            or ``grow``.
        group_weight: Weight of unlabelled examples that share a constraint with
            labelled ones when an example is drawn; all others have weight 1.
        moves: Kinds of proposals: ``single`` (the paper's), ``group`` (the best consistent labels
            of one constraint group), ``sweep`` (all groups with a disagreement at once), ``grow``
            (several additions at once).
        growth: Examples that ``grow`` adds, as a share of those labelled.
        single_tries: Rejected ``single`` and ``group`` moves after which a state is left alone
            (only together with ``group``, ``sweep`` or ``grow``; the paper sets no limit).
        restarts: How often a settled search continues from its best labelling, with the share
            ``kick`` of the examples relabelled at random.
        kick: Share of the examples that a restart relabels, above 0 and at most 1.
        chains: Searches that run side by side and share their scores; the best result counts.
            The first starts as ``start`` says, the others from random labels.
        lazy_queries: Score an unlabelled example only when a step draws it, where nothing else
            needs its scores. Changes no decision.
        early_rejection: Stop scoring a candidate once its remaining examples cannot save it from
            rejection (objectives ``mean_logprob`` and ``sum_logprob``). Changes no decision.
        max_iterations: Maximum number of search steps (null draws count); -1 for as many as there
            are examples. The preset ``default`` takes none from a bootstrap, unless moves, restarts
            or chains are asked for, and otherwise up to 1000.
        max_evaluations: Maximum number of exact evaluations of U(D); 0 for no bound.
        max_tokens: No further labelling is scored once this many tokens have been forwarded; 0 for
            no bound.
        return_best: Return the best complete labelling seen instead of the last state.
        context_order: ``tree``: the contexts are a function of the labels. ``append``: a labelling
            that adds to one scored before keeps its contexts and appends what is new, so that an
            addition costs one encoding and one query per example; U then depends on that order,
            and the final labels are scored again under ``tree``. Only with the ``tree`` scorer.
        context_demonstrations: An approximation for data sets beyond the context window: each
            context holds at most this many other labelled examples (scoring/bounded.py). 0: all.
        normalize: Log-softmax over the ``labels`` or over the ``vocabulary``.
        seed: Seed of every draw and of the context orders.
        scorer: ``tree`` (shared prefixes) or ``naive`` (one prompt per example).
        dtype: Weights' dtype; ``auto`` takes bfloat16 where the machine multiplies it fast.
        int8: Approximate the linear layers by 8-bit integers, weights and activations with a scale
            for every 64 inputs. Only with the ``tree`` scorer, on processors with AVX-512 VNNI.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or ``balanced``: layers over all GPUs.
        engine: What computes the scores of a model in this process: ``auto`` for icm_fast itself,
            ``vllm`` for vLLM where it is installed.
        server: Of a model behind an address, the kind of server: ``vllm``, ``sglang``,
            ``llama.cpp`` or ``openai`` (completions that return the most likely tokens only);
            ``auto`` asks the server.
        tokenizer: Of a model behind an address: hub id or folder of its tokenizer; empty for where
            the server has the model from.
        kv_budget_tokens: Maximum number of tokens whose keys and values are held at a time; on a
            GPU the default, 65,536, stands for as many as fit in half of what the weights leave.
        batch_tokens: Maximum number of tokens in one forward pass; on a GPU the default, 4,096,
            stands for 16,384.
        context_limit: Longest context in tokens; 0 takes the model's limit.
    """

    preset: Annotated[str, OneOf(PRESETS)] = "default"
    objective: Annotated[str | None, OneOf(OBJECTIVES)] = None
    alpha: Annotated[float, Between(0.0, 1e9)] = 50.0
    violation_weight: Annotated[float | None, Between(0.0, 1e9)] = None
    initial_temperature: Annotated[float | None, Between(0.0, 1e9)] = None
    min_temperature: Annotated[float, Between(0.0, 1e9)] = 0.01
    cooling: Annotated[float | None, Between(0.0, 1e9)] = None
    cooling_clock: Annotated[str | None, OneOf(COOLING_CLOCKS)] = None
    start: Annotated[str | None, OneOf(STARTS)] = None
    bootstrap_rounds: Annotated[int, Between(1, 1000)] = 2
    channel: Annotated[bool | None, Switch()] = None
    second_opinion: Annotated[bool | None, Switch()] = None
    n_initial: Annotated[int, Between(1, 1_000_000)] = 8
    initial_groups: Annotated[bool | None, Switch()] = None
    initial_labels: Annotated[tuple[int, ...], ListOf(LabelIndex())] = ()
    fixed_labels: Annotated[tuple[int, ...], ListOf(LabelIndex())] = ()
    label_shares: Annotated[tuple[float, ...], ListOf(Between(1e-9, 1.0))] = ()
    prior_weight: Annotated[float | None, Between(0.0, 1e6)] = None
    fix_rounds: Annotated[int, Between(0, 1_000_000)] = 10
    fix_both_false: Annotated[bool | None, Switch()] = None
    fix_accepts_ties: Annotated[bool | None, Switch()] = None
    fix_pairs: Annotated[str | None, OneOf(FIX_PAIRS)] = None
    fix_options: Annotated[str | None, OneOf(FIX_OPTIONS)] = None
    fix_forced: Annotated[bool | None, Switch()] = None
    quiet_null_draws: Annotated[bool | None, Switch()] = None
    group_weight: Annotated[int, Between(1, 1_000_000)] = 100
    moves: Annotated[tuple[str, ...] | None, ListOf(OneOf(MOVES), "move", required=True)] = None
    growth: Annotated[float, Between(0.0, 1e6)] = 1.0
    single_tries: Annotated[int, Between(1, 1_000_000)] = 2
    restarts: Annotated[int, Between(0, 1_000_000)] = 0
    kick: Annotated[float, Between(1e-9, 1.0)] = 0.25
    chains: Annotated[int, Between(1, 10_000)] = 1
    lazy_queries: Annotated[bool, Switch()] = True
    early_rejection: Annotated[bool, Switch()] = True
    max_iterations: Annotated[int | None, Between(-1, 10**12)] = None
    max_evaluations: Annotated[int, Between(0, 10**12)] = 0
    max_tokens: Annotated[int, Between(0, 10**15)] = 0
    return_best: Annotated[bool | None, Switch()] = None
    context_order: Annotated[str, OneOf(CONTEXT_ORDERS)] = "tree"
    context_demonstrations: Annotated[int, Between(0, 1_000_000)] = 0
    normalize: Annotated[str, OneOf(NORMALIZATIONS)] = "labels"
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    scorer: Annotated[str, OneOf(SCORERS)] = "tree"
    dtype: Annotated[str, OneOf(DTYPES)] = "auto"
    int8: Annotated[bool, Switch()] = False
    device: Annotated[str, Text()] = "auto"
    engine: Annotated[str, OneOf(ENGINES)] = "auto"
    server: Annotated[str, OneOf(SERVERS)] = "auto"
    tokenizer: Annotated[str, Text(may_be_empty=True)] = ""
    kv_budget_tokens: Annotated[int, Between(1, 10**12)] = KV_BUDGET_TOKENS
    batch_tokens: Annotated[int, Between(1, 10**12)] = BATCH_TOKENS
    context_limit: Annotated[int, Between(0, 10**12)] = 0

    def __post_init__(self) -> None:
        preset = str(limits(SearchConfig)["preset"].read("preset", self.preset))
        if preset == "default" and self._asks_for_no_moves():
            object.__setattr__(self, "max_iterations", 0)
        for name, value in _preset_values(preset, self.start).items():
            # Only settings that may be None leave their value to the preset.
            if name in _optional(SearchConfig) and getattr(self, name) is None:
                object.__setattr__(self, name, value)
        read_limits(self)
        self._check_scorer()
        self._check_labels()

    @property
    def uses_channel(self) -> bool:
        """Whether a bootstrap asks a model for texts, if it can be asked."""
        return self.bootstraps and bool(self.channel)

    @property
    def bootstraps(self) -> bool:
        """Whether there is a bootstrap: at the start, or as a second opinion."""
        return self.start == "bootstrap" or bool(self.second_opinion)

    def _asks_for_no_moves(self) -> bool:
        """Whether a bootstrap is all that is wanted: nothing speaks of what comes after it."""
        return (
            self.max_iterations is None
            and self.start in (None, "bootstrap")
            and self.moves is None
            and self.restarts == 0
            and self.chains == 1
        )

    def _check_scorer(self) -> None:
        """Refuse settings that need another scorer, or that exclude each other."""
        if self.int8 and self.scorer != "tree":
            raise InputError(f"int8 needs scorer=tree, got {self.scorer}; drop one of them")
        growing, bounded = self.context_order == "append", self.context_demonstrations != 0
        if (growing or bounded) and self.scorer != "tree":
            name = "context_order=append" if growing else "context_demonstrations"
            raise InputError(f"{name} needs scorer=tree, got {self.scorer}; drop one of them")
        if growing and bounded:
            raise InputError(
                "context_order=append keeps all demonstrations in every context; drop it or "
                f"context_demonstrations={self.context_demonstrations}"
            )

    def _check_labels(self) -> None:
        """Refuse shares that do not add up to 1, and a start without its labels."""
        if self.label_shares and abs(sum(self.label_shares) - 1) > 0.01:
            raise InputError(
                f"label_shares add up to {sum(self.label_shares)}, not to 1; correct them"
            )
        if bool(self.initial_labels) != (self.start == "given"):
            raise InputError(
                f"start={self.start} with {len(self.initial_labels)} initial_labels; give "
                "initial_labels and start=given together, or neither"
            )

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the resolved settings as plain YAML types.

        Younger settings are left out where they have the value of all earlier runs, unless the
        preset says otherwise: results of earlier versions stay results of the same settings.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        preset = _preset_values(self.preset, self.start)
        for name, former in ADDED_SETTINGS.items():
            if values[name] == former == preset[name]:
                del values[name]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> SearchConfig:
        """Build from YAML content; an unknown key is an error that names the nearest one."""
        settings = without_removed(content)
        check_names(settings, (f.name for f in dataclasses.fields(cls)))
        return cls(**coerced(cls, settings))


def _preset_values(preset: str, start: str | None) -> dict[str, object]:
    """What a preset says of a search with this start; None for the preset's own start."""
    compares = preset == "default" and start not in (None, "bootstrap")
    return _PRESETS[preset] | ({"second_opinion": True} if compares else {})


def resolved_settings(content: Mapping[str, T]) -> dict[str, T | object]:
    """What :meth:`SearchConfig.to_dict` wrote, with the younger settings of earlier runs."""
    missing = {name: value for name, value in ADDED_SETTINGS.items() if name not in content}
    return {**content, **missing}


_NUMBER = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?")


@cache
def _kinds(settings: type) -> dict[str, frozenset[object]]:
    """The types that each field of a dataclass takes, by name, None aside."""
    hints = get_type_hints(settings)
    return {
        name: frozenset(get_args(hint) or (hint,)) - {type(None)} for name, hint in hints.items()
    }


def coerced(settings: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Read numbers by the type of their field: ``1e3`` is an integer where one is wanted.

    Only what cannot mean anything else changes: a whole number becomes an integer, and the text of
    a number becomes the number, where the field takes nothing but numbers.
    """
    kinds = _kinds(settings)
    return {name: _coerced(kinds.get(name, frozenset()), value) for name, value in content.items()}


def _coerced(kinds: frozenset[object], value: object) -> object:
    number = value
    if not kinds or not kinds <= {int, float}:
        return value
    if isinstance(value, str) and len(value) < 40 and _NUMBER.fullmatch(value):
        number = int(value) if re.fullmatch(r"[-+]?\d+", value) else float(value)
    if float not in kinds and isinstance(number, float) and number.is_integer():
        return int(number)
    return number


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raise InputError unless ``value`` is a number in ``low .. high``; an integer if low is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} must be a number, got {shown(value)}")
    if isinstance(low, int) and not isinstance(value, int):
        raise InputError(f"{name} must be an integer, got {shown(value)}")
    if not low <= value <= high:  # NaN compares as false
        raise InputError(f"{name} = {shown(value)} is outside {low} .. {high}")


def check_names(names: Iterable[object], known: Iterable[str]) -> None:
    """Raise InputError for the first of ``names`` that is not a setting; it names the nearest."""
    settings = set(known)
    for name in names:
        if name not in settings:
            raise InputError(f"unknown setting {shown(name)}{suggest(str(name), settings)}")


def check_config(config: object) -> SearchConfig:
    """Return ``config``, or the default settings for None.

    Raises:
        InputError: It is something else, such as a dictionary.
    """
    if config is None:
        return SearchConfig()
    if not isinstance(config, SearchConfig):
        raise InputError(
            f"config must be an icm_fast.SearchConfig, got {type(config).__name__}; "
            "SearchConfig.from_mapping makes one of a dictionary"
        )
    return config
