"""Reading tables: every format gives the same rows, every defect one clear line."""

from __future__ import annotations

import json
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icm_fast.errors import InputError
from icm_fast.tasks.registry import load_task
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


class Stream(list):
    """Rows that count how many were taken."""

    taken = 0
    features = None

    def __iter__(self):
        for row in super().__iter__():
            self.taken += 1
            yield row


def hub(monkeypatch, rows):
    asked, stream = [], Stream(rows)

    def load_dataset(path, name=None, *, split, streaming, revision=None):
        assert streaming
        asked.append((path, name, revision, split))
        return stream

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked, stream


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hub:org/name", ("org/name", None, None, "train")),
        ("hub:org/name:test", ("org/name", None, None, "test")),
        ("hub:name", ("name", None, None, "train")),
        ("hub:org/name/en.x", ("org/name", "en.x", None, "train")),
        ("hub:org/name@v1.0", ("org/name", None, "v1.0", "train")),
        ("hub:name@main/cfg", ("name", "cfg", "main", "train")),
        ("hub:org/name@abc/cfg:test[:10%]", None),
        ("hub:org/name@abc/cfg:test", ("org/name", "cfg", "abc", "test")),
        (
            "hub:org/name@refs/convert/parquet/cfg:test",
            ("org/name", "cfg", "refs/convert/parquet", "test"),
        ),
        ("hub:", None),
        ("hub:a/b/c/d", None),
        ("hub:org/name@", None),
    ],
)
def test_hub_addresses(monkeypatch, address, expected):
    asked, _ = hub(monkeypatch, [{"a": 1}])
    if expected is None:
        with pytest.raises(InputError, match="is not an address of the Hub; write hub:NAME"):
            read_rows(address)
    else:
        assert read_rows(address)[0].values == {"a": 1}
        assert asked == [expected]


def test_hub_rows_are_streamed_up_to_the_limit(monkeypatch):
    _, stream = hub(monkeypatch, [{"a": k} for k in range(100)])
    assert [row.values["a"] for row in read_rows("hub:x", most=3)] == [0, 1, 2]
    assert stream.taken == 3


def test_a_custom_task_streams_whole_groups(monkeypatch):
    rows = [{"t": f"t{k}", "g": "ab"[k % 2], "k": str(k // 3)} for k in range(100)]
    options = {"template": "{t}:", "labels": [" a", " b"], "gold": "g", "limit": 5}
    _, stream = hub(monkeypatch, rows)
    dataset, gold = load_task("custom", "hub:x", **options)
    assert [e.id for e in dataset.examples] == [f"row-{k}" for k in range(5)]
    assert gold.tolist() == [0, 1, 0, 1, 0]
    assert stream.taken == 5
    _, stream = hub(monkeypatch, rows)
    dataset, _ = load_task("custom", "hub:x", group="k", **options)
    assert {e.group for e in dataset.examples} <= {"0", "1"}
    assert stream.taken == 7
    with pytest.raises(InputError, match="limit must be an integer of at least 1, got 0"):
        load_task("custom", "hub:x", **options | {"limit": 0})


@pytest.mark.parametrize("task", ["truthfulqa", "gsm8k-verification"])
def test_built_in_tasks_stream_whole_groups(monkeypatch, task):
    row = {"question": "Q?", "choice": "c", "cot": "c", "answer": "1"}
    rows = [row | {"choice": f"c{k}", "cot": f"c{k}", "consistency_id": k // 3} for k in range(99)]
    _, stream = hub(monkeypatch, rows)
    dataset, _ = load_task(task, "hub:owner/name", limit=5)
    assert stream.taken == 7
    assert {e.group for e in dataset.examples} <= {"0", "1"}


def test_hub_class_labels_are_read_by_name(monkeypatch):
    _, stream = hub(monkeypatch, [{"a": 1, "b": 1}, {"a": -1, "b": 0}])
    stream.features = {"a": type("ClassLabel", (), {"names": ["no", "yes"]})(), "b": object()}
    assert [row.values for row in read_rows("hub:x")] == [{"a": "yes", "b": 1}, {"a": None, "b": 0}]


def test_hub_failures_are_one_line(monkeypatch):
    def load_dataset(name, split, streaming):
        raise ConnectionError("no route\nmore")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match="cannot load hub:x: no route; check"):
        read_rows("hub:x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install icm-fast\[datasets\]"):
        read_rows("hub:x")
