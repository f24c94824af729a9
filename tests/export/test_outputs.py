"""Outputs that the user names, and what texts of others become in them."""

import csv
import os
import shlex
import subprocess
import sys
import threading

import pytest
import yaml
from export_cases import claims_run

from icm_fast.cli import run as icm_fast_command
from icm_fast.errors import InputError
from icm_fast.evaluation.report import markdown_table, run_report
from icm_fast.export.tables import encode_run, export_run
from icm_fast.files import write_atomically, write_output
from icm_fast.files.text import cell, printable, without_secrets
from icm_fast.runs.finished import read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return claims_run(tmp_path_factory.mktemp("runs"))


def commands(folder, output):
    return (["export", folder, "-o", output], ["report", folder, "-o", output])


@pytest.mark.parametrize("which", [0, 1])
def test_a_link_is_followed_and_its_target_replaced(run, tmp_path, which):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    for _ in range(2):  # dangling, then over a file
        assert icm_fast_command(commands(str(run.folder), str(link))[which]) == 0
        assert link.is_symlink()
        assert target.stat().st_size > 0
    assert os.listdir(tmp_path / "real") == ["out.jsonl"]


@pytest.mark.parametrize("which", [0, 1])
def test_devices_and_pipes_are_written_to(run, tmp_path, which):
    assert icm_fast_command(commands(str(run.folder), "/dev/null")[which]) == 0
    assert not os.path.isfile("/dev/null")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert icm_fast_command(commands(str(run.folder), str(pipe))[which]) == 0
    reader.join()
    assert len(read[0]) > 100
    assert pipe.is_fifo()


def test_dash_is_standard_output(run, capfdbinary):
    assert icm_fast_command(["export", str(run.folder), "-o", "-", "--format", "csv"]) == 0
    said = capfdbinary.readouterr()
    assert said.out.startswith(b"id,prompt,label,confidence,margin")
    assert b"rows written to standard output" in said.err
    assert icm_fast_command(["report", str(run.folder), "-o", "-"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"# truthfulqa")
    assert icm_fast_command(["export", str(run.folder), "-o", "-", "--format", "lm-eval"]) == 2


def test_dev_stdout_and_process_substitution_are_written_to(run, tmp_path):
    icm = [sys.executable, "-m", "icm_fast", "export", str(run.folder), "--format", "csv", "-o"]
    out = tmp_path / "out.csv"
    with out.open("wb") as file:
        subprocess.run([*icm, "/dev/stdout"], stdout=file, check=True)
    assert out.read_bytes() == export_bytes(run)
    line = shlex.join(icm) + f" >(cat > {shlex.quote(str(tmp_path / 'sub.csv'))}) && sleep 1"
    subprocess.run(["bash", "-c", line], check=True)
    assert (tmp_path / "sub.csv").read_bytes() == export_bytes(run)


def export_bytes(run):
    return encode_run(run, "csv").content


def test_a_circle_of_links_is_one_line(run, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match="cannot write"):
        write_output(tmp_path / "a", b"")


def test_temporaries_are_never_opened_where_something_stands(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".out.tmp").symlink_to(victim)
    write_atomically(tmp_path / "out", b"new")
    write_output(tmp_path / "out", b"newer")
    assert victim.read_text() == "precious"
    assert (tmp_path / "out").read_bytes() == b"newer"


def test_a_link_where_a_file_of_ours_belongs_is_refused(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="out is a symbolic link where a file is expected"):
        write_atomically(tmp_path / "out", b"new")
    assert not (tmp_path / "victim").exists()


NASTY = "a|b `c` <img src=x onerror=y> [x](javascript:y)\\|\n# d &lt; \x1b[31m\u202e\u2028"


def test_a_cell_stays_a_cell():
    text = cell(NASTY)
    assert "\n" not in text
    assert not set("\x1b\u202e\u2028") & set(text)
    assert r"a\|b \`c\` &lt;img" in text
    assert r"\[x](javascript:y)\\\|" in text
    assert "&amp;lt;" in text
    assert len(markdown_table(("x", "y"), [(NASTY, 1)]).splitlines()) == 3


@pytest.mark.parametrize("plain", ["max_evaluations", "**score**", "a & b", "ü 漢", "C:\\x"])
def test_plain_words_stay(plain):
    assert cell(plain) == plain
    assert printable(plain + "\n\t") == plain + "\n\t"


def test_reports_print_no_escape_sequences(run, tmp_path, capsys):
    import shutil

    folder = shutil.copytree(run.folder, tmp_path / "run")
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["model"] = "evil\x1b]0;owned\x07 | <b> \u202e"
    path.write_text(yaml.safe_dump(content))
    examples = folder / "examples.jsonl"
    first, rest = examples.read_text().split("\n", 1)
    examples.write_text(first.replace("Q0?", "Q0 \\u001b[2J|") + "\n" + rest)
    report = run_report(read_run(folder))
    assert not set("\x1b\x07\u202e") & set(report)
    assert icm_fast_command(["report", str(folder)]) == 0
    assert icm_fast_command(["report", str(tmp_path / "no\x1b[31mrun")]) == 2
    assert "\x1b" not in "".join(capsys.readouterr())


def test_csv_safe_disarms_formulas(run, tmp_path):
    import shutil

    folder = shutil.copytree(run.folder, tmp_path / "run")
    examples = folder / "examples.jsonl"
    lines = examples.read_text().splitlines()
    starts = ["=1+1", "+1", "-1", "@x", " =1", "a=1"]
    import json

    made = [
        json.dumps(json.loads(line) | {"prompt": start})
        for line, start in zip(lines, [*starts, "b", "c"], strict=False)
    ]
    examples.write_text("\n".join([*made, *lines[len(made) :]]) + "\n")
    for safe in (False, True):
        export_run(read_run(folder), "csv", tmp_path / "out.csv", csv_safe=safe)
        with open(tmp_path / "out.csv", newline="") as file:
            found = [row["prompt"] for row in csv.DictReader(file)][:6]
        wanted = [f"'{start}" for start in starts[:5]] + ["a=1"] if safe else starts
        assert found == wanted
    assert icm_fast_command(["export", str(folder), "--csv-safe"]) == 2


def test_a_folder_with_a_line_separator_cannot_add_to_the_task(run, tmp_path):
    from icm_fast.export.lm_eval import write_lm_eval_task

    folder = tmp_path / "x\u2028dataset_path: evil\u2028# \x85y"
    task = write_lm_eval_task(run, folder, n_test=2)
    content = yaml.safe_load((folder / f"{task.name}.yaml").read_text(encoding="utf-8"))
    assert content["dataset_path"] == "json"
    assert content["dataset_kwargs"]["data_files"]["train"] == str(folder / "train.jsonl")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("https://u:p@h/x", "https://(removed)@h/x"),
        ("https://h/x?a=1&api_key=K&sig=S", "https://h/x?a=1&api_key=(removed)&sig=(removed)"),
        ("token hf_abcdefghij", "token (removed)"),
        ("me@example.org", "me@example.org"),
    ],
)
def test_secrets_are_removed(text, plain):
    assert without_secrets(text) == plain
