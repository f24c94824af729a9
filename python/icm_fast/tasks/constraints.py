"""Consistency rules and their compilation to pairwise constraints.

A rule reads examples and the label space, never gold labels, and yields pairs of
examples with a table of the label pairs that they may carry. Rules about truth ("not
both True") need to know which label affirms a claim: the *last* label of a binary
label space, or the one that the rule names with ``positive``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol, runtime_checkable

from icm_fast.errors import InputError, shown, suggest
from icm_fast.types import Constraint, Example, LabelSpace

Table = tuple[tuple[bool, ...], ...]
"""``table[a][b]``: may the first example carry label ``a`` while the second carries ``b``?"""

Predicate = Callable[[Example, str, Example, str], bool]
"""``(example_a, label_a, example_b, label_b) -> allowed``; labels without outer spaces."""

PairTable = tuple[int, int, Table]


def connected_rows(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of ``n`` rows the first row that pairs join it to, directly or through others."""
    leader = list(range(n))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    for one, other in pairs:
        first, second = sorted((find(one), find(other)))
        leader[second] = first
    return [find(row) for row in range(n)]


MAX_PAIRS = 20_000_000
"""Pairs of examples in groups that rules look at."""
MAX_CONSTRAINTS = 1_000_000
"""Pairs of examples that rules constrain; each takes about 400 bytes."""


