"""custom: any table, with a prompt template and rules, described in YAML or by options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from icm_fast.errors import InputError, suggest
from icm_fast.tasks.assembly import TaskData, assemble, label_space
from icm_fast.tasks.constraints import RuleLike
from icm_fast.tasks.rows import HUB_PREFIX, PathLike, Row, read_rows, read_text
from icm_fast.types import Example

_YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class CustomSpec:
    """Description of a custom task.

    Attributes:
        data: JSON, JSONL, CSV or Parquet file, or ``hub:NAME[:split]``. A relative path in a
            YAML file starts from the folder of that file.
        template: Prompt with ``{column}`` placeholders; it ends right before the label.
        labels: Label texts, each with its leading space; for claims the last one affirms.
        group: Column of the group (rules work inside one; groups are never split).
        answer: Column of the answer that rules compare.
        id: Column of the example id; None numbers the rows.
        gold: Column of the gold label; nothing else in the description may use it.
        gold_map: Label of each value of the gold column.
        rules: Consistency rules; see ``icm_fast.tasks.constraints``. ``implies`` and ``custom``
            also take ``column``, whose value is the id (or the ids) of the other example.
        separator: Text between demonstrations.
        limit: Maximum number of examples.
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
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("data", "template"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{name} of a custom task must be text, got {value!r}")
        for name in ("labels", "rules"):
            value = getattr(self, name)
            if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
                raise InputError(f"{name} of a custom task must be a list, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        if not all(isinstance(label, str) for label in self.labels):
            raise InputError(f"labels must be text, got {list(self.labels)}; quote them in YAML")
        label_space(self.labels)
        if self.gold_map is not None and not isinstance(self.gold_map, Mapping):
            raise InputError(
                f"gold_map must be a mapping from values to labels, got {self.gold_map!r}"
            )
        self._check_gold_apart()

    def _check_gold_apart(self) -> None:
        used = {"template": placeholders(self.template)}
        used |= {name: [getattr(self, name)] for name in ("group", "answer", "id")}
        rules = [rule for rule in self.rules if isinstance(rule, Mapping)]
        used["rules"] = [str(rule["column"]) for rule in rules if "column" in rule]
        for name, columns in used.items():
            if self.gold is not None and self.gold in columns:
                raise InputError(
                    f"{name} uses the gold column {self.gold!r}; the search must not see gold, so "
                    "use another column"
                )

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> CustomSpec:
        """Build from YAML content or options; unknown and missing keys are errors."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in content:
            if key not in known:
                raise InputError(f"unknown key {key!r} in a custom task{suggest(str(key), known)}")
        for name in ("data", "template", "labels"):
            if content.get(name) is None:
                raise InputError(f"a custom task needs {name!r}; see examples/custom_task.yaml")
        return cls(**content)


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
        "limit": limit,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if path is None:
        raise InputError("task 'custom' needs a YAML description or a data file")
    if Path(path).suffix.lower() in _YAML_SUFFIXES:
        content = _read_yaml(Path(path).expanduser())
    else:
        content = {"data": str(path)}
    spec = CustomSpec.from_mapping({**content, **given})
    return build_task(spec, read_rows(spec.data), seed)


def _read_yaml(path: Path) -> dict[str, object]:
    import yaml

    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise InputError(f"{path.name}{line}: not YAML ({problem}); correct that line") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} has no keys; see examples/custom_task.yaml")
    resolved = {str(key): value for key, value in content.items()}
    data = resolved.get("data")
    if isinstance(data, str) and not data.startswith(HUB_PREFIX):
        resolved["data"] = str(path.parent / Path(data).expanduser())
    return resolved


def build_task(spec: CustomSpec, rows: Sequence[Row], seed: int = 0) -> TaskData:
    """Render the prompts, resolve the rules and read gold."""
    _check_columns(spec, rows)
    examples = [_example(spec, row) for row in rows]
    return assemble(
        "custom",
        examples,
        [_gold(spec, row) for row in rows],
        labels=spec.labels,
        rules=[_with_pairs(rule, rows, examples) for rule in spec.rules],
        separator=spec.separator,
        limit=spec.limit,
        seed=seed,
    )


def placeholders(template: str) -> list[str]:
    """Return the columns that a template names."""
    return [name for _, name in _pieces(template) if name is not None]


def _pieces(template: str) -> list[tuple[str, str | None]]:
    try:
        parsed = [
            (text, name, spec or how) for text, name, spec, how in Formatter().parse(template)
        ]
    except ValueError as error:
        raise InputError(
            f"template {template!r}: {error}; write {{{{ and }}}} for literal braces"
        ) from error
    for _, name, extra in parsed:
        if extra or name == "":
            raise InputError(
                f"template {template!r}: a placeholder must be a column name in braces, no more"
            )
    return [(text, name) for text, name, _ in parsed]


def _check_columns(spec: CustomSpec, rows: Sequence[Row]) -> None:
    """A column that no row has is a mistake in the description, not in a row."""
    columns = {column for row in rows for column in row.values}
    named = [("template", column) for column in placeholders(spec.template)]
    # Gold may be absent altogether: it is only for evaluation.
    named += [(key, getattr(spec, key)) for key in ("group", "answer", "id")]
    for key, column in named:
        if column is not None and column not in columns:
            raise InputError(
                f"{key} names column {column!r}, which {spec.data} does not have"
                f"{suggest(column, columns - {spec.gold})}"
            )


def _example(spec: CustomSpec, row: Row) -> Example:
    parts = [
        text if name is None else text + row.text(name) for text, name in _pieces(spec.template)
    ]
    return Example(
        id=row.text(spec.id) if spec.id is not None else f"row-{row.number}",
        prompt="".join(parts).rstrip(),
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
        pairs += [(example.id, str(other)) for other in others]
    if not pairs:
        raise InputError(
            f"column {column!r} of rule {rule.get('rule')!r} names no example id in any row; "
            "fill it or drop the rule"
        )
    return {key: value for key, value in rule.items() if key != "column"} | {"pairs": pairs}


def _gold(spec: CustomSpec, row: Row) -> int:
    """Return the label index that the gold column names; -1 if it is empty."""
    word = row.optional(spec.gold)
    if word is None:
        return -1
    if spec.gold_map is not None:
        mapping = {str(key): str(value) for key, value in spec.gold_map.items()}
        if word not in mapping:
            raise InputError(
                f"{row.where}: gold {word!r} is not in gold_map{suggest(word, mapping)}"
            )
        word = mapping[word]
    bare = [label.strip() for label in spec.labels]
    if word.strip() in bare:
        return bare.index(word.strip())
    return _gold_number(spec, row, word)


def _gold_number(spec: CustomSpec, row: Row, word: str) -> int:
    """Read an index into the label space, or a truth value for a binary one."""
    truth = {"false": 0, "true": 1} if len(spec.labels) == 2 else {}
    indices = {str(index): index for index in range(-1, len(spec.labels))}
    known = indices | truth
    key = word.strip().lower().removesuffix(".0")  # tables with gaps store integers as floats
    if key not in known:
        raise InputError(
            f"{row.where}: gold {word!r} is not a label{suggest(word, [*spec.labels, *indices])}; "
            "or add a gold_map"
        )
    return known[key]
