"""The labelled table as a file: every format holds what it was given, byte for byte the same."""

from __future__ import annotations

import csv
import gzip
import json
import os
import threading

import pyarrow.parquet as pq
import pytest

from icm_fast import InputError
from icm_fast.labelling.output import check_output, write_records
from icm_fast.tasks.rows import read_rows

ROWS = [
    {"text": 'a "quoted", text\nof two lines', "n": 1, "x": 0.1, "label": "good"},
    {"text": "Ünï\tcödé 😀", "n": -(2**40), "x": 1e-17, "label": None},
    {"text": "=1+1", "n": 3, "x": None, "label": "bad"},
]
COLUMNS = ["text", "n", "x", "label"]
NAMES = ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.ndjson", "a.parquet", "a.csv.gz", "a.jsonl.gz"]


def write(path, records=ROWS, columns=COLUMNS):
    write_records(path, iter(records), columns)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(tmp_path, name):
    write(tmp_path / name)
    found = [dict(row.values) for row in read_rows(tmp_path / name)]
    if "csv" in name or "tsv" in name:
        expected = [{k: "" if v is None else str(v) for k, v in row.items()} for row in ROWS]
    else:
        expected = ROWS
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_equal_tables_are_equal_files(tmp_path, name):
    (tmp_path / "later").mkdir()
    write(tmp_path / name)
    write(tmp_path / "later" / name)
    assert (tmp_path / name).read_bytes() == (tmp_path / "later" / name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(tmp_path, name):
    write(tmp_path / name, [])
    assert (tmp_path / name).exists()
    if name == "a.json":
        assert json.loads((tmp_path / name).read_text()) == []


def test_lists_and_gaps_in_cells(tmp_path):
    record = {"a": [1, {"b": "ü"}], "b": float("nan"), "c": None}
    write(tmp_path / "a.csv", [record], ["a", "b", "c", "d"])
    with open(tmp_path / "a.csv", newline="") as file:
        assert list(csv.reader(file)) == [["a", "b", "c", "d"], ['[1, {"b": "ü"}]', "", "", ""]]
    write(tmp_path / "a.jsonl", [record], ["a", "b", "c"])
    assert json.loads((tmp_path / "a.jsonl").read_text()) == record | {"b": None}


def test_parquet_keeps_types_and_knows_columns_that_begin_empty(tmp_path):
    records = [{"n": i, "late": None} for i in range(5000)] + [{"n": 5000, "late": "x"}]
    write(tmp_path / "a.parquet", records, ["n", "late"])
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("n").type == "int64"
    assert table["late"].to_pylist() == [None] * 5000 + ["x"]
    with pytest.raises(InputError, match="values of several types, which Parquet cannot"):
        write(tmp_path / "a.parquet", [{"n": 1}, {"n": "x"}], ["n"])
    assert len(pq.read_table(tmp_path / "a.parquet")) == 5001  # the former file


def test_gzip_has_no_name_and_no_time(tmp_path):
    write(tmp_path / "a.csv.gz")
    content = (tmp_path / "a.csv.gz").read_bytes()
    assert content[3] == 0
    assert content[4:8] == b"\0\0\0\0"
    assert gzip.decompress(content).startswith(b"text,n,x,label\n")


def test_a_failure_leaves_the_former_file(tmp_path):
    (tmp_path / "a.csv").write_text("former")

    def failing():
        yield ROWS[0]
        raise InputError("row 1 is wrong")

    with pytest.raises(InputError, match="row 1"):
        write(tmp_path / "a.csv", failing())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.csv", "former")]


def test_standard_output_gets_csv(capsysbinary):
    from pathlib import Path

    write(Path("-"), ROWS[2:])
    assert capsysbinary.readouterr().out == b"text,n,x,label\n=1+1,3,,bad\n"


def test_links_are_followed_and_pipes_written_to(tmp_path):
    (tmp_path / "target.csv").write_text("former")
    (tmp_path / "link.csv").symlink_to("target.csv")
    write(tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text().startswith("text,n")
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(10)
    assert read == [(tmp_path / "target.csv").read_text()]


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.parquet.gz", "a.cvs"])
def test_unknown_formats_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot write a.*unknown file type"):
        check_output(tmp_path / name)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        check_output(tmp_path / "a.csv")
