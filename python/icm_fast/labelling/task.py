"""What is asked of each row: a class, the truth of a claim, or the better of two texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from icm_fast.errors import InputError, shown, suggest
from icm_fast.tasks.assembly import CLAIM_ENDING, TRUTH_LABELS, label_space
from icm_fast.tasks.constraints import Asymmetric, RuleLike, make_rule
from icm_fast.tasks.gold_values import GoldReader
from icm_fast.tasks.joins import joined_labels
from icm_fast.tasks.rows import Row, checked_text
from icm_fast.tasks.templates import filled, placeholders
from icm_fast.types import UNLABELLED, Dataset, Example, LabelSpace

MAX_LABELS = 50
TEXTS = ("text", "claim", "template", "known", "group", "answer", "instruction")
"""Fields that hold a text, or nothing."""
NOUNS = ("Label", "Category", "Sentiment", "Topic", "Type", "Answer")
"""Words before a label, of which a labelling without a template chooses one by the model."""


@dataclass(frozen=True, kw_only=True)
class LabelTask:
    """What a labelling asks of each row. One of ``text``, ``claim`` and ``compare`` is given, or a
    ``template``.

    Attributes:
        labels: Label texts as people write them, 2 to 50. Claims have false and true, comparisons
            the names of their two columns. A mapping gives a description of each label, too.
        text: Column whose texts are classified.
        claim: Column whose texts are true or false.
        compare: Two columns with texts, of which one is better. Each row is read in both orders,
            exactly one of which is true. With ``text``, that column is the question.
        template: Prompt with ``{column}`` placeholders that ends right before the label. By default
            it is made of the column's name; for classes, the word before the label is the one of
            ``NOUNS`` that tells the model most.
        known: Column with labels that are known; where it is empty, the row is labelled.
        group: Column of the group inside which rules work.
        answer: Column of the answer that rules compare.
        rules: Consistency rules; see :mod:`icm_fast.tasks.constraints`.
        instruction: Text that stands once before all rows and demonstrations.
        descriptions: What labels mean, by label; they stand after the instruction.
        separator: Text between demonstrations.
    """

    labels: tuple[str, ...] = ()
    text: str | None = None
    claim: str | None = None
    compare: tuple[str, str] | None = None
    template: str | None = None
    known: str | None = None
    group: str | None = None
    answer: str | None = None
    rules: tuple[RuleLike, ...] = ()
    instruction: str | None = None
    descriptions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    separator: str = "\n\n"

    def __post_init__(self) -> None:
        for name in (*TEXTS, "separator"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip("\t ")):
                raise InputError(f"{name} must be text, got {shown(value)}")
        self._check_form()
        self._read_labels()
        self._read_descriptions()
        for name in ("template", "instruction", "separator"):
            checked_text(getattr(self, name) or "", name)
        if self.known is not None and self.known in self.columns:
            raise InputError(
                f"the known labels are in column {shown(self.known)}, which the prompt reads, too; "
                "use another column for one of them"
            )
        rules: object = self.rules
        if isinstance(rules, str | Mapping) or not isinstance(rules, Sequence):
            raise InputError(f"rules must be a list, got {shown(rules)}")
        for rule in rules:
            make_rule(rule)  # refuses what is not one before any row is read
        object.__setattr__(self, "rules", tuple(rules))
        if self.rules and self.group is None:
            raise InputError("rules work inside groups; name the column of the group")

    def _check_form(self) -> None:
        given = [n for n in ("text", "claim", "compare") if getattr(self, n) is not None]
        for column in (self.text, self.claim, *(self.compare or ())):
            if self.template is None and column is not None and set(column) & set("{}:!"):
                raise InputError(
                    f"column {shown(column)} has a sign of templates in its name; rename it"
                )
        if given == ["text", "compare"]:
            given = ["compare"]
        if len(given) > 1:
            raise InputError(f"{given[0]} and {given[1]} exclude each other; name one of them")
        if not given and self.template is None:
            raise InputError(
                "name the column to label: text (a class), claim (true or false), or compare (two "
                "columns)"
            )
        if self.compare is None:
            return
        pair: object = self.compare
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"compare takes two columns, got {shown(pair)}")
        object.__setattr__(self, "compare", tuple(pair))
        if pair[0] == pair[1]:
            raise InputError(f"compare names column {shown(pair[0])} twice; name two columns")
        if self.template is not None and not set(pair) <= set(placeholders(self.template)):
            raise InputError(
                f"the template of a comparison must show both columns, {{{pair[0]}}} and "
                f"{{{pair[1]}}}"
            )
        if self.rules:
            raise InputError("comparisons bring their own rule; leave rules out")

    def _read_labels(self) -> None:
        labels: object = self.labels
        if isinstance(labels, Mapping):
            object.__setattr__(self, "descriptions", {**labels, **self.descriptions})
            labels = tuple(labels)
        if isinstance(labels, str) or not isinstance(labels, Sequence):
            raise InputError(f"labels must be a list, got {shown(labels)}")
        if self.claim is not None or self.compare is not None:
            if labels:
                form = "claim" if self.claim is not None else "compare"
                raise InputError(f"{form} has labels already; leave labels out")
            names = self.compare or tuple(label.strip().lower() for label in TRUTH_LABELS)
            object.__setattr__(self, "labels", names)
            return
        if not all(isinstance(label, str) for label in labels):
            raise InputError(f"labels must be text, got {shown(list(labels))}")
        bare = tuple(label.strip() for label in labels)
        if len(bare) < 2 or len(bare) > MAX_LABELS:
            raise InputError(
                f"a labelling needs 2 to {MAX_LABELS} labels, got {len(bare)}; name them, for "
                "example negative,positive"
            )
        label_space(bare)
        for label in bare:
            checked_text(label, f"label {shown(label)}")
        object.__setattr__(self, "labels", bare)

    def _read_descriptions(self) -> None:
        given: object = self.descriptions
        if not isinstance(given, Mapping):
            raise InputError(f"descriptions must be texts by label, got {shown(given)}")
        if given and self.form != "classify":
            raise InputError(
                f"{self.form} has labels already; say what they mean in the instruction"
            )
        found: dict[str, str] = {}
        for label, text in given.items():
            name = label.strip() if isinstance(label, str) else label
            if name not in self.labels:
                raise InputError(
                    f"the description of {shown(label)} is of no label"
                    f"{suggest(str(name), self.labels)}; the labels are {', '.join(self.labels)}"
                )
            if text is not None and not isinstance(text, str):
                raise InputError(
                    f"the description of {shown(name)} must be text, got {shown(text)}"
                )
            line = " ".join((text or "").split())
            if line:
                found[name] = checked_text(line, f"the description of {shown(name)}")
        object.__setattr__(self, "descriptions", found)

    @cached_property
    def preamble(self) -> str:
        """What stands once before all rows and demonstrations: instruction and descriptions."""
        parts = [self.instruction.strip()] if self.instruction else []
        if self.descriptions:
            described = (
                f"- {label}: {self.descriptions[label]}"
                if label in self.descriptions
                else f"- {label}"
                for label in self.labels
            )
            parts.append("\n".join(("Labels:", *described)))
        return "\n\n".join(parts)

    @property
    def form(self) -> str:
        """``classify``, ``claim`` or ``compare``."""
        return "claim" if self.claim else "compare" if self.compare else "classify"

    @property
    def per_row(self) -> int:
        """Prompts for each row: two for comparisons."""
        return 2 if self.compare else 1

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns that the prompt and the rules read."""
        shown_columns = placeholders(self.template) if self.template is not None else []
        named = [self.text, self.claim, *(self.compare or ()), *shown_columns]
        named += [self.group, self.answer]
        return tuple(dict.fromkeys(column for column in named if column is not None))

    def templates(self) -> tuple[str, ...]:
        """Prompts to choose from: the given one, or one for each noun."""
        if self.template is not None:
            return (self.template,)
        if self.claim is not None:
            return (f"Claim: {_field(self.claim)}\n{CLAIM_ENDING}",)
        if self.compare is not None:
            question = "" if self.text is None else f"{_titled(self.text)}\n"
            one, other = self.compare
            return (
                f"{question}Response 1: {_field(one)}\nResponse 2: {_field(other)}\n"
                f"Claim: Response 1 is better than Response 2.\n{CLAIM_ENDING}",
            )
        assert self.text is not None
        return tuple(f"{_titled(self.text)}\n{noun}:" for noun in NOUNS)

    def with_template(self, template: str) -> LabelTask:
        """The same task with one of :meth:`templates`."""
        return dataclasses.replace(
            self, template=template, labels=self.labels if self.form == "classify" else ()
        )

    def with_known(self, column: str) -> LabelTask:
        """The same task with known labels in a column."""
        return dataclasses.replace(
            self, known=column, labels=self.labels if self.form == "classify" else ()
        )

    def model_labels(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """The labels as the model reads them after the prompts."""
        return joined_labels(self.labels, prompts) if self.form == "classify" else TRUTH_LABELS

    def model_rules(self) -> tuple[RuleLike, ...]:
        """The rules between the examples of the rows."""
        return (Asymmetric(),) if self.compare is not None else self.rules

    def examples(self, row: Row) -> tuple[Example, ...]:
        """The prompts of a row, :attr:`per_row` many.

        Raises:
            InputError: A column is missing, or is not text.
        """
        assert self.template is not None
        name = f"row-{row.number}"
        if self.compare is None:
            prompt = filled(self.template, row).rstrip()
            return (Example(name, prompt, row.optional(self.group), row.optional(self.answer)),)
        one, other = self.compare
        values = {**row.values, one: row.values.get(other), other: row.values.get(one)}
        exchanged = Row(row.number, row.where, values)
        return (
            Example(f"{name}-1", filled(self.template, row).rstrip(), name, "1>2"),
            Example(f"{name}-2", filled(self.template, exchanged).rstrip(), name, "2>1"),
        )

    def dataset(self, examples: tuple[Example, ...], labels: LabelSpace) -> Dataset:
        """Prompts of rows as a data set without constraints.

        Args:
            examples: The prompts.
            labels: The labels as the model reads them.
        """
        return Dataset(examples, labels, (), self.form, self.separator, self.preamble)

    def item_labels(self, label: int) -> tuple[int, ...]:
        """The label of each prompt of a row that has ``label``."""
        if self.compare is None:
            return (label,)
        # The claim "the first is better" is true (1) of one order and false (0) of the other.
        return (1, 0) if label == 0 else (0, 1) if label == 1 else (UNLABELLED, UNLABELLED)

    def known_label(self, row: Row, reader: GoldReader) -> int:
        """The known label of a row, -1 where it is empty."""
        return reader.read(row, self.known)

    def check_columns(self, found: Sequence[str], name: str, optional: Collection[str]) -> None:
        """Raise InputError if there is no column that the prompt needs.

        Args:
            found: Columns that there are.
            name: Name of the table.
            optional: Columns that a row may lack.
        """
        for column in self.columns:
            if column not in found and column not in optional:
                raise InputError(f"{name} has no column {shown(column)}{suggest(column, found)}")

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        content = dataclasses.asdict(self)
        content["rules"] = [
            dict(rule) if isinstance(rule, Mapping) else str(rule) for rule in self.rules
        ]
        for name in ("instruction", "descriptions"):
            if not content[name]:  # as earlier versions wrote it
                del content[name]
        return content


def _field(column: str) -> str:
    return "{" + column + "}"


def _titled(column: str) -> str:
    """``Review: {review}``; braces in names are doubled where they are text."""
    words = column.replace("_", " ").replace("{", "{{").replace("}", "}}").strip()
    return f"{words[:1].upper()}{words[1:]}: {_field(column)}"
