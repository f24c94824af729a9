"""custom: YAML and options, templates, gold, rules and their errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from icm_fast.errors import InputError
from icm_fast.tasks.constraints import Custom
from icm_fast.tasks.registry import load_task

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom_task.yaml"

ROWS = [
    {"text": "Sunny", "topic": "weather", "gold": "good", "pair": "1"},
    {"text": "Rain", "topic": "weather", "gold": "bad", "pair": "1"},
    {"text": "Goal", "topic": "sport", "gold": None, "pair": "2"},
    {"text": "Draw", "topic": "sport", "gold": "neutral", "pair": "2"},
]
OPTIONS = {"template": "Text: {text}\nMood:", "labels": [" bad", " good", " neutral"]}


def save(folder, rows=ROWS, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spec(folder, **changes):
    content = {"data": "rows.jsonl", **OPTIONS, "gold": "gold", "group": "pair"} | changes
    save(folder)
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def test_the_example_file():
    dataset, gold = load_task("custom", EXAMPLE)
    assert gold.tolist() == [1, 1, 0, 1, 1, 0]
    assert {c.rule for c in dataset.constraints} == {"exclusive", "equal", "implies"}
    assert all(c.allowed[gold[c.first]][gold[c.second]] for c in dataset.constraints)
    assert dataset.examples[0].id == "legs-8"


def test_yaml_and_options_agree(tmp_path):
    path = spec(tmp_path, limit=2)
    from_yaml, gold = load_task("custom", path, seed=1)
    options = {**OPTIONS, "gold": "gold", "group": "pair", "limit": 2}
    from_options, _ = load_task("custom", tmp_path / "rows.jsonl", seed=1, **options)
    assert from_yaml == from_options
    assert len(gold) == 2
    assert len(load_task("custom", path, limit=4)[0]) == 4


def test_a_preamble_stands_once_before_the_prompts(tmp_path):
    path = spec(tmp_path, preamble="Moods of news.\n")
    dataset, _ = load_task("custom", path)
    assert dataset.preamble == "Moods of news."
    assert dataset.examples == load_task("custom", spec(tmp_path))[0].examples
    assert load_task("custom", path, preamble="12")[0].preamble == "12"
    with pytest.raises(InputError, match="unknown preamble 3; give text"):
        load_task("custom", path, preamble=3)


def test_multi_class_gold(tmp_path):
    dataset, gold = load_task("custom", spec(tmp_path))
    assert gold.tolist() == [1, 0, -1, 2]
    assert dataset.examples[0].prompt == "Text: Sunny\nMood:"
    assert dataset.examples[0].id == "row-0"
    assert dataset.separator == "\n\n"


@pytest.mark.parametrize(
    ("values", "options", "gold"),
    [
        ([True, False], {"gold_map": {"true": "pos", "false": "neg"}}, [1, 0]),
        (["1", "0.0"], {"gold_map": {0: "neg", 1: "pos"}}, [1, 0]),
        ([-1, None], {}, [-1, -1]),
        ([float("nan"), ""], {}, [-1, -1]),
        (["POS", " Neg "], {}, [1, 0]),
        (["Y", "N"], {"gold_map": {"Y": "pos", "N": " neg"}}, [1, 0]),
        (["pos", " neg"], {}, [1, 0]),
    ],
)
def test_gold_spellings(tmp_path, values, options, gold):
    path = save(tmp_path, [{"t": f"t{i}", "g": value} for i, value in enumerate(values)])
    _, found = load_task(
        "custom", path, template="{t}", labels=[" neg", " pos"], gold="g", **options
    )
    assert found.tolist() == gold


@pytest.mark.parametrize(
    ("labels", "values", "gold"),
    [
        ([" 1", " 2", " 3"], [1.0, 2.0, None], [0, 1, -1]),
        ([" 1", " 2", " 3"], ["1", "2.0", " 3 "], [0, 1, 2]),
        ([" 0", " 1"], [1, 0], [1, 0]),
        ([" False", " True"], [True, "false"], [1, 0]),
        ([" a", " A"], ["A", "a"], [1, 0]),
        ([" -1", " 1"], [-1, 1.0], [0, 1]),
    ],
)
def test_gold_that_names_a_label(tmp_path, labels, values, gold):
    path = save(tmp_path, [{"t": f"t{i}", "g": value} for i, value in enumerate(values)])
    assert load_task("custom", path, template="{t}", labels=labels, gold="g")[1].tolist() == gold


@pytest.mark.parametrize(
    ("labels", "value", "options", "message"),
    [
        ([" neg", " pos"], 1, {}, "line 1: gold 1 is not a label.*gold_map"),
        ([" neg", " pos"], True, {}, "gold True is not a label"),
        ([" neg", " pos"], "0", {}, "gold '0' is not a label"),
        ([" False", " True"], 1, {}, "gold 1 is not a label"),
        ([" 1", " 2"], 0, {}, "gold 0 is not a label"),
        ([" 1", " 2"], -1, {}, "gold -1 is not a label"),
        ([" 1", " 2"], 1.5, {}, "gold 1.5 is not a label"),
        ([" 1", " 2"], float("inf"), {}, "gold inf is not a label"),
        ([" 1", " 2"], ["1"], {}, r"gold \['1'\] is not a label"),
        ([" a", " A"], " a.", {}, "is not a label"),
        ([" ab", " AB"], "Ab", {}, "fits ' ab', ' AB' alike"),
        ([" 1", " 1.0"], 1.0, {}, "fits ' 1', ' 1.0' alike"),
        ([" neg", " pos"], "neg", {"gold_map": {"1": "pos"}}, "'neg' is not in gold_map"),
        ([" neg", " pos"], 1, {"gold_map": {"1": "poss"}}, "turns '1' into 'poss'"),
        ([" neg", " pos"], 1, {"gold_map": {"1": 1}}, "turns '1' into 1"),
        ([" neg", " pos"], "x" * 9999, {}, "is not a label"),
    ],
)
def test_gold_that_could_be_misread_is_refused(tmp_path, labels, value, options, message):
    path = save(tmp_path, [{"t": "t0", "g": value}])
    with pytest.raises(InputError, match=message) as caught:
        load_task("custom", path, template="{t}", labels=labels, gold="g", **options)
    assert len(str(caught.value)) < 500


def test_gold_of_parquet_files_with_class_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        t=datasets.Value("string"), g=datasets.ClassLabel(names=["pos", "neg"])
    )
    table = datasets.Dataset.from_dict({"t": ["x", "y", "z"], "g": [0, 1, -1]}, features)
    table.to_parquet(tmp_path / "a.parquet")
    options = {"template": "{t}", "labels": [" neg", " pos"], "gold": "g"}
    assert load_task("custom", tmp_path / "a.parquet", **options)[1].tolist() == [1, 0, -1]


def test_the_data_set_does_not_depend_on_gold(tmp_path):
    path = spec(tmp_path, limit=2)
    original, _ = load_task("custom", path)
    save(tmp_path, [{k: v for k, v in row.items() if k != "gold"} for row in ROWS])
    blind, unknown = load_task("custom", path)
    assert original == blind
    assert unknown.tolist() == [-1, -1]


def test_template_braces_and_trailing_blanks(tmp_path):
    path = save(tmp_path, [{"a b": 7}])
    dataset, _ = load_task("custom", path, template="{{x}} {a b} ", labels=[" n", " y"])
    assert dataset.examples[0].prompt == "{x} 7"


def test_python_rules_and_implied_columns(tmp_path):
    rows = [{"t": "dog", "k": "d", "then": ["a", "m"]}, {"t": "animal", "k": "a"}]
    rows.append({"t": "mammal", "k": "m", "then": "a"})
    path = save(tmp_path, rows)
    options = {"template": "It is a {t}.", "labels": [" False", " True"], "id": "k"}
    implied, _ = load_task("custom", path, rules=[{"rule": "implies", "column": "then"}], **options)
    table = ((True, True), (False, True))
    assert [(c.first, c.second, c.allowed) for c in implied.constraints] == [
        (0, 1, table),
        (0, 2, table),
        (1, 2, tuple(zip(*table, strict=True))),
    ]
    rule = Custom(id_pairs=(("d", "a"),), predicate=lambda a, x, b, y: x == y)
    custom, _ = load_task("custom", path, rules=[rule], **options)
    assert custom.constraints[0].allowed == ((True, False), (False, True))


def test_csv_data(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,gold\nSunny,good\nRain,\n")
    dataset, gold = load_task("custom", path, gold="gold", **OPTIONS)
    assert len(dataset) == 2
    assert gold.tolist() == [1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tempalte": "x"}, "unknown key 'tempalte' in a custom task; did you mean 'template'"),
        ({"template": None}, "needs 'template'"),
        ({"labels": None}, "needs 'labels'"),
        ({"labels": [" good"]}, "at least 2 labels"),
        ({"labels": [" good", " good"]}, "contains a label twice"),
        ({"labels": [True, False]}, "quote them in YAML"),
        ({"labels": " good"}, "must be a list"),
        ({"template": ""}, "template of a custom task must be text"),
        ({"template": "{txt}"}, "names column 'txt'.*did you mean 'text'"),
        ({"template": "{text!r}"}, "column name in braces"),
        ({"template": "{}"}, "column name in braces"),
        ({"template": "{text"}, "literal braces"),
        ({"template": "{text} {gold}"}, "template uses the gold column 'gold'"),
        ({"answer": "gold"}, "answer uses the gold column"),
        ({"rules": [{"rule": "implies", "column": "gold"}]}, "rules uses the gold column"),
        ({"rules": [{"rule": "implies", "column": "none"}]}, "names no example id"),
        ({"rules": ["exclusive"]}, "must name the one"),
        ({"rules": "exclusive"}, "must be a list"),
        ({"group": "pear"}, "group names column 'pear'"),
        ({"id": "topic"}, "occurs in rows 0 and 1; make ids unique"),
        ({"gold_map": ["a"]}, "gold_map must be a mapping from values to labels"),
        ({"gold_map": {"good": "good"}}, r"line 2: gold 'bad' is not in gold_map"),
        ({"gold": "topic", "group": None}, r"line 1: gold 'weather' is not a label"),
        ({"data": "no.jsonl"}, "no file at"),
        ({"data": ["x"]}, "data of a custom task must be text"),
    ],
)
def test_wrong_descriptions_are_one_line(tmp_path, changes, message):
    path = spec(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_task("custom", path)
    assert "\n" not in str(caught.value)


def test_rows_with_gaps_and_broken_yaml(tmp_path):
    path = spec(tmp_path)
    save(tmp_path, [*ROWS, {"topic": "t"}])
    with pytest.raises(InputError, match=r"rows.jsonl, line 5: column 'text' is missing"):
        load_task("custom", path)
    path.write_text("data: x\nlabels: [\n")
    with pytest.raises(InputError, match=r"spec.yaml, line \d: not YAML"):
        load_task("custom", path)
    path.write_text("- a\n")
    with pytest.raises(InputError, match="has no keys"):
        load_task("custom", path)
    with pytest.raises(InputError, match="needs a YAML description"):
        load_task("custom")


@pytest.mark.parametrize(
    ("template", "labels", "found"),
    [
        ("{t} is", ["no", "yes"], (" no", " yes")),
        ("{t}:", [" no", "yes"], (" no", " yes")),
        ("{t}:\n", ["no", "yes"], (" no", " yes")),
        ("{t}?", ["\nno", "yes"], ("\nno", " yes")),
        ('{t}: "', ["no", "yes"], ("no", "yes")),
        ("{t} (", ["A", "B"], ("A", "B")),
        ("{t}\u7b54\u6848\uff1a", ["\u662f", "\u5426"], ("\u662f", "\u5426")),
        ("{t} \u7684", ["no", "yes"], ("no", "yes")),
        ("{t}:", ["+", "-"], ("+", "-")),
    ],
)
def test_labels_join_as_in_running_text(tmp_path, template, labels, found):
    path = save(tmp_path, [{"t": "x", "g": labels[1]}])
    dataset, gold = load_task("custom", path, template=template, labels=labels, gold="g")
    assert dataset.label_space.labels == found
    assert gold.tolist() == [1]


def test_names_in_yaml_are_text(tmp_path):
    save(tmp_path, [{"007": "x", "no": "y", "g": 1}])
    path = tmp_path / "spec.yaml"
    path.write_text(
        "data: rows.jsonl\ntemplate: '{007}'\nid: 007\ngroup: no\ngold: g\n"
        "labels: [no, yes]\ngold_map: {0: no, 1: yes}\n"
    )
    dataset, gold = load_task("custom", path)
    assert (dataset.examples[0].id, dataset.examples[0].group) == ("x", "y")
    assert dataset.label_space.labels == (" no", " yes")
    assert gold.tolist() == [1]


@pytest.mark.parametrize("template", ["Is it good?", "{{text}}", "x"])
def test_a_template_without_a_column_is_refused(tmp_path, template):
    with pytest.raises(InputError, match=r"names no column, .*one in braces: \{gold\}, \{pair\}"):
        load_task("custom", spec(tmp_path, template=template))
