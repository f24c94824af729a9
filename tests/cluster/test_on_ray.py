"""A real Ray here: workers, a node and the driver are killed, and the files stay the same.

`make test-ray` installs Ray and runs these; each starts one, which takes a while.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_fake_ray import files

from icm_fast.assets.locate import embedded_model
from icm_fast.errors import InputError
from run_fakes import REPOSITORY
from tiny_models import byte_tokenizer, tiny_model

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

PATIENCE = 600
KEY = "planted-key-7c1f"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def table(tmp_path) -> Path:
    return write_table(tmp_path / "table.jsonl", 200)


def write_table(path: Path, n: int) -> Path:
    texts = (f"message {row}: {'free' if row % 3 else 'hello'}" for row in range(n))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def label_words(table: Path, tiny: Path, folder: Path, *more: str) -> list[str]:
    words = ["label", str(table), "--text", "text", "--labels", "spam,mail"]
    words += ["--template", "{text} is", "--model", str(tiny), "--folder", str(folder / "run")]
    for setting in ("cores=8", "core_size=8", "chunk_rows=10", "device=cpu"):
        words += ["--set", setting]
    return [*words, "-o", str(folder / "labelled.csv"), "--progress", "plain", *more]


def start(words: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "ICM_FAST_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "icm_fast", *words],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(words: list[str]) -> str:
    process = start(words)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (out, err)
    assert KEY not in out + err
    return err


def wait_for(process: subprocess.Popen[str], reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descendants(process: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # it has just ended
            continue
        if int(text.rpartition(")")[2].split()[1]) == process:
            yield int(path.parent.name)
            yield from descendants(int(path.parent.name))


def workers_of(process: int) -> list[int]:
    found = []
    for one in descendants(process):
        try:
            if b"ray::Worker" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
        except OSError:
            continue
    return sorted(found)


def stored(folder: Path, pattern: str) -> int:
    """Bytes of what is scored."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a driver, and wait until what it started has noticed."""
    left = list(descendants(process.pid))
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{one}").exists() for one in left) and time.monotonic() < deadline:
        time.sleep(0.1)


def test_a_labelling_survives_its_worker_and_its_driver(tiny, table, tmp_path):
    serial, ray = tmp_path / "serial", tmp_path / "ray"
    finish(label_words(table, tiny, serial))
    words = label_words(table, tiny, ray, "--ray", "--ray-workers", "2")
    process = start(words)
    wait_for(process, lambda: stored(ray, "run/cores/*/evaluations.bin") > 0)
    killed = workers_of(process.pid)
    os.kill(killed[0], signal.SIGKILL)
    wait_for(process, lambda: set(workers_of(process.pid)) - set(killed))
    wait_for(process, lambda: len(list(ray.glob("run/views/*.bin"))) >= 3)
    kill_all(process)
    before = {path: path.read_bytes() for path in ray.glob("run/cores/*/evaluations.bin")}
    assert not (ray / "run" / "summary.json").exists()
    finish(words)
    assert files(ray) == files(serial)
    assert before
    for path, content in before.items():
        assert path.read_bytes().startswith(content)
    assert KEY.encode() not in b"".join(files(ray).values())


def test_one_ctrl_c_leaves_what_resumes_without_ray(tiny, table, tmp_path):
    serial, ray = tmp_path / "serial", tmp_path / "ray"
    finish(label_words(table, tiny, serial))
    process = start(label_words(table, tiny, ray, "--ray", "--ray-workers", "2"))
    wait_for(process, lambda: len(list(ray.glob("run/views/*.bin"))) >= 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "run the same command again to resume" in err
    finish(label_words(table, tiny, ray))
    assert files(ray) == files(serial)


@pytest.mark.model
def test_eight_batches_of_reviews_survive_a_worker_and_the_driver(tmp_path):
    try:
        embedded_model("smollm2")
    except InputError as error:
        pytest.skip(str(error))
    words = ["search", "movie-sentiment", "--model", "smollm2", "--limit", "5", "--seeds", "0-7"]
    words += ["--option", "max_chars=60", "--progress", "plain", "--set", "device=cpu"]
    serial, ray = tmp_path / "serial", tmp_path / "ray"
    finish([*words, "-o", str(serial)])
    on_ray = [*words, "-o", str(ray), "--ray", "--ray-workers", "2"]
    process = start(on_ray)
    wait_for(process, lambda: stored(ray, "*/evaluations.bin") > 0)
    os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
    wait_for(process, lambda: len(list(ray.glob("*/summary.json"))) >= 2)
    kill_all(process)
    assert len(list(ray.glob("*/summary.json"))) < 8
    finish(on_ray)
    assert files(ray) == files(serial)
    assert len(list(ray.glob("seed-*/labels.jsonl"))) == 8


def test_ten_thousand_rows(tiny, tmp_path):
    table = write_table(tmp_path / "table.jsonl", 10_000)
    settings = ["--set", "cores=1", "--set", "chunk_rows=256"]
    finish([*label_words(table, tiny, tmp_path / "serial"), *settings])
    more = ["--ray", "--ray-workers", "2"]
    finish([*label_words(table, tiny, tmp_path / "ray"), *settings, *more])
    assert files(tmp_path / "ray") == files(tmp_path / "serial")


NODES = """
import sys, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(nodes[0], allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


def test_a_labelling_survives_a_node(tiny, table, tmp_path):
    serial, ray = tmp_path / "serial", tmp_path / "ray"
    finish(label_words(table, tiny, serial))
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    nodes = subprocess.Popen(
        [sys.executable, "-c", NODES],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    try:
        address = nodes.stdout.readline().strip()
        process = start(label_words(table, tiny, ray, "--ray", address))
        wait_for(process, lambda: stored(ray, "run/cores/*/evaluations.bin") > 0)
        nodes.stdin.write("\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline().strip() == "removed"
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, (out, err)
        assert "a worker died" in err
        assert files(ray) == files(serial)
    finally:
        nodes.communicate("\n", timeout=PATIENCE)


STRANGER = """
import ray
ray.init(address={address!r}, log_to_driver=False, logging_level="CRITICAL")
print("inside")
"""
LOCAL = """
import sys
from icm_fast.cluster import RayRequest, on_ray
with on_ray(RayRequest(workers=1)) as cluster:
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
"""


def test_nobody_else_gets_into_a_local_ray():
    ours = subprocess.Popen(
        [sys.executable, "-c", LOCAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert ours.stdin is not None
    assert ours.stdout is not None
    try:
        address = ours.stdout.readline().strip()
        environment = {k: v for k, v in os.environ.items() if "RAY_AUTH" not in k}
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER.format(address=address)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert "inside" not in stranger.stdout
        assert "token" in stranger.stderr
    finally:
        ours.communicate("\n", timeout=PATIENCE)
