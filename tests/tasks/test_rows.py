"""Reading tables: every format gives the same rows, every defect one clear line."""

from __future__ import annotations

import json
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icm_fast.errors import InputError
from icm_fast.tasks.rows import Row, binary_gold, read_rows

RECORDS = [
    {"question": "Is it é?", "claim": "Yes,\nit is", "label": 1},
    {"question": "Two?", "claim": 'a "no"', "label": 0},
]


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_formats_agree(tmp_path):
    lines = "\n\n".join(json.dumps(record) for record in RECORDS)
    paths = [
        write(tmp_path, "a.jsonl", "\ufeff" + lines),
        write(tmp_path, "a.json", json.dumps(RECORDS, indent=1)),
        write(
            tmp_path,
            "a.csv",
            'question,claim,label\nIs it é?,"Yes,\nit is",1\nTwo?,"a ""no""",0\n',
        ),
        tmp_path / "a.parquet",
    ]
    pq.write_table(pa.Table.from_pylist(RECORDS), paths[-1])
    for path in paths:
        rows = read_rows(path)
        assert [row.text("claim") for row in rows] == ["Yes,\nit is", 'a "no"'], path
        assert [row.number for row in rows] == [0, 1]
        assert [binary_gold(row) for row in rows] == [1, 0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "contains no rows"),
        ("a.json", "[]", "contains no rows"),
        ("a.csv", "a,b\n", "contains no rows"),
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', r"a.jsonl, line 3: not JSON"),
        ("a.json", '[{"a": 1},\n{"a" 1}]', r"a.json, line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n[2]\n', r"line 2: a list instead of an object"),
        ("a.json", '[{"a": 1}, 7]', r"element 1: a int instead of an object"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"line 3: not 2 fields"),
        ("a.csv", "a,b\n1\n", r"line 2: not 2 fields"),
        ("a.parquet", "no table", "not a readable Parquet file"),
        ("a.jsnl", "x", "unknown file type '.jsnl'; did you mean '.jsonl'"),
    ],
)
def test_defects_are_one_line(tmp_path, name, text, message):
    path = write(tmp_path, name, text)
    with pytest.raises(InputError, match=message) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_encoding(tmp_path):
    for name in ("no.jsonl", "no.parquet"):
        with pytest.raises(InputError, match="no file at"):
            read_rows(tmp_path / name)
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_rows(tmp_path / "b.jsonl")
    (tmp_path / "c.csv").write_bytes(b"a\n\xff\n")
    with pytest.raises(InputError, match="not UTF-8 at byte 2"):
        read_rows(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("value", "gold"),
    [(True, 1), (0, 0), ("true", 1), ("False", 0), (1.0, 1), (None, -1), ("", -1), (-1, -1)],
)
def test_gold_spellings(value, gold):
    assert binary_gold(Row(0, "x", {"label": value})) == gold


def test_gold_absent_or_wrong():
    assert binary_gold(Row(0, "x", {})) == -1
    with pytest.raises(InputError, match=r"a, line 2: gold 'label' is 2"):
        binary_gold(Row(1, "a, line 2", {"label": 2}))


def test_hub_rows(monkeypatch):
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return [{"a": 1}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert read_rows("hub:org/name:test")[0].values == {"a": 1}
    read_rows("hub:org/name")
    assert asked == [("org/name", "test"), ("org/name", "train")]


def test_hub_failures_are_one_line(monkeypatch):
    def load_dataset(name, split):
        raise ConnectionError("no route\nmore")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match="cannot load hub:x: no route; check"):
        read_rows("hub:x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install icm-fast\[datasets\]"):
        read_rows("hub:x")
