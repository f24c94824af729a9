"""The review: answers over HTTP that are on disk at once, and nobody else's requests."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from report_cases import HOSTILE, read_page, write_labelling

from icm_fast.cli import run as icm_fast_command
from icm_fast.errors import InputError
from icm_fast.files.text import printable
from icm_fast.labelling.review import read_corrections
from icm_fast.labelling.stored import read_labelling
from icm_fast.reports.page import content_hash
from icm_fast.reports.review import Answers, Review
from icm_fast.reports.server import ReviewServer


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_labelling(tmp_path, [f"text {k}" for k in range(6)])


@contextmanager
def served(folder: Path, path: Path | None = None, n_rows: int = 100) -> Iterator[ReviewServer]:
    stored = read_labelling(folder)
    answers = Answers(path or folder / "corrections.jsonl", stored.task)
    with ReviewServer(Review(stored, answers, n_rows)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, method="GET", place="", body=None, **headers):
    """Status, headers and content of the reply; headers that are None are not sent."""
    parts = urlsplit(server.address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    wanted = {"Host": parts.netloc}
    if method == "POST":
        wanted |= {"Origin": f"http://{parts.netloc}", "Content-Type": "application/json"}
    wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
    content = json.dumps(body).encode() if body is not None else b""
    path = place if place.startswith("/") else parts.path + place
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if method == "POST":
        wanted.setdefault("Content-Length", str(len(content)))
    for name, value in wanted.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(content)
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return found


def answer(server, row, label, **headers):
    return ask(server, "POST", "answer", {"row": row, "label": label}, **headers)[0]


def test_rows_are_shown_least_certain_first_without_known_ones(folder):
    with served(folder) as server:
        status, _, content = ask(server)
    assert status == 200
    data = read_page(content.decode()).data
    assert [row["number"] for row in data["rows"]] == [1, 2, 3, 4, 5]  # row 0 is known
    assert data["rows"][0]["text"] == "text 1"
    assert data["labels"] == ["a", "b"]
    assert data["answers"] == {}


def test_answers_are_on_disk_at_once_and_become_corrections(folder):
    path = folder / "corrections.jsonl"
    with served(folder) as server:
        assert answer(server, 3, 1) == 200
        assert path.read_text() == '{"row": 3, "label": "b"}\n'
        assert answer(server, 4, 0) == 200
        assert answer(server, 3, 0) == 200  # changed
        assert answer(server, 4, None) == 200  # taken back
        assert answer(server, 5, 1) == 200
    assert read_corrections(path, read_labelling(folder).task) == {3: 0, 5: 1}
    with served(folder) as server:  # a later review resumes there
        assert read_page(ask(server)[2].decode()).data["answers"] == {"3": 0, "5": 1}
        assert answer(server, 3, None) == answer(server, 5, None) == 200
    assert path.read_bytes() == b""
    with served(folder) as server:
        assert len(server.review.answers) == 0


@pytest.mark.parametrize(
    "body",
    [
        *({}, [], 3, {"row": 1}, {"row": 1, "label": 0, "more": 1}, {"row": 1, "label": 2}),
        *({"row": 1, "label": -1}, {"row": 1, "label": "a"}, {"row": 1, "label": True}),
        *({"row": 0, "label": 1}, {"row": 99, "label": 1}, {"row": "1", "label": 1}),
        {"row": True, "label": 1},
    ],
)
def test_what_is_no_answer_is_refused_and_stores_nothing(folder, body):
    with served(folder) as server:
        status, _, content = ask(server, "POST", "answer", body)
    assert status == 400
    assert json.loads(content)["error"]
    assert not (folder / "corrections.jsonl").exists()


EVIL = "http://evil.example"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"Host": "evil.example"}),
        (403, {"Host": None}),
        (403, {"Host": "127.0.0.1"}),  # the port is missing
        (403, {"Origin": EVIL}),
        (403, {"Origin": "null"}),
        (403, {"Origin": None}),
        (403, {"Sec_Fetch_Site": "cross-site"}),
        (415, {"Content_Type": "text/plain"}),
        (415, {"Content_Type": "application/x-www-form-urlencoded"}),
        (413, {"Content_Length": "5000000"}),
        (413, {"Content_Length": "-1"}),
        (413, {"Content_Length": None}),
    ],
)
def test_requests_of_others_are_refused(folder, status, headers):
    with served(folder) as server:
        assert answer(server, 1, 1, **headers) == status
        assert not (folder / "corrections.jsonl").exists()
        assert answer(server, 1, 1) == 200


def test_other_tokens_and_places_are_not_found(folder):
    with served(folder) as server:
        token = server.token
        assert len(token) >= 40
        wrong = ("/", "/x/", f"/{token[:-1]}x/", f"/{token}", f"/{token}/../x", f"/{token}/page.js")
        for place in wrong:
            assert ask(server, place=place)[0] == 404, place
            assert ask(server, "POST", place, {"row": 1, "label": 1})[0] == 404, place
        assert ask(server, place=f"/{token}/", Host="evil.example")[0] == 403
        assert ask(server, "PUT", "answer")[0] == 501
        assert token.encode() not in ask(server, place="/")[2]


def test_a_name_of_this_machine_is_allowed_and_only_loopback_listens(folder):
    with served(folder) as server:
        name = f"localhost:{server.server_port}"
        assert answer(server, 1, 1, Host=name, Origin=f"http://{name}") == 200
        assert answer(server, 1, 1, Host=name) == 403  # the origin has the other name
        assert server.socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(InputError, match=r"cannot be used: .*; name another one with --port"):
            ReviewServer(server.review, server.server_port)
        with pytest.raises(InputError, match="--port"):
            ReviewServer(server.review, 70_000)


def test_the_policy_allows_the_page_s_own_code_and_answers_alone(folder):
    with served(folder) as server:
        _, headers, content = ask(server)
    page = read_page(content.decode())
    codes = {kind: content_hash(text) for kind, text in page.inside if not text.startswith("{")}
    rules = dict(
        rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";")
    )
    assert rules == {
        **{"default-src": "'none'", "connect-src": "'self'", "img-src": "data:"},
        **{"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"},
        "style-src": f"'{codes['style']}'",
        "script-src": f"'{codes['script']}'",
    }
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Python" not in headers["Server"]
    assert "Access-Control-Allow-Origin" not in headers


def test_hostile_texts_are_data(tmp_path):
    texts = [t.replace("\x00", "").replace("\x1b", "").replace("\x07", "") for t in HOSTILE]
    texts = [t for t in texts if not any("\ud800" <= c <= "\udfff" for c in t)]
    folder = write_labelling(tmp_path, texts, found=[0] * len(texts), decided=[2] * len(texts))
    with served(folder) as server:
        page = read_page(ask(server)[2].decode())
    shown = [row["text"].split() for row in page.data["rows"]]
    assert shown == [printable(text.replace("\r\n", "\n")).split() for text in texts]
    assert len(page.all("script")) == 2


def test_a_full_disk_is_told_and_the_answer_does_not_count(folder, monkeypatch):
    def full(path, content):
        raise InputError(f"cannot write {path}: No space left on device; free some")

    with served(folder) as server:
        assert answer(server, 1, 0) == 200
        monkeypatch.setattr("icm_fast.reports.review.write_atomically", full)
        status, _, content = ask(server, "POST", "answer", {"row": 2, "label": 0})
        assert status == 507
        assert "No space left" in json.loads(content)["error"]
        assert server.review.answers.content() == {1: 0}


def test_a_browser_that_hangs_keeps_nobody_waiting(folder):
    with (
        served(folder) as server,
        socket.create_connection(("127.0.0.1", server.server_port)) as silent,
    ):
        silent.sendall(b"POST /")
        assert answer(server, 1, 0) == 200


def test_answers_that_are_none_are_refused(folder, tmp_path):
    task = read_labelling(folder).task
    with pytest.raises(InputError, match=r"ends in \.jsonl"):
        Answers(tmp_path / "answers.csv", task)
    other = tmp_path / "other.jsonl"
    other.write_text('{"row": 1, "label": "c"}\n')
    with pytest.raises(InputError, match="is not a label"):
        Answers(other, task)


def test_nothing_to_review(tmp_path, capsys):
    folder = write_labelling(tmp_path, ["x", "y"], found=[0, 1], decided=[0, 0])
    assert icm_fast_command(["review", str(folder)]) == 2
    assert "all labels" in capsys.readouterr().err
    assert icm_fast_command(["review", str(folder), "--rows", "0"]) == 2
    assert icm_fast_command(["review", str(tmp_path)]) == 2
    assert "is not the folder of a labelling" in capsys.readouterr().err


class Running:
    """The command in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-u", "-m", "icm_fast", "review", str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", first)
        assert found, first
        self.address = found[0]

    def end(self, how: int) -> str:
        self.process.send_signal(how)
        out, _ = self.process.communicate(timeout=60)
        return out


@pytest.mark.usefixtures("interruptible")
def test_a_killed_review_keeps_its_answers_and_an_interrupted_one_says_how_to_use_them(folder):
    running = Running(folder)
    assert answer(running, 2, 0) == 200
    running.end(signal.SIGKILL)
    task = read_labelling(folder).task
    assert read_corrections(folder / "corrections.jsonl", task) == {2: 0}
    running = Running(folder)
    assert read_page(ask(running)[2].decode()).data["answers"] == {"2": 0}
    assert answer(running, 3, 1) == 200
    busy = subprocess.run(
        [sys.executable, "-m", "icm_fast", "review", str(folder)], capture_output=True, text=True
    )
    assert busy.returncode == 2
    assert "by another process" in busy.stderr
    told = running.end(signal.SIGINT)
    assert running.process.returncode == 0
    assert f"2 answers in {folder / 'corrections.jsonl'}" in told
    assert "--corrections" in told
