"""What a colleague sends, with every trick at once: nothing outside is written, run or sent.

Each test goes through the command line, which has to say one line and end with 2 (or do what was
asked, harmlessly).
"""

import gzip
import json
import os
import pickle
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from icm_fast.cli import run
from icm_fast.tasks import formats
from run_fakes import install_fake_model, write_claims
from tiny_models import byte_tokenizer, one_thread, tiny_model  # noqa: F401

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)]
)
CODE = "from pathlib import Path\nPath({mark!r}).touch()\n"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Stands for the rest of the machine; nothing there may change, run or hear of anything."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")

    def sent(*_, **__):
        (folder / "sent").touch()
        raise OSError("no network")

    def ran(*_, **__):
        (folder / "ran").touch()
        raise OSError("no programs")

    monkeypatch.setattr(socket.socket, "connect", sent)
    monkeypatch.setattr(socket, "create_connection", sent)
    monkeypatch.setattr(subprocess, "Popen", ran)
    monkeypatch.setattr(os, "system", ran)
    monkeypatch.setattr("builtins.input", ran)
    monkeypatch.chdir(tmp_path)
    yield folder
    assert [path.name for path in folder.iterdir()] == ["precious"]
    assert (folder / "precious").read_text() == "precious"


def refused(capsys, *arguments):
    """One line, exit code 2, no control characters."""
    code = run(list(map(str, arguments)))
    out, err = capsys.readouterr()
    assert code == 2, (arguments, out)
    assert err.startswith("icm-fast: ")
    assert err.count("\n") == 1, err
    assert len(err) < 1000
    assert "\x1b" not in out + err
    return err


def two_rows(folder):
    """Arguments that name a task of two rows."""
    (folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    options = ("template={text} is", 'labels=[" a"," b"]')
    return ["custom", "rows.jsonl", *(word for option in options for word in ("--option", option))]


def change_line(path, row, **changes):
    lines = path.read_text().splitlines()
    lines[row] = json.dumps(json.loads(lines[row]) | changes)
    path.write_text("\n".join(lines) + "\n")


def spoil_run(folder, outside):
    """The tricks of a run folder, by name."""
    return {
        "link beside": lambda: (folder / ".export.csv.tmp").symlink_to(outside / "precious"),
        "link": lambda: replaced_by_link(folder / "labels.jsonl", outside / "precious"),
        "lock": lambda: replaced_by_link(folder / ".lock", outside / "new"),
        "pipe": lambda: replaced_by_pipe(folder / "events.jsonl"),
        "label": lambda: change_line(folder / "labels.jsonl", 0, label_index=-2),
        "escape": lambda: change_line(folder / "labels.jsonl", 0, label=ESCAPE),
        "deep": lambda: (folder / "summary.json").write_text("[" * 200_000),
        "digits": lambda: (folder / "summary.json").write_text("1" * 5000),
        "aliases": lambda: appended(folder / "config.yaml", BOMB),
        "tag": lambda: appended(
            folder / "config.yaml", f"x: !!python/object/apply:os.system ['touch {outside}/ran']"
        ),
        "hole": lambda: os.truncate(folder / "config.yaml", 2**40),
        "other": lambda: (folder / "examples.jsonl").write_text("{}\n"),
    }


def replaced_by_link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def replaced_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def appended(path, text):
    path.write_text(path.read_text() + text + "\n")


def test_a_run_folder(outside, tmp_path, monkeypatch, capsys):
    install_fake_model(monkeypatch)
    write_claims(tmp_path / "data.jsonl")
    change_line(tmp_path / "data.jsonl", 0, question="=cmd()| <b>`x`")
    search = ["search", "truthfulqa", "data.jsonl", "--model", "fake", "--limit", "8"]
    assert run([*search, "--set", "max_evaluations=6", "--output", "whole"]) == 0
    for name in spoil_run(Path("whole"), outside):
        folder = tmp_path / "runs" / name.replace(" ", "-")
        shutil.copytree(tmp_path / "whole", folder)
        spoil_run(folder, outside)[name]()
        capsys.readouterr()
        refused(capsys, "report", folder)
        refused(capsys, "export", folder, "--format", "csv")
        assert not (folder / "export.csv").exists()


def test_a_model_folder(outside, tmp_path, capsys):
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "code.py").write_text(CODE.format(mark=str(outside / "ran")))
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text())
        content["auto_map"] = {
            "AutoConfig": "code.Config",
            "AutoModelForCausalLM": "other/repository--code.Model",
            "AutoTokenizer": ["code.T", "code.T"],
        }
        content |= {"model_type": "evil"} if file == "config.json" else {}
        (folder / file).write_text(json.dumps(content))
    data = two_rows(tmp_path)
    doctor = ["doctor", *data, "--model", folder]
    capsys.readouterr()  # what saving said
    refused(capsys, *doctor)

    shutil.rmtree(folder)
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    capsys.readouterr()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Opener(str(outside / "ran"))))
    refused(capsys, *doctor)
    (folder / "model.safetensors").symlink_to("/dev/zero")
    (folder / "pytorch_model.bin").unlink()
    refused(capsys, *doctor)


