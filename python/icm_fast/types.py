"""The data model: examples, label space, constraints and data sets.

Nothing in this module can hold a gold label. Gold labels travel beside a
:class:`Dataset` as a plain integer array, and only ``icm_fast.evaluation`` reads
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from icm_fast.errors import InputError, shown

IntArray = npt.NDArray[np.int32]
"""Label indices, ``[n_examples]`` int32; -1 stands for "unlabelled"."""

ScoreArray = npt.NDArray[np.float32]
"""LOO log-probabilities, ``[n_examples, n_labels]`` float32, natural log."""

BoolArray = npt.NDArray[np.bool_]
"""A choice of examples, ``[n_examples]`` bool."""

FloatArray = npt.NDArray[np.float64]
"""One number per example, ``[n_examples]`` float64."""

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
"""What JSON and YAML files hold."""

UNLABELLED = -1


class Progress(Protocol):
    """How far something is that takes a while: a search, a training, a labelling."""

    @property
    def done(self) -> int:
        """What is done, in its own units: examples, steps, rows."""

    @property
    def total(self) -> int | None:
        """What is to do, in the same units; None where nobody knows."""

    def describe(self) -> str:
        """One line of figures."""


class Reporter(Protocol):
    """Shows a user what is going on; entered by everything that takes a while, also nested."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing."""

    def say(self, text: str) -> None:
        """Show a line about what is done next, or what came out."""

    def warn(self, text: str) -> None:
        """Show a warning that stays."""

    def update(self, progress: Progress) -> None:
        """Show how far the work is."""


