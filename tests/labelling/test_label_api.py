"""Every kind of data goes in and comes out as the same kind, with new columns and nothing lost."""

from __future__ import annotations

import gzip
import json

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_fakes import needs_fixed_labels, rows

import icm_fast
from icm_fast import InputError, LabelConfig
from icm_fast.labelling.api import COLUMNS
from icm_fast.labelling.tables import open_table

pytestmark = pytest.mark.usefixtures("fake")

SMALL = LabelConfig(cores=2, core_size=6, chunk_rows=5)
QUESTION = {"text": "review", "labels": ["negative", "positive"], "model": "fake"}
N = 16
TEMPLATE = "Review: {review}\nSentiment:"


def label(data, **more):
    return icm_fast.label(data, **{**QUESTION, "template": TEMPLATE, "config": SMALL, **more})


@pytest.fixture
def expected():
    return [row["label"] for row in label(rows(N))]


def test_a_list_comes_back_as_a_list_with_new_dictionaries():
    data = rows(N)
    found = label(data)
    assert [list(row) for row in found] == [["n", "review", *COLUMNS]] * N
    assert [{k: row[k] for k in ("n", "review")} for row in found] == data == rows(N)
    assert [row["label"] for row in found] == ["negative", "positive"] * (N // 2)
    assert {row["decided_by"] for row in found} <= {"search", "prediction"}
    assert all(0.5 <= row["confidence"] <= 1 for row in found)
    assert all(row["votes"].endswith("/3") for row in found)


def write(path, data):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(data), path)
        return
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind in ("csv", "tsv"):
        text = pd.DataFrame(data).to_csv(index=False, sep=",\t"[kind == "tsv"])
    else:
        lines = [json.dumps(row) for row in data]
        text = "\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]"
    packed = gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode()
    path.write_bytes(packed)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.csv.gz", "a.parquet"])
def test_a_file_comes_back_as_dictionaries(tmp_path, expected, name):
    write(tmp_path / name, rows(N))
    found = label(tmp_path / name)
    assert [row["label"] for row in found] == expected
    assert [str(row["n"]) for row in found] == [str(i) for i in range(N)]


