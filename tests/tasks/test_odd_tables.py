"""Tables as people have them: long fields, gaps, packed files, pandas' Parquet, broken ones."""

from __future__ import annotations

import gzip
import inspect
import itertools
import json
import math
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icm_fast.errors import InputError
from icm_fast.tasks.registry import TASKS as TASK_LOADERS
from icm_fast.tasks.registry import load_task
from icm_fast.tasks.rows import Row, read_column, read_rows, stream_rows
from icm_fast.training.reward.pairs import read_pairs

TASKS = {
    "truthfulqa": {"question": "q", "choice": "c"},
    "gsm8k-verification": {"question": "q", "choice": "c", "answer": "1"},
    "alpaca-preference": {"question": "q", "choice": "c", "choice_2": "d"},
    "author-gender": {"choice": "c", "choice_2": "d"},
}
NOT_TEXT = [math.nan, math.inf, 1.0, 0.5, None, "", " ", "nan", True, ["a"], {"a": 1}]
NOT_TEXT += ["a\x00b", "a\x1b[31m", "\ud800"]


@pytest.mark.parametrize("value", NOT_TEXT, ids=repr)
@pytest.mark.parametrize("task", TASKS)
def test_no_task_makes_a_prompt_of_what_is_no_text(tmp_path, task, value):
    path = tmp_path / "a.jsonl"
    row = TASKS[task]
    for column in {"question", "choice"} & set(row):
        path.write_text(json.dumps(row) + "\n" + json.dumps(row | {column: value}))
        with pytest.raises(InputError, match=rf"a\.jsonl, line 2: column '{column}'") as caught:
            load_task(task, path)
        assert "\n" not in str(caught.value)
        str(caught.value).encode()


@pytest.mark.parametrize("value", NOT_TEXT, ids=repr)
def test_no_list_of_texts_holds_what_is_no_text(tmp_path, value):
    path = tmp_path / "a.jsonl"
    path.write_text('{"t": "x"}\n' + json.dumps({"t": value}))
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: column 't'"):
        read_column(path, "t")
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: column 't'"):
        load_task("custom", path, template="{t}:", labels=[" a", " b"])
    pair = {"prompt": "p", "chosen": "c", "rejected": value}
    path.write_text(json.dumps(pair))
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: column 'rejected'"):
        read_pairs(path)


ODD = [None, 0, -1, 1.5, "x", "", [], {}, True, 10**30, math.nan, [1], {"a": 1}, ["a", ["b"]]]
ODD += [
    "none",
    {"rule": "custom"},
    [{"rule": "custom", "table": 5}],
    [None],
    "\ud800",
    [" a", "\0"],
]
ODD += [[{"rule": "implies", "pairs": 5}], "x" * 10**5]


def refusal(call):
    """The message of the InputError that a call raises; any other exception is a bug."""
    try:
        call()
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore:rules=")
@pytest.mark.parametrize("name", TASK_LOADERS)
def test_odd_options_are_read_or_refused_in_one_short_line(tmp_path, name):
    path = tmp_path / "a.jsonl"
    row = {"question": "q", "choice": "c", "choice_2": "d", "answer": "1", "label": 1}
    path.write_text("".join(json.dumps(row | {"consistency_id": k}) + "\n" for k in range(4)))
    needs_file = name in TASKS or name == "custom"
    custom = {"template": "{question} {choice}:", "labels": [" a", " b"]}
    options = set(inspect.signature(TASK_LOADERS[name]).parameters) - {"path"}
    for option, value in itertools.product(sorted(options), ODD):
        given = (custom if name == "custom" else {}) | {option: value}
        message = refusal(
            lambda given=given: load_task(name, path if needs_file else None, **given)
        )
        assert len(message.encode()) < 1000


def test_text_files_hold_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x\na\x00b\n")
    with pytest.raises(InputError, match=r"a\.txt, line 2 holds a control character \(U\+0000\)"):
        read_column(path, "prompt")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("x\ny\n")
    assert read_column(tmp_path / "b.txt.gz", "prompt") == ["x", "y"]


def test_pandas_gaps_are_refused_in_every_format(tmp_path):
    frame = pd.DataFrame({"t": ["a", float("nan"), "c"], "n": [1, 2, 3]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "a.tsv", sep="\t", na_rep="NaN")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "a.json", orient="records")
    for name in ("a.parquet", "a.csv", "a.tsv", "a.jsonl", "a.json"):
        rows = read_rows(tmp_path / name)
        assert [row.text("t") for row in (rows[0], rows[2])] == ["a", "c"]
        with pytest.raises(InputError, match=rf"{name}, .* [1-3]: column 't' is"):
            rows[1].text("t")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "ndjson", "json"])
