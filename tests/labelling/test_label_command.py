"""The command ``icm-fast label``: what it writes, and one clear line for what is wrong."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from label_fakes import rows

import icm_fast
from icm_fast import LabelConfig
from icm_fast.cli import run

N = 12
SETTINGS = ("--set", "cores=2", "--set", "core_size=4", "--template", "{review} is")
FACES = ("flags", "file", "python")
QUESTION = ("--text", "review", "--labels", "negative, positive", "--model", "fake")


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(rows(N)).to_csv("a.csv", index=False)
    return tmp_path / "a.csv"


@pytest.mark.usefixtures("fake")
def test_the_table_is_written_beside_where_the_command_runs(table, capsys):
    assert run(["label", "a.csv", *QUESTION, *SETTINGS]) == 0
    out = capsys.readouterr().out
    found = pd.read_csv(table.with_name("a-labelled.csv"))
    assert found["label"].tolist() == ["negative", "positive"] * (N // 2)
    assert "labels: negative 6 (50%), positive 6 (50%)" in out
    assert (table.parent / "runs" / "label-a-seed0" / "summary.json").exists()


@pytest.mark.usefixtures("fake")
def test_standard_output_holds_the_table_alone(table, capsys):
    assert run(["label", "a.csv", *QUESTION, *SETTINGS, "-o", "-"]) == 0
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == N + 1
    assert found.out.startswith("n,review,label,confidence,decided_by,votes\n")
    assert "12 rows" in found.err


@pytest.mark.usefixtures("fake")
def test_the_summary_as_json(table, capsys):
    assert run(["label", "a.csv", *QUESTION, *SETTINGS, "--json", "--progress", "none"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["labels"] == {"negative": N // 2, "positive": N // 2}


@pytest.mark.usefixtures("fake")
def test_a_file_gives_what_flags_give_and_flags_override_it(table, capsys):
    assert run(["label", "a.csv", *QUESTION, *SETTINGS, "-o", "flags.csv"]) == 0
    content = {
        "text": "review",
        "labels": ["negative", "positive"],
        "template": "{review} is",
        "model": "fake",
        "output": "file.csv",
        "folder": "work",
        "cores": 2,
        "core_size": 4,
    }
    table.with_name("a.yaml").write_text(json.dumps(content))
    assert run(["label", "a.csv", "--config", "a.yaml"]) == 0
    flags, file = (table.with_name(name).read_bytes() for name in ("flags.csv", "file.csv"))
    assert file == flags
    assert run(["label", "a.csv", "--config", "a.yaml", "--abstain", "0.5"]) == 0
    assert pd.read_csv("file.csv")["label"].isna().sum() == N // 2
    capsys.readouterr()
    for wrong, message in (
        ({"lables": []}, "a.yaml: unknown setting 'lables'; did you mean 'labels'?"),
        ({"labels": "a,b"}, "labels must be a list, got 'a,b'"),
        ({"output": ["x"]}, "output must be text, got ['x']"),
        ({"cores": "x"}, "cores"),
        ({"scorer": "naive"}, "unknown setting 'scorer'"),
    ):
        table.with_name("a.yaml").write_text(json.dumps(content | wrong))
        assert run(["label", "a.csv", "--config", "a.yaml"]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.usefixtures("fake")
def test_an_instruction_and_descriptions_come_by_flags_by_a_file_and_in_python(table):
    words = ("--instruction", "Judge films.", "--describe", "positive=worth a ticket")
    assert run(["label", "a.csv", *QUESTION, *SETTINGS, *words, "--folder", "flags"]) == 0
    described = {"negative": None, "positive": "worth a ticket"}
    content = {"labels": described, "instruction": "Judge films."}
    table.with_name("a.yaml").write_text(json.dumps(content))
    words = ("--text", "review", "--model", "fake", *SETTINGS, "--config", "a.yaml")
    assert run(["label", "a.csv", *words, "--folder", "file"]) == 0
    icm_fast.label(
        "a.csv",
        text="review",
        **content,
        template="{review} is",
        model="fake",
        config=LabelConfig(cores=2, core_size=4),
        output_dir="python",
    )
    stored = [json.loads(table.with_name(n).joinpath("labelling.json").read_text()) for n in FACES]
    assert stored[0] == stored[1] == stored[2]
    assert stored[0]["preamble"] == (
        "Judge films.\n\nLabels:\n- negative\n- positive: worth a ticket"
    )
    assert run(["export", "flags", "--format", "argilla", "-o", "review.jsonl"]) == 0


def gaps(table):
    pd.DataFrame({"review": ["good", np.nan], "known": [np.nan, np.nan]}).to_csv(table, index=False)


WRONG = {
    "column": (["--text", "reviw"], "a.csv has no column 'reviw'; did you mean 'review'?"),
    "one label": (["--labels", "good"], "a labelling needs 2 to 50 labels, got 1"),
    "51 labels": (["--labels", ",".join(map(str, range(51)))], "2 to 50 labels, got 51"),
    "two forms": (["--claim", "review"], "text and claim exclude each other"),
    "output": (["-o", "a.xlsx"], "cannot write a.xlsx: unknown file type '.xlsx'"),
    "same file": (["-o", "a.csv"], "a.csv is the table that is read; name another output file"),
    "shares": (["--shares", "x"], "--shares 'x' must be numbers, such as 0.9,0.1"),
    "abstain": (["--abstain", "2"], "abstain"),
    "setting": (["--set", "corse=2"], "unknown setting 'corse'; did you mean 'cores'?"),
    "description": (["--describe", "x"], "--describe 'x' must be LABEL=TEXT"),
    "described twice": (["--describe", "positive=x", "--describe", "positive=y"], "twice"),
    "no such label": (["--describe", "postive=x"], "is of no label; did you mean 'positive'?"),
    "corrections": (["--corrections", "none.csv"], "no file at"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_one_clear_line(table, fake, capsys, case):
    words, message = WRONG[case]
    assert run(["label", "a.csv", *QUESTION, *SETTINGS, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert fake.loads == 0
    assert not table.with_name("a-labelled.csv").exists()


def test_the_default_model_is_named_once_the_table_is_known_to_be_good(table, fake, capsys):
    assert run(["label", "a.csv", *QUESTION[:-2], *SETTINGS, "--text", "reviw"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("icm-fast: a.csv has no column 'reviw'")
    assert err.count("\n") == 1
    assert run(["label", "a.csv", *QUESTION[:-2], *SETTINGS, "--progress", "none"]) == 0
    assert capsys.readouterr().err.count("no --model given: labelling with the small") == 1
    assert fake.loads == 1


TABLES = {
    "empty": ("", [], "contains no rows|has no rows"),
    "header alone": ("review,n\n", [], "contains no rows|has no rows"),
    "gaps": (gaps, [], "a.csv, line 3: column 'review' is empty; fill it or remove the row"),
    "nan": ("review\nnan\nnan\n", [], "a.csv, line 2: column 'review' is nan, a gap; fill it"),
    "known": ("review,k\na,nan\nb,NaN\n", ["--known", "k"], "column 'k' of a.csv holds no label"),
    "odd label": ("review,k\na,\nb,maybe\n", ["--known", "k"], "line 3: gold 'maybe' is not a"),
    "gone": (None, [], "no file at .*a.csv; check the path"),
    "not UTF-8": (b"review\n\xff\n", [], "a.csv is not UTF-8 at byte 7; convert it"),
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_tables_are_one_clear_line(table, fake, capsys, case):
    content, words, message = TABLES[case]
    if content is None:
        table.unlink()
    elif callable(content):
        content(table)
    else:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run(["label", "a.csv", *QUESTION, *SETTINGS, *words]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert err.count("\n") == 1
    assert fake.loads == 0
