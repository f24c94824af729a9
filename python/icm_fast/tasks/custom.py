"""custom: any table, with a prompt template and rules, described in YAML or by options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icm_fast.config import coerced
from icm_fast.documents import parse_yaml
from icm_fast.errors import InputError, shown, suggest
from icm_fast.files import check_name, expanded
from icm_fast.tasks.assembly import TaskData, assemble, label_space
from icm_fast.tasks.constraints import TEXT_KEYS as RULE_TEXT_KEYS
from icm_fast.tasks.constraints import RuleLike
from icm_fast.tasks.formats import file_type, read_text
from icm_fast.tasks.gold_values import GoldReader
from icm_fast.tasks.hub import HUB_PREFIX
from icm_fast.tasks.joins import joined_labels
from icm_fast.tasks.rows import PathLike, Row, checked_text, read_limited
from icm_fast.tasks.templates import filled, placeholders
from icm_fast.types import Example

_YAML_SUFFIXES = (".yaml", ".yml")
TEXT_KEYS = (
    *("data", "template", "group", "answer", "id", "gold", "gold_map", "separator", "preamble"),
)
"""Keys of a description whose values are text, whatever they look like."""


@dataclass(frozen=True, kw_only=True)
class CustomSpec:
    """Description of a custom task.

    Attributes:
        data: JSON, JSONL, CSV or TSV file (each also as .gz), Parquet file, or
            ``hub:NAME[@revision][/config][:split]``. A relative path in a YAML file starts from the
            folder of that file.
        template: Prompt with ``{column}`` placeholders; it ends right before the label.
        labels: Label texts, for claims the last one affirms. A leading space is added where text
            has one between prompt and label; see :func:`icm_fast.tasks.joins.joined_labels`.
        group: Column of the group (rules work inside one; groups are never split).
        answer: Column of the answer that rules compare.
        id: Column of the example id; None numbers the rows.
        gold: Column of the gold label; nothing else in the description may use it.
        gold_map: Label of each value of the gold column. Without it a value must be a label, but
            for case, blanks around it and the ``.0`` of whole floats.
        rules: Consistency rules; see ``icm_fast.tasks.constraints``. ``implies`` and ``custom``
            also take ``column``, whose value is the id (or the ids) of the other example.
        separator: Text between demonstrations.
        preamble: Text that stands once before all demonstrations, such as an instruction; a
            separator follows it.
        limit: Maximum number of examples. Of a data set of the Hub the first rows are streamed, so
            that nothing beyond them is fetched; of a file whole groups are drawn.
    """

    data: str
    template: str
    labels: tuple[str, ...]
    group: str | None = None
    answer: str | None = None
    id: str | None = None
    gold: str | None = None
    gold_map: Mapping[str, str] | None = None
    rules: tuple[RuleLike, ...] = ()
    separator: str = "\n\n"
    preamble: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("data", "template"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{name} of a custom task must be text, got {shown(value)}")
        for name in ("labels", "rules"):
            value = getattr(self, name)
            if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
                raise InputError(f"{name} of a custom task must be a list, got {shown(value)}")
            object.__setattr__(self, name, tuple(value))
        if not all(isinstance(label, str) for label in self.labels):
            raise InputError(
                f"labels must be text, got {shown(list(self.labels))}; quote them in YAML"
            )
        label_space(self.labels)
        if self.gold_map is not None and not isinstance(self.gold_map, Mapping):
            raise InputError(
                f"gold_map must be a mapping from values to labels, got {shown(self.gold_map)}"
            )
        self._check_texts()
        self._check_gold_apart()

    def _check_texts(self) -> None:
        """Refuse names of columns that are not text, and characters that no text holds."""
        for name in ("group", "answer", "id", "gold", "separator", "preamble"):
            value = getattr(self, name)
            absent = value is None and name != "separator"
            if not absent and not isinstance(value, str):
                raise InputError(f"{name} of a custom task must be text, got {shown(value)}")
        for name in ("template", "separator", "preamble"):
            checked_text(getattr(self, name) or "", name)
        for label in self.labels:
            checked_text(label, f"label {shown(label)}")

    def _check_gold_apart(self) -> None:
        used = {"template": placeholders(self.template)}
        used |= {name: [getattr(self, name)] for name in ("group", "answer", "id")}
        rules = [rule for rule in self.rules if isinstance(rule, Mapping)]
        used["rules"] = [str(rule["column"]) for rule in rules if "column" in rule]
        for name, columns in used.items():
            if self.gold is not None and self.gold in columns:
                raise InputError(
                    f"{name} uses the gold column {shown(self.gold)}; the search must not see "
                    "gold, so "
                    "use another column"
                )

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> CustomSpec:
        """Build from YAML content or options; unknown and missing keys are errors."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in content:
            if key not in known:
                raise InputError(
                    f"unknown key {shown(key)} in a custom task{suggest(str(key), known)}"
                )
        for name in ("data", "template", "labels"):
            if content.get(name) is None:
                raise InputError(
                    f"a custom task needs {shown(name)}; see examples/custom_task.yaml"
                )
        return cls(**coerced(cls, content))