@pytest.mark.parametrize("packed", [False, True])
def test_text_formats(tmp_path, suffix, packed):
    long = "x" * 200_000
    records = [{"t": long, "u": "a,\tb"}, {"t": "é\nf", "u": '"q"'}]
    frame = pd.DataFrame(records)
    if suffix in ("csv", "tsv"):
        text = frame.to_csv(index=False, sep=",\t"[suffix == "tsv"], lineterminator="\r\n")
    elif suffix == "json":
        text = json.dumps(records)
    else:
        text = "\r\n".join(map(json.dumps, records))
    content = b"\xef\xbb\xbf" + text.encode()
    path = tmp_path / f"a.{suffix}{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert [dict(row.values) for row in read_rows(path)] == records


def test_parquet_as_pandas_writes_it(tmp_path):
    frame = pd.DataFrame(
        {
            "t": pd.Categorical(["a", "b", "a"]),
            "n": pd.array([1, None, 3], dtype="Int64"),
            "b": pd.array([True, None, False], dtype="boolean"),
            "s": pd.array(["x", None, "z"], dtype="string"),
        },
        index=pd.Index([7, 8, 9]),
    )
    frame.to_parquet(tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet")
    assert [row.values for row in rows] == [
        {"t": "a", "n": 1, "b": True, "s": "x"},
        {"t": "b", "n": None, "b": None, "s": None},
        {"t": "a", "n": 3, "b": False, "s": "z"},
    ]
    assert rows[0].optional("n") == "1"
    folder = tmp_path / "label=3"
    folder.mkdir()
    table = pa.table({"t": pa.array(["a"], pa.large_string()).dictionary_encode()})
    pq.write_table(table, folder / "a.parquet")
    assert read_rows(folder / "a.parquet")[0].values == {"t": "a"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'a,b\n1,2\n"x,2\n3,4\n', "a.csv, line 3: .*quotes"),
        ("a.csv", b'a,b\n1,"x"y\n', "a.csv, line 2: .*quotes"),
        ("a.csv", b"a,b\n1,2\n\n3\n", "a.csv, line 4: not 2 fields as in the header, but 1"),
        ("a.csv", b"a,a\n1,2\n", "a.csv, line 1: column 'a' occurs twice"),
        ("a.tsv", b"a\tb\ta\n1\t2\t3\n", "a.tsv, line 1: column 'a' occurs twice"),
        ("a.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}', "a.jsonl, line 2: key 'a' stands twice"),
        ("a.json", b'[{"a": 1, "a": 2}]', "a.json: key 'a' stands twice"),
        ("a.csv.gz", b"a,b\n1,2\n", "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n" * 1000, mtime=0)[:-20], "not a whole gzip file"),
        ("a.parquet.gz", b"", "unknown file type"),
        ("a.csv", "a\né\n".encode("utf-16"), "not UTF-8 at byte 0"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1: an integer of 5000 digits"),
        ("a.jsonl", b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "line 1: lists.*64 deep"),
        ("a.json", b"[" * 200_000 + b"]" * 200_000, "a.json: lists.*64 deep"),
        ("a.jsonl", b'{"\\ud800": 1}', "line 1: the name of column .* lone surrogate"),
    ],
)
def test_broken_tables_are_refused_with_their_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_parquet_with_two_columns_of_one_name(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["t", "t"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 't' occurs twice"):
        read_rows(tmp_path / "a.parquet")


def test_integers_are_text_and_gaps_are_none():
    row = Row(0, "x", {"n": 7, "gap": math.nan, "word": "<NA>"})
    assert row.text("n") == "7"
    assert row.optional("gap") is None
    assert row.optional("word") is None


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.csv.gz", "a.parquet"])
def test_damaged_files_are_read_or_refused(tmp_path, name):
    frame = pd.DataFrame({"t": ["a", 'b"c', "d\ne"], "u": [1.5, float("nan"), 2.0]})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    elif "json" in name:
        frame.to_json(path, orient="records", lines=name.endswith("l"))
    else:
        frame.to_csv(path, sep="\t" if "tsv" in name else ",")
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(content), random.integers(1, 6)):
            content[place] = random.integers(0, 256)
        path.write_bytes(content[: random.integers(1, len(content) + 1)])

        def read():
            for row in read_rows(path):
                for column in row.values:
                    row.optional(column)

        message = refusal(read)
        assert "\n" not in message
        assert len(message) < 600


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".jsonl.gz", ".parquet"])
def test_a_file_is_read_without_holding_it(tmp_path, suffix):
    path, texts = tmp_path / f"table{suffix}", [f"text {row} " + "x" * 150 for row in range(40_000)]
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    elif suffix == ".csv":
        path.write_text("text\n" + "\n".join(texts) + "\n")
    else:
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        path.write_bytes(gzip.compress(content, 1) if suffix.endswith("gz") else content)
    next(stream_rows(path))  # imports count once
    tracemalloc.start()
    found = sum(
        row.text("text") == text for row, text in zip(stream_rows(path), texts, strict=True)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == len(texts)
    assert peak < 3e6 < sum(map(len, texts))