@dataclass(frozen=True, slots=True)
class Example:
    """One item to label.

    Attributes:
        id: Unique within its data set.
        prompt: Text that ends right before the label, without trailing blanks.
        group: Examples of one group are kept together when data are split, and
            constraint rules work inside a group. ``None`` means "in no group".
        answer: Key that the rules ``exclusive`` and ``equal`` compare (for
            GSM8K the final answer of the sampled solution).
    """

    id: str
    prompt: str
    group: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The claim of an example that compares two texts: ``first`` answers ``question`` better.

    Attributes:
        claim: Prompt of the example.
        question: What both texts answer.
        first: The text that the claim prefers.
        second: The other text.
    """

    claim: str
    question: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class LabelSpace(Sequence[str]):
    """Ordered label strings, at least two; each includes its leading space."""

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        given: object = self.labels
        if isinstance(given, str) or not all(isinstance(label, str) for label in self.labels):
            raise ValueError(f"labels must be a tuple of texts, got {shown(given)}")
        if len(self.labels) < 2:
            raise ValueError(
                f"a label space needs at least 2 labels, got {len(self.labels)}: "
                f"{list(self.labels)}; add the missing label"
            )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(
                f"label space {list(self.labels)} contains a label twice; remove the duplicate"
            )
        for label in self.labels:
            if not label.strip():
                raise ValueError(f"label {label!r} is blank; give it visible text")

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.labels[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A pair of examples and the label pairs that it may carry.

    Attributes:
        first: Index of one example; smaller than ``second``.
        second: Index of the other.
        allowed: ``allowed[a][b]`` tells whether label ``a`` on ``first`` and
            label ``b`` on ``second`` are consistent, ``|Y| x |Y|`` booleans.
        rule: Name of the rule from which it was compiled.
    """

    first: int
    second: int
    allowed: tuple[tuple[bool, ...], ...]
    rule: str = "custom"

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.second:
            raise ValueError(
                f"a constraint needs 0 <= first < second, got {self.first} and {self.second}; "
                "swap the examples and transpose the table"
            )


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples with their label space and constraints; never a gold label.

    A demonstration is ``prompt + label + separator``. A context may begin with a preamble, such as
    an instruction, which stands once before all demonstrations: ``preamble + separator``.
    """

    examples: tuple[Example, ...]
    label_space: LabelSpace
    constraints: tuple[Constraint, ...] = ()
    name: str = "custom"
    separator: str = field(default="\n\n")
    preamble: str = ""

    def __post_init__(self) -> None:
        if not self.examples:
            raise ValueError("the data set has no examples; check the path and the limit")
        seen: dict[str, int] = {}
        for row, example in enumerate(self.examples):
            if example.id in seen:
                raise ValueError(
                    f"example id {example.id!r} occurs in rows {seen[example.id]} and {row}; "
                    "make ids unique"
                )
            seen[example.id] = row
            if not example.prompt.strip():
                raise ValueError(f"example {example.id!r} (row {row}) has an empty prompt; fill it")
            if example.prompt != example.prompt.rstrip():
                raise ValueError(
                    f"the prompt of example {example.id!r} (row {row}) ends in whitespace, so its "
                    "tokens would differ from those in a demonstration; strip it and begin the "
                    "label with the space"
                )
        if self.preamble != self.preamble.rstrip():
            raise ValueError(
                "the preamble ends in whitespace, but the separator follows it; strip it"
            )
        self._check_encodable()
        n_labels = len(self.label_space)
        for constraint in self.constraints:
            if constraint.second >= len(self.examples):
                raise ValueError(
                    f"constraint {constraint.rule!r} names example {constraint.second}, but the "
                    f"data set has only {len(self.examples)} examples; drop it"
                )
            shape = {len(constraint.allowed), *(len(row) for row in constraint.allowed)}
            if shape != {n_labels}:
                raise ValueError(
                    f"constraint {constraint.rule!r} has a table that is not "
                    f"{n_labels} x {n_labels}; give one row and one column per label"
                )

    def _check_encodable(self) -> None:
        """Refuse halves of surrogate pairs, which no file and no tokenizer takes."""
        # All at once, since examples are many; row by row only for the message.
        whole = [t for e in self.examples for t in (e.id, e.prompt, e.group, e.answer) if t]
        for row, e in enumerate(() if _encodable("".join(whole)) else self.examples):
            if not _encodable("".join((e.id, e.prompt, e.group or "", e.answer or ""))):
                raise ValueError(f"the example in row {row} holds a lone surrogate; remove it")
        if not _encodable("".join((*self.label_space, self.separator))):
            raise ValueError("a label or the separator holds a lone surrogate; remove it")
        if not _encodable(self.preamble):
            raise ValueError("the preamble holds a lone surrogate; remove it")

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def opening(self) -> str:
        """What stands before the first prompt of a context: the preamble and a separator."""
        return self.preamble + self.separator if self.preamble else ""

    def subset(self, indices: Sequence[int]) -> Dataset:
        """Return the examples at ``indices``, in that order, with the constraints between them."""
        position = {int(old): new for new, old in enumerate(indices)}
        if len(position) != len(indices):
            raise ValueError("subset indices must not repeat")
        constraints = []
        for c in self.constraints:
            if c.first in position and c.second in position:
                a, b = position[c.first], position[c.second]
                if a < b:
                    constraints.append(Constraint(a, b, c.allowed, c.rule))
                else:
                    swapped = tuple(zip(*c.allowed, strict=True))
                    constraints.append(Constraint(b, a, swapped, c.rule))
        constraints.sort(key=lambda c: (c.first, c.second, c.rule))
        return Dataset(
            examples=tuple(self.examples[int(i)] for i in indices),
            label_space=self.label_space,
            constraints=tuple(constraints),
            name=self.name,
            separator=self.separator,
            preamble=self.preamble,
        )

    def constraint_arrays(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """Return pairs ``[m, 2]`` int32 and allowed tables ``[m, n_labels, n_labels]`` uint8."""
        n_labels = len(self.label_space)
        pairs = np.array([(c.first, c.second) for c in self.constraints], dtype=np.int32)
        tables = np.array([c.allowed for c in self.constraints], dtype=np.uint8)
        return pairs.reshape(-1, 2), tables.reshape(-1, n_labels, n_labels)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that a search sees."""
        content: dict[str, object] = {
            "examples": [[e.id, e.prompt, e.group, e.answer] for e in self.examples],
            "labels": list(self.label_space),
            "constraints": [[c.first, c.second, c.allowed, c.rule] for c in self.constraints],
            "separator": self.separator,
        }
        if self.preamble:  # data sets without one keep the fingerprints of earlier versions
            content["preamble"] = self.preamble
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def check_dataset(dataset: object) -> None:
    """Raise InputError unless ``dataset`` is a :class:`Dataset`."""
    if not isinstance(dataset, Dataset):
        hint = ""
        if isinstance(dataset, tuple):
            hint = "; load_task returns the data set and gold: pass the first"
        raise InputError(f"dataset must be an icm_fast.Dataset, got {type(dataset).__name__}{hint}")


def check_labels(labels: npt.ArrayLike, dataset: Dataset) -> IntArray:
    """Return ``labels`` as int32 ``[n]``; InputError unless each is -1 or a label's index."""
    array = np.asarray(labels)
    if array.shape != (len(dataset),):
        raise InputError(
            f"labels has shape {list(array.shape)}, but the data set has {len(dataset)} examples; "
            "pass one index per example, -1 where unlabelled"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"labels has dtype {array.dtype}; pass integers")
    wrong = np.flatnonzero((array < -1) | (array >= len(dataset.label_space)))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"label {int(array[row])} of example {dataset.examples[row].id!r} (row {row}) is "
            f"outside -1 .. {len(dataset.label_space) - 1}; give a label's index, or -1"
        )
    return array.astype(np.int32)