def test_a_frame_of_pandas_keeps_index_types_and_order(expected):
    frame = pd.DataFrame(
        {
            "review": pd.array([row["review"] for row in rows(N)], "string"),
            "kind": pd.Categorical(["a", "b"] * (N // 2), categories=["b", "a", "unused"]),
            "stars": pd.array([1, pd.NA] * (N // 2), "Int64"),
            "when": pd.to_datetime(["2026-01-01", None] * (N // 2)),
            "price": np.arange(N, dtype=np.float32),
            "note": [None, "x"] * (N // 2),
        },
        index=pd.Index([f"k{i}" for i in range(N)][::-1], name="key"),
    )
    before = frame.copy(deep=True)
    found = label(frame)
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == [*frame.columns, *COLUMNS]
    pd.testing.assert_frame_equal(found[list(frame.columns)], before)
    pd.testing.assert_frame_equal(frame, before)
    assert found["label"].tolist() == expected


def test_categories_and_duplicate_index_values_are_read(expected):
    frame = pd.DataFrame({"review": pd.Categorical([row["review"] for row in rows(N)])})
    frame.index = [0] * N
    found = label(frame)
    assert found["label"].tolist() == expected
    assert found.index.tolist() == [0] * N


def test_missing_values_of_pandas_are_named():
    frame = pd.DataFrame({"review": pd.array(["a good film", pd.NA], "string")})
    with pytest.raises(InputError, match="row 1: column 'review' is empty; fill it"):
        label(frame)


@needs_fixed_labels
def test_known_labels_with_gaps_of_pandas():
    known = pd.array(["positive", *[pd.NA] * (N - 1)], "string")
    frame = pd.DataFrame({"review": [row["review"] for row in rows(N)], "known": known})
    found = label(frame, known="known")
    assert (found["label"][0], found["decided_by"][0]) == ("positive", "known")
    assert set(found["decided_by"][1:]) <= {"search", "prediction"}


def test_columns_whose_names_are_not_text_are_refused():
    with pytest.raises(InputError, match="name of column 0 is not text; rename it"):
        label(pd.DataFrame([["a good film"]]))
    with pytest.raises(InputError, match="row 0: a str instead of a dictionary"):
        label(["a good film"])


def test_a_frame_of_polars_keeps_its_types(expected):
    frame = pl.DataFrame(
        {
            "review": [row["review"] for row in rows(N)],
            "kind": pl.Series(["a", "b"] * (N // 2), dtype=pl.Categorical),
            "small": pl.Series(range(N), dtype=pl.Int8),
            "gap": [None, 1.5] * (N // 2),
            "list": [[i] for i in range(N)],
        }
    )
    found = label(frame)
    assert isinstance(found, pl.DataFrame)
    assert found.columns == [*frame.columns, *COLUMNS]
    assert found.select(frame.columns).equals(frame)
    assert found.select(frame.columns).schema == frame.schema
    assert found["label"].to_list() == expected
    with pytest.raises(InputError, match=r"LazyFrame; call \.collect\(\) first"):
        open_table(frame.lazy())


def test_a_data_set_of_ray_is_told_what_to_do():
    kind = type("Dataset", (), {"__module__": "ray.data.dataset"})
    with pytest.raises(InputError, match=r"got Dataset of Ray, .*pass its \.to_pandas\(\)"):
        open_table(kind())


def test_a_data_set_keeps_its_features(expected):
    features = datasets.Features(
        {"review": datasets.Value("string"), "kind": datasets.ClassLabel(names=["x", "y"])}
    )
    content = {"review": [row["review"] for row in rows(N)], "kind": [0, 1] * (N // 2)}
    dataset = datasets.Dataset.from_dict(content, features=features)
    found = label(dataset)
    assert isinstance(found, datasets.Dataset)
    assert {name: found.features[name] for name in features} == dict(features)
    assert found["kind"][:] == content["kind"]
    assert found["label"][:] == expected
    with pytest.raises(InputError, match="pass one of its splits: train"):
        open_table(datasets.DatasetDict({"train": dataset}))


def test_abstained_rows_have_no_label_in_any_kind():
    frame = pd.DataFrame(rows(N))
    found = label(frame, abstain=0.25)
    assert (found["decided_by"] == "abstained").sum() == N // 4
    assert found["label"].isna().sum() == N // 4
    least = found["confidence"].nsmallest(N // 4).index
    assert set(found.index[found["label"].isna()]) == set(least)


def test_a_column_that_exists_is_not_replaced():
    data = [row | {"label": "x"} for row in rows(N)]
    with pytest.raises(InputError, match="has a column 'label' already"):
        label(data)
    found = label(data, prefix="my_")
    assert list(found[0]) == ["n", "review", "label", *(f"my_{name}" for name in COLUMNS)]


@needs_fixed_labels
def test_the_column_of_the_known_labels_is_filled_where_it_stands():
    known = [{"label": "positive" if row["n"] == 1 else "", **row} for row in rows(N)]
    found = label(known, known="label")
    assert list(found[0]) == ["label", "n", "review", *COLUMNS[1:]]
    assert [row["label"] for row in found].count("") == 0
    assert found[1]["decided_by"] == "known"


@pytest.mark.parametrize("data", [None, 3, {"review": []}, object()])
def test_other_things_are_refused(data):
    with pytest.raises(InputError, match="data must be a path"):
        label(data)


def test_an_output_that_is_the_table_is_refused(tmp_path):
    write(tmp_path / "a.csv", rows(N))
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(InputError, match="is the table that is read"):
            label(tmp_path / "a.csv", output=tmp_path / name)
    assert label(tmp_path / "a.csv", output=tmp_path / "c.csv") == tmp_path / "c.csv"
    assert list(pd.read_csv(tmp_path / "c.csv").columns) == ["n", "review", *COLUMNS]


def test_claims_and_comparisons():
    claims = label(rows(N), text=None, labels=(), template=None, claim="review")
    assert {row["label"] for row in claims} == {"false", "true"}
    pairs = [{"q": f"{i}?", "a": f"good {i}", "b": f"dull {i}"} for i in range(N)]
    found = icm_fast.label(pairs, compare=("a", "b"), text="q", model="fake", config=SMALL)
    assert {row["label"] for row in found} <= {"a", "b"}
