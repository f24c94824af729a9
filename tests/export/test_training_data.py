"""Every format against its golden file, and read back by the library that it is for."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from export_cases import PAIR_LABELS, claims_run, pairs_run, set_labels, write_pairs

from icm_fast.cli import run as icm_fast_command
from icm_fast.errors import InputError
from icm_fast.export.lm_eval import write_lm_eval_task
from icm_fast.export.tables import FORMATS, encode_run, export_run, file_suffix
from icm_fast.export.training_data import AXOLOTL_TYPE
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.runs.finished import read_run
from icm_fast.training.sft.texts import training_texts
from tiny_models import byte_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "export"
PREFERENCES = ("trl-preference", "dpo")
TRAINING = ("trl-sft", "messages", "axolotl", *PREFERENCES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def claims(folder):
    return claims_run(folder)


@pytest.fixture(scope="module")
def pairs(folder):
    return pairs_run(folder)


@pytest.fixture
def run_of(claims, pairs):
    return lambda format: pairs if format in PREFERENCES else claims


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "parquet"])
def test_bytes_are_those_of_the_golden_file(run_of, format):
    golden = GOLDEN / f"{format}{file_suffix(format)}"
    assert encode_run(run_of(format), format).content == golden.read_bytes()


def test_parquet_holds_the_golden_table(claims, tmp_path):
    encoded = encode_run(claims, "parquet")
    (tmp_path / "a.parquet").write_bytes(encoded.content)
    # The file names the version of Arrow that wrote it, so tables are compared, and bytes here.
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(GOLDEN / "parquet.parquet"))
    assert encode_run(claims, "parquet").content == encoded.content


def test_lm_eval_task_is_the_golden_one(claims, tmp_path):
    write_lm_eval_task(claims, tmp_path / "out")
    written = {
        path.name: path.read_text().replace(str(tmp_path / "out"), "FOLDER")
        for path in (tmp_path / "out").iterdir()
    }
    assert written == {path.name: path.read_text() for path in (GOLDEN / "lm-eval").iterdir()}


@pytest.mark.parametrize("format", FORMATS)
def test_datasets_reads_the_rows(run_of, tmp_path, format):
    import datasets

    path = tmp_path / f"a{file_suffix(format)}"
    n_rows = export_run(run_of(format), format, path).n_rows
    builder = path.suffix.removeprefix(".").removesuffix("l")
    table = datasets.load_dataset(
        builder, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(table) == n_rows
    if path.suffix == ".jsonl":
        assert table.to_list() == [json.loads(line) for line in path.read_text().splitlines()]


def test_demonstrations_are_the_scored_text(claims):
    rows = [json.loads(line) for line in encode_run(claims, "trl-sft").content.splitlines()]
    labelled = [i for i, y in enumerate(claims.labels) if y >= 0]
    assert [row["prompt"] for row in rows] == [claims.dataset.examples[i].prompt for i in labelled]
    assert [row["completion"] for row in rows] == [" True", " False", " False", " True", " False"]
    assert encode_run(claims, "trl-sft").note == "unlabelled examples left out: 1"


def test_demonstrations_begin_with_the_preamble(claims):
    told = replace(claims, dataset=replace(claims.dataset, preamble="True or not?"))
    prompts = {
        format: [json.loads(line) for line in encode_run(told, format).content.splitlines()]
        for format in TRAINING[:3]
    }
    text = "True or not?\n\n" + claims.dataset.examples[0].prompt
    assert prompts["trl-sft"][0]["prompt"] == text
    assert prompts["messages"][0]["messages"][0]["content"] == text
    assert prompts["axolotl"][0]["segments"][0]["text"] == text
    for format in ("jsonl", "csv", "parquet"):
        assert "without the preamble" in encode_run(told, format).note
        assert encode_run(claims, format).note == ""


def test_axolotl_tokenizes_the_segments_to_what_fine_tuning_trains(claims):
    """Its type input_output tokenizes each segment on its own, without special tokens."""
    assert AXOLOTL_TYPE == "input_output"
    tokenizer = byte_tokenizer()
    pieces = tokenize_dataset(claims.dataset, tokenizer)
    expected = training_texts(pieces, label_tree(pieces), claims.labels)
    encoded = encode_run(claims, "axolotl")
    rows = [json.loads(line)["segments"] for line in encoded.content.splitlines()]
    assert len(rows) == len(expected)
    for segments, text in zip(rows, expected, strict=True):
        assert [segment["label"] for segment in segments] == [False, True]
        ids = [tokenizer(s["text"], add_special_tokens=False)["input_ids"] for s in segments]
        assert tuple(ids[0] + ids[1]) == text.ids
        assert len(ids[1]) == text.n_loss
    assert encoded.note.endswith("type: input_output")


def test_preferences_hold_each_decided_pair_once(pairs):
    encoded = encode_run(pairs, "trl-preference")
    rows = [json.loads(line) for line in encoded.content.splitlines()]
    a, b = " answer {}a\nin two lines", " answer {}b"
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        (a.format(0), b.format(0)),
        (b.format(1), a.format(1)),
        (b.format(4), a.format(4)),
    ]
    assert rows[1]["prompt"] == "Human: How do\nbirds fly?\n\nAssistant:"
    assert encoded.note == (
        "pairs left out: 1 whose labels contradict each other, 1 not fully labelled"
    )
    messages = [json.loads(line) for line in encode_run(pairs, "dpo").content.splitlines()]
    assert [row["chosen"][0]["content"] for row in messages] == [
        row["chosen"].removeprefix(" ") for row in rows
    ]


def test_gold_changes_no_byte(tmp_path):
    written = []
    for name, gold in (("none", None), ("right", PAIR_LABELS), ("zeros", (0,) * 10)):
        (tmp_path / name).mkdir()
        run = pairs_run(tmp_path / name, gold)
        written.append([encode_run(run, format).content for format in TRAINING])
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("format", PREFERENCES)
def test_other_tasks_have_no_preferences(claims, format):
    with pytest.raises(InputError, match="task 'truthfulqa' does not compare two texts"):
        encode_run(claims, format)


def test_changed_data_are_noticed(tmp_path):
    run = pairs_run(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(
        (tmp_path / "pairs.jsonl").read_text().replace("answer 3b", "answer 4b")
    )
    with pytest.raises(InputError, match=r"'alpaca-preference-6' .* restore the data"):
        encode_run(run, "dpo")
    write_pairs(tmp_path / "pairs.jsonl")
    assert encode_run(run, "dpo").n_rows == 3


def test_nothing_decided_is_an_error(tmp_path):
    run = pairs_run(tmp_path)
    set_labels(run.folder, [-1] * 8 + [1, 1])
    with pytest.raises(
        InputError, match="those of 1 contradict each other, 4 are not fully labelled"
    ):
        encode_run(read_run(run.folder), "dpo")
    set_labels(run.folder, [-1] * 10)
    with pytest.raises(InputError, match="labelled no example"):
        encode_run(read_run(run.folder), "axolotl")


def test_command_line_names_file_and_what_was_left_out(pairs, claims, capsys):
    assert icm_fast_command(["export", str(pairs.folder), "--format", "trl-preference"]) == 0
    out = capsys.readouterr().out
    assert f"3 rows written to {pairs.folder / 'trl-preference.jsonl'}; pairs left out: 1" in out
    assert icm_fast_command(["export", str(claims.folder), "--format", "axolotl"]) == 0
    assert "in axolotl's YAML, set type: input_output" in capsys.readouterr().out
    assert icm_fast_command(["export", str(claims.folder), "--format", "dpo"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "export another format" in err