@dataclass(frozen=True)
class Scope:
    """What a rule may read: the examples with their groups, and the label space."""

    examples: Sequence[Example]
    label_space: LabelSpace
    positions: Mapping[str, int] = field(init=False)
    groups: Sequence[Sequence[int]] = field(init=False)

    def __post_init__(self) -> None:
        groups: dict[str, list[int]] = {}
        for position, example in enumerate(self.examples):
            if example.group is not None:
                groups.setdefault(example.group, []).append(position)
        positions = {example.id: position for position, example in enumerate(self.examples)}
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "groups", tuple(groups.values()))

    def group_pairs(self) -> Iterator[tuple[int, int]]:
        """Yield every pair of positions within a group, smaller one first."""
        for members in self.paired_groups():
            yield from combinations(members, 2)

    def paired_groups(self) -> Sequence[Sequence[int]]:
        """The groups, for a rule that looks at every pair in them.

        Raises:
            InputError: There are too many pairs to look at.
        """
        n_pairs = sum(len(members) * (len(members) - 1) // 2 for members in self.groups)
        if n_pairs > MAX_PAIRS:
            raise InputError(
                f"the groups have {n_pairs:,} pairs of examples, but rules look at {MAX_PAIRS:,} "
                f"at most; {self.largest_group()}"
            )
        return self.groups

    def largest_group(self) -> str:
        """The part of a message that names the largest group and what to do about it."""
        largest = max(self.groups, key=len, default=())
        if not largest:
            return "name fewer pairs"
        group = shown(self.examples[largest[0]].group)
        return f"the largest group, {group}, has {len(largest)} examples: split it, or drop a rule"

    def position(self, example_id: object) -> int:
        """Return the position of the example with this id."""
        if str(example_id) not in self.positions:
            raise InputError(
                f"a rule names example id {shown(example_id)}, which the data do not contain"
                f"{suggest(str(example_id), self.positions) if len(self.positions) < 20 else ''}"
            )
        return self.positions[str(example_id)]

    def label(self, name: str) -> int:
        """Return the index of a label, written with or without its outer spaces."""
        labels = list(self.label_space)
        if name in labels:
            return labels.index(name)
        bare = [label.strip() for label in labels]
        if bare.count(str(name).strip()) != 1:
            raise InputError(f"unknown label {shown(name)} in a rule{suggest(str(name), bare)}")
        return bare.index(str(name).strip())

    def positive(self, name: str | None) -> int:
        """Return the index of the label that affirms a claim."""
        if name is not None:
            return self.label(name)
        if len(self.label_space) != 2:
            raise InputError(
                f"the label space has {len(self.label_space)} labels, so the rule must name the "
                f"one that affirms a claim: positive={self.label_space[-1].strip()!r}"
            )
        return 1

    def table(self, allowed: Callable[[int, int], bool]) -> Table:
        """Tabulate ``allowed(a, b)`` over all label indices."""
        labels = range(len(self.label_space))
        return tuple(tuple(bool(allowed(a, b)) for b in labels) for a in labels)


@runtime_checkable
class Rule(Protocol):
    """Anything with a name that yields pairs of positions with their tables."""

    @property
    def name(self) -> str:
        """Name shown in errors and in ``Constraint.rule``."""

    def pairs(self, scope: Scope) -> Iterator[PairTable]:
        """Yield ``(first, second, table)``, the positions in either order."""


@dataclass(frozen=True, kw_only=True)
class Exclusive:
    """Same group, different answers: not both positive."""

    positive: str | None = None
    name: str = "exclusive"

    def pairs(self, scope: Scope) -> Iterator[PairTable]:
        """Yield the pairs with known, different answers."""
        true = scope.positive(self.positive)
        table = scope.table(lambda a, b: not (a == true and b == true))
        for i, j in scope.group_pairs():
            one, other = scope.examples[i].answer, scope.examples[j].answer
            if one is not None and other is not None and one != other:
                yield i, j, table


@dataclass(frozen=True, kw_only=True)
class Equal:
    """Same group and same answer: same label."""

    name: str = "equal"

    def pairs(self, scope: Scope) -> Iterator[PairTable]:
        """Yield the pairs with known, equal answers."""
        table = scope.table(lambda a, b: a == b)
        for i, j in scope.group_pairs():
            one, other = scope.examples[i].answer, scope.examples[j].answer
            if one is not None and one == other:
                yield i, j, table


@dataclass(frozen=True, kw_only=True)
class Asymmetric:
    """A claim and its reverse (A>B, B>A): exactly one is positive.

    Two examples without answers that form a group are such a pair. In larger groups the answers
    decide: ``"A>B"`` and ``"B>A"`` belong together.

    Attributes:
        paper_mode: Forbid only that both are positive, as in the paper's text.
    """

    positive: str | None = None
    paper_mode: bool = False
    name: str = "asymmetric"

    def pairs(self, scope: Scope) -> Iterator[PairTable]:
        """Yield the pairs of opposite claims."""
        true = scope.positive(self.positive)
        if self.paper_mode:
            table = scope.table(lambda a, b: not (a == true and b == true))
        else:
            table = scope.table(lambda a, b: (a == true) != (b == true))
        for members in scope.paired_groups():
            answers = [scope.examples[i].answer for i in members]
            if answers == [None, None]:
                yield members[0], members[1], table
            elif None not in answers:
                for i, j in combinations(members, 2):
                    if _are_reversed(scope.examples[i].answer, scope.examples[j].answer):
                        yield i, j, table
            elif len(members) > 1:
                raise InputError(
                    f"group {shown(scope.examples[members[0]].group)} has {len(members)} examples, "
                    "some without an answer; the rule 'asymmetric' joins 2, so give each pair a "
                    "separate group or answers of the form 'A>B' and 'B>A'"
                )


def _are_reversed(one: str | None, other: str | None) -> bool:
    first, sign, second = (one or "").partition(">")
    return bool(sign) and first != second and other == f"{second}>{first}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Same group: any labels. What shares a group is drawn and begun with together.

    Without it only rules join examples, and a task whose groups have none loses the weight of
    ``group_weight`` and the whole groups of ``initial_groups``.
    """

    name: str = "group"

    def pairs(self, scope: Scope) -> Iterator[PairTable]:
        """Yield all pairs in each group."""
        table = scope.table(lambda _a, _b: True)
        for i, j in scope.group_pairs():
            yield i, j, table


@dataclass(frozen=True, kw_only=True)
class Implies:
    """If one claim is positive, so is the other.

    Takes either two answers (the rule then holds inside every group) or pairs of ids.

    Attributes:
        premise: Answer of the premise; ``if`` in YAML.
        conclusion: Answer of the conclusion; ``then`` in YAML.
        id_pairs: ``(premise id, conclusion id)`` pairs; ``pairs`` in YAML.
    """

    premise: str | None = None
    conclusion: str | None = None
    id_pairs: tuple[tuple[str, str], ...] = ()
    positive: str | None = None
    name: str = "implies"

    def __post_init__(self) -> None:
        by_answer = self.premise is not None and self.conclusion is not None
        if by_answer == bool(self.id_pairs) or (self.premise is None) != (self.conclusion is None):
            raise InputError(
                "the rule 'implies' needs either both `if` and `then` (answers) or `pairs` (ids)"
            )

    def pairs(self, scope: Scope) -> Iterator[PairTable]:
        """Yield ``(premise, conclusion)`` pairs."""
        true = scope.positive(self.positive)
        table = scope.table(lambda a, b: a != true or b == true)
        for one, other in self.id_pairs:
            yield scope.position(one), scope.position(other), table
        for members in scope.paired_groups() if self.premise is not None else ():
            for i in members:
                for j in members:
                    if i != j and self._joins(scope.examples[i], scope.examples[j]):
                        yield i, j, table

    def _joins(self, one: Example, other: Example) -> bool:
        return one.answer == self.premise and other.answer == self.conclusion


@dataclass(frozen=True, kw_only=True)
class Custom:
    """An explicit table, a list of forbidden label pairs, or a predicate.

    Without ``id_pairs`` the rule holds for every pair in a group, in both directions.

    Attributes:
        id_pairs: ``(first id, second id)`` pairs; ``pairs`` in YAML.
        table: Allowed label pairs, one row per label of the first example.
        forbid: Label pairs (names) that are not allowed together.
        predicate: Called once per pair of examples and labels, when rules are compiled.
    """

    id_pairs: tuple[tuple[str, str], ...] = ()
    table: Table | None = None
    forbid: tuple[tuple[str, str], ...] = ()
    predicate: Predicate | None = None
    name: str = "custom"

    def __post_init__(self) -> None:
        given = [self.table is not None, bool(self.forbid), self.predicate is not None]
        if sum(given) != 1:
            raise InputError(
                f"the rule {shown(self.name)} needs exactly one of `table`, `forbid` and "
                "`predicate`, "
                f"got {sum(given)}"
            )

    def pairs(self, scope: Scope) -> Iterator[PairTable]:
        """Yield the named pairs, or all pairs of each group."""
        named = [(scope.position(a), scope.position(b)) for a, b in self.id_pairs]
        for i, j in named or scope.group_pairs():
            yield i, j, self._table(scope, i, j)
            if not named:
                yield j, i, self._table(scope, j, i)

    def _table(self, scope: Scope, i: int, j: int) -> Table:
        if self.table is not None:
            size = len(scope.label_space)
            if {len(self.table), *map(len, self.table)} != {size}:
                raise InputError(
                    f"the table of rule {shown(self.name)} is not {size} x {size} (one row and one "
                    "column per label)"
                )
            return self.table
        if self.predicate is None:
            forbidden = {(scope.label(a), scope.label(b)) for a, b in self.forbid}
            return scope.table(lambda a, b: (a, b) not in forbidden)
        allowed, one, other = self.predicate, scope.examples[i], scope.examples[j]
        bare = [label.strip() for label in scope.label_space]
        return scope.table(lambda a, b: allowed(one, bare[a], other, bare[b]))


RULES: dict[str, Callable[..., Rule]] = {
    "exclusive": Exclusive,
    "equal": Equal,
    "asymmetric": Asymmetric,
    "group": Group,
    "implies": Implies,
    "custom": Custom,
}
"""Rules by the name that YAML uses."""

TEXT_KEYS = ("if", "then", "pairs", "forbid", "positive", "column")
"""Keys of a rule whose values are text, whatever they look like in YAML."""

_YAML_NAMES = {"premise": "if", "conclusion": "then", "id_pairs": "pairs"}

RuleLike = Rule | str | Mapping[str, object]


def make_rule(spec: RuleLike) -> Rule:
    """Build a rule from its name or from a mapping (as in YAML); return a rule as it is.

    Raises:
        InputError: Unknown rule or key, or a value of the wrong shape.
    """
    if isinstance(spec, str):
        spec = {"rule": spec}
    if isinstance(spec, Rule):
        return spec
    if not isinstance(spec, Mapping):
        raise InputError(f"a rule must be a name or a mapping, got {shown(spec)}")
    name = str(spec.get("rule", ""))
    if name not in RULES:
        raise InputError(f"unknown rule {shown(name)}{suggest(name, RULES)}")
    fields = inspect.signature(RULES[name]).parameters
    keys = {_YAML_NAMES.get(field, field): field for field in fields}
    for key in spec:
        if key != "rule" and key not in keys:
            raise InputError(
                f"unknown key {shown(key)} in rule {shown(name)}{suggest(str(key), keys)}"
            )
    values = {keys[key]: _value(name, key, spec[key]) for key in spec if key != "rule"}
    return RULES[name](**values)


def _value(rule: str, key: str, value: object) -> object:
    """What a key of a mapping gives to the rule's constructor."""
    if key in {"pairs", "forbid"}:
        items = _items(value) or ([value] if value else [])
        return tuple(_two_words(rule, key, item) for item in items)
    if key == "table":
        rows = [_items(row) for row in _items(value)]
        if not rows or not all(rows):
            raise InputError(
                f"`table` of rule {shown(rule)} must be a list of lists, got {shown(value)}"
            )
        if not all(cell in (0, 1) for row in rows for cell in row):  # "no" is true in Python
            raise InputError(
                f"`table` of rule {shown(rule)} must hold true and false, got {shown(value)}"
            )
        return tuple(tuple(bool(cell) for cell in row) for row in rows)
    if key == "paper_mode" and not isinstance(value, bool):
        raise InputError(
            f"`paper_mode` of rule {shown(rule)} must be true or false, got {shown(value)}"
        )
    if key == "predicate":
        if not callable(value):
            raise InputError(f"`predicate` of rule {shown(rule)} must be a Python function")
        return value
    return value if key == "paper_mode" or value is None else str(value)


def _two_words(rule: str, key: str, item: object) -> tuple[str, str]:
    words = _items(item)
    if len(words) != 2:
        raise InputError(
            f"`{key}` of rule {shown(rule)} must list pairs such as [a, b], got {shown(item)}"
        )
    return str(words[0]), str(words[1])


def _items(value: object) -> Sequence[object]:
    """The items of a list; of anything else, text included, none."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def compile_rules(
    examples: Sequence[Example], label_space: LabelSpace, rules: Sequence[RuleLike]
) -> tuple[Constraint, ...]:
    """Compile rules to constraints, at most one per pair, sorted by (first, second).

    If several rules constrain a pair, only what all of them allow is allowed, and their names
    are joined by ``+``. Pairs that every combination of labels satisfies are dropped, but for
    those of the rule ``group``.

    Raises:
        InputError: A malformed rule, or a pair that no labelling can satisfy.
    """
    scope = Scope(examples, label_space)
    merged: dict[tuple[int, int], tuple[Table, tuple[str, ...]]] = {}
    for rule in map(make_rule, rules):
        for i, j, table in rule.pairs(scope):
            if i == j:
                raise InputError(
                    f"rule {shown(rule.name)} joins example {shown(examples[i].id)} to "
                    "itself; name two"
                )
            if i > j:
                i, j, table = j, i, tuple(zip(*table, strict=True))
            merged[i, j] = _merge(merged.get((i, j)), table, rule.name)
            if len(merged) > MAX_CONSTRAINTS:
                raise InputError(
                    f"the rules make more than {MAX_CONSTRAINTS:,} constraints; "
                    f"{scope.largest_group()}"
                )
    constraints = []
    for (i, j), (table, names) in sorted(merged.items()):
        rule_names = "+".join(names)
        if not any(map(any, table)):
            raise InputError(
                f"the rules {rule_names} allow no labels at all for examples "
                f"{shown(examples[i].id)} "
                f"and {shown(examples[j].id)}; drop or change one of the rules"
            )
        if not all(map(all, table)) or Group.name in names:
            constraints.append(Constraint(i, j, table, rule_names))
    return tuple(constraints)


def _merge(
    old: tuple[Table, tuple[str, ...]] | None, table: Table, name: str
) -> tuple[Table, tuple[str, ...]]:
    if old is None:
        return table, (name,)
    both = tuple(
        tuple(a and b for a, b in zip(row, other, strict=True))
        for row, other in zip(old[0], table, strict=True)
    )
    return both, old[1] if name in old[1] else (*old[1], name)