def load_custom(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    template: str | None = None,
    labels: Sequence[str] | None = None,
    group: str | None = None,
    answer: str | None = None,
    id: str | None = None,
    gold: str | None = None,
    gold_map: Mapping[str, str] | None = None,
    rules: Sequence[RuleLike] | None = None,
    separator: str | None = None,
    preamble: str | None = None,
) -> TaskData:
    """Load a user-defined task.

    Args:
        path: YAML description, or the data themselves (``template`` and ``labels`` are then
            required).
        limit: Maximum number of examples; overrides the description.
        seed: Seed of the draw of groups.
        template: See ``CustomSpec``; this and all further options override the description.
        labels: See ``CustomSpec``.
        group: See ``CustomSpec``.
        answer: See ``CustomSpec``.
        id: See ``CustomSpec``.
        gold: See ``CustomSpec``.
        gold_map: See ``CustomSpec``.
        rules: See ``CustomSpec``.
        separator: See ``CustomSpec``.
        preamble: See ``CustomSpec``.
    """
    options = {
        "template": template,
        "labels": labels,
        "group": group,
        "answer": answer,
        "id": id,
        "gold": gold,
        "gold_map": gold_map,
        "rules": rules,
        "separator": separator,
        "preamble": preamble,
        "limit": limit,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if path is None:
        raise InputError("task 'custom' needs a YAML description or a data file")
    check_name("file", str(path))
    if file_type(Path(path)) in _YAML_SUFFIXES:
        content = _read_yaml(expanded(path))
    else:
        content = {"data": str(path)}
    spec = CustomSpec.from_mapping({**content, **given})
    return build_task(spec, read_limited(spec.data, spec.limit, spec.group), seed)


def _read_yaml(path: Path) -> dict[str, object]:
    content = parse_yaml(read_text(path), path.name, texts=(*TEXT_KEYS, *RULE_TEXT_KEYS))
    if not isinstance(content, Mapping):
        raise InputError(f"{path} has no keys; see examples/custom_task.yaml")
    resolved = dict(content)
    data = resolved.get("data")
    if isinstance(data, str) and not data.startswith(HUB_PREFIX):
        resolved["data"] = str(path.parent / expanded(data))
    return resolved


def build_task(spec: CustomSpec, rows: Sequence[Row], seed: int = 0) -> TaskData:
    """Render the prompts, resolve the rules and read gold."""
    _check_columns(spec, rows)
    gold = GoldReader(spec.labels, spec.gold_map)
    examples = [_example(spec, row) for row in rows]
    return assemble(
        "custom",
        examples,
        [gold.read(row, spec.gold) for row in rows],
        labels=joined_labels(spec.labels, (example.prompt for example in examples)),
        rules=[_with_pairs(rule, rows, examples) for rule in spec.rules],
        separator=spec.separator,
        preamble=(spec.preamble or "").rstrip(),
        limit=spec.limit,
        seed=seed,
    )


def _check_columns(spec: CustomSpec, rows: Sequence[Row]) -> None:
    """A column that no row has is a mistake in the description, not in a row."""
    columns = {column for row in rows for column in row.values}
    named = [("template", column) for column in placeholders(spec.template)]
    if not named:
        raise InputError(
            f"template {shown(spec.template)} names no column, so that all prompts would be equal; "
            f"put one in braces: {', '.join(f'{{{name}}}' for name in sorted(columns)[:5])}"
        )
    # Gold may be absent altogether: it is only for evaluation.
    named += [(key, getattr(spec, key)) for key in ("group", "answer", "id")]
    for key, column in named:
        if column is not None and column not in columns:
            raise InputError(
                f"{key} names column {shown(column)}, which {spec.data} does not have"
                f"{suggest(column, columns - {spec.gold})}"
            )


def _example(spec: CustomSpec, row: Row) -> Example:
    return Example(
        id=row.text(spec.id) if spec.id is not None else f"row-{row.number}",
        prompt=filled(spec.template, row).rstrip(),
        group=row.optional(spec.group),
        answer=row.optional(spec.answer),
    )


def _with_pairs(rule: RuleLike, rows: Sequence[Row], examples: Sequence[Example]) -> RuleLike:
    """Replace ``column`` of a rule with the pairs of ids that the column lists."""
    if not isinstance(rule, Mapping) or "column" not in rule:
        return rule
    column = str(rule["column"])
    pairs = []
    for row, example in zip(rows, examples, strict=True):
        value = row.values.get(column)
        if value is None or value == "":
            continue
        others = value if isinstance(value, (list, tuple)) else [value]
        for other in others:
            text = Row(row.number, row.where, {column: other}).optional(column)
            pairs += [] if text is None else [(example.id, text)]
    if not pairs:
        raise InputError(
            f"column {shown(column)} of rule {rule.get('rule')!r} names no example id in any row; "
            "fill it or drop the rule"
        )
    return {key: value for key, value in rule.items() if key != "column"} | {"pairs": pairs}