class Opener:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_an_adapter(outside, tmp_path, capsys):
    folder, base = tmp_path / "adapter", tmp_path / "base"
    tiny_model("llama").save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    folder.mkdir()
    data = two_rows(tmp_path)
    usual = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "lora_alpha": 2,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": str(base),
    }
    evil = tmp_path / "evil_module.py"
    evil.write_text(CODE.format(mark=str(outside / "ran")))
    tricks = (
        {"auto_mapping": {"base_model_class": "X", "parent_library": "evil_module"}},
        {"peft_type": "EVIL"},
        {"base_model_name_or_path": "/dev/zero"},
        {"base_model_name_or_path": ESCAPE},
        {"target_modules": ["." * 5000]},
        {},
    )
    torch.save({"base_model.model.x": Opener(str(outside / "ran"))}, folder / "adapter_model.bin")
    capsys.readouterr()  # what saving said
    for trick in tricks:
        (folder / "adapter_config.json").write_text(json.dumps(usual | trick))
        refused(capsys, "doctor", *data, "--model", folder)
    for text in ("[" * 200_000, '{"r": ' + "1" * 5000 + "}", "\x00"):
        (folder / "adapter_config.json").write_text(text)
        refused(capsys, "doctor", *data, "--model", folder)


def test_a_task_file(outside, tmp_path, monkeypatch, capsys):
    install_fake_model(monkeypatch)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    usual = 'template: "{text} is"\nlabels: [" a", " b"]\n'
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "endless.jsonl").symlink_to("/dev/zero")
    (tmp_path / "hole.jsonl").touch()
    os.truncate(tmp_path / "hole.jsonl", 2**40)
    tricks = (
        f"{usual}data: !!python/object/apply:os.system ['touch {outside}/ran']\n",
        f"{usual}data: rows.jsonl\n{BOMB}\n",
        f"{usual}data: rows.jsonl\ndata: other.jsonl\n",
        f"{usual}data: rows.jsonl\nrules: {'[' * 5000}{']' * 5000}\n",
        f"{usual}data: rows.jsonl\n{'9' * 5000}: 1\n",
        f'{usual}data: rows.jsonl\n"\\e[2J": 1\n',
        f"{usual}data: pipe.jsonl\n",
        f"{usual}data: endless.jsonl\n",
        f"{usual}data: hole.jsonl\n",
        f"{usual}data: /dev/zero\n",
        usual.replace("{text}", "{text.__class__.__mro__}") + "data: rows.jsonl\n",
        usual.replace("{text}", "{text!r:>999999999}") + "data: rows.jsonl\n",
    )
    for text in tricks:
        (tmp_path / "task.yaml").write_text(text)
        refused(capsys, "search", "custom", "task.yaml", "--model", "fake", "--output", "out")
    os.mkfifo(tmp_path / "pipe.yaml")
    refused(capsys, "search", "custom", "pipe.yaml", "--model", "fake")
    assert not list(tmp_path.glob("out/*.jsonl"))


def test_a_data_file(outside, tmp_path, monkeypatch, capsys):
    install_fake_model(monkeypatch)
    monkeypatch.setattr(formats, "MAX_UNPACKED_BYTES", 10_000)
    options = ["--option", "template={text} is", "--option", 'labels=[" a"," b"]']
    quick = ["--set", "max_evaluations=6", "--model", "fake"]
    tricks = {
        "deep.jsonl": ('{"text": ' + "[" * 200_000).encode(),
        "digits.jsonl": ('{"text": ' + "1" * 5000 + "}").encode(),
        "escape.jsonl": json.dumps({"text": ESCAPE}).encode(),
        "half.jsonl": b'{"text": "\\ud800"}',
        "nan.jsonl": b'{"text": NaN}',
        "name.jsonl": json.dumps({"text": "a", ESCAPE: 1}).encode(),
        "bomb.jsonl.gz": gzip.compress(b'{"text": "' + b"x" * 20_000 + b'"}'),
        "cut.csv": b'text\n"never closed\n',
        "wide.csv": b"text\na,b\n",
        "fake.parquet": b"PAR1" + b"\xff" * 100 + b"PAR1",
    }
    for name, content in tricks.items():
        (tmp_path / name).write_bytes(content)
        refused(capsys, "search", "custom", name, *options, *quick, "--output", "out")
    # Texts that are harmful elsewhere stay in their cells.
    rows = [
        {"text": text, "key": text} for text in ("=cmd()|'x'!A1", "| <img src=x> `a` [b](c)", "c")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    search = ["search", "custom", "rows.jsonl", *options, *quick, "--option", "id=key"]
    assert run([*search, "--output", "out"]) == 0
    assert run(["report", "out", "-o", "report.md"]) == 0
    assert run(["export", "out", "--format", "csv", "--csv-safe", "-o", "out.csv"]) == 0
    assert "\x1b" not in "".join(capsys.readouterr())
    assert "<img" not in Path("report.md").read_text()
    assert "\n=cmd" not in Path("out.csv").read_text()
