"""Labellings and searches on workers of a stand-in for Ray: the files of one process, always."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
from label_fakes import install, rows

from fake_ray import FakeRay, fake_cluster
from icm_fast.cli import run
from icm_fast.cluster import RayRequest, on_ray
from icm_fast.cluster import worker as workers
from icm_fast.config import SearchConfig
from icm_fast.engine.progress import Quiet
from icm_fast.engine.search import search
from icm_fast.errors import InputError
from icm_fast.labelling import LabelConfig, LabelTask, label_rows, open_table
from icm_fast.model.lazy import LazyModel, ModelIdentity
from run_fakes import toy_dataset

CONFIG = LabelConfig(cores=2, core_size=6, chunk_rows=4)
TASK = LabelTask(text="review", labels=("negative", "positive"), template="{review} is")
TABLE = open_table(rows(29))


@pytest.fixture
def fake(monkeypatch):
    return install(monkeypatch)


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder; of summaries all but the seconds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            content = path.read_bytes()
            if path.name == "summary.json":
                summary = json.loads(content)
                for key in ("seconds", "n_evaluations_resumed"):
                    summary.pop(key, None)
                content = json.dumps(summary).encode()
            found[str(path.relative_to(folder))] = content
    return found


def labelled(folder: Path, model, progress=None):
    return label_rows(
        TABLE, TASK, model=model, config=CONFIG, folder=folder, progress=progress
    ).decision


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        labelled(folder, LazyModel("fake"))
    return files(folder)


DEATHS = {
    "never": lambda method, n: False,
    "at the first call": lambda method, n: method == "call" and n == 1,
    "while rows are scored": lambda method, n: method == "call" and n in (5, 9, 10),
    "in each search": lambda method, n: method == "search" and n in (2, 5, 6, 11),
    "often": lambda method, n: method != "machine" and n % 5 == 0,
}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("deaths", "width"), [*((deaths, 3) for deaths in DEATHS), ("never", 1), ("often", 1)]
)
def test_a_labelling_has_the_files_of_one_process(serial, tmp_path, deaths, width):
    ray, said = FakeRay(DEATHS[deaths]), []
    cluster = fake_cluster(ray, width, said)
    labelled(tmp_path / "ray", cluster.model("fake", CONFIG))
    cluster.close()
    assert files(tmp_path / "ray") == serial
    n_deaths = sum("died" in line for line in said)
    assert (n_deaths == 0) == (deaths == "never")
    assert len(ray.started) >= width + n_deaths - 1


@pytest.mark.usefixtures("fake")
def test_ten_thousand_rows(tmp_path):
    table, config = open_table(rows(10_000)), LabelConfig(cores=1, core_size=6, chunk_rows=512)
    cluster = fake_cluster(FakeRay(lambda method, n: method == "call" and n % 9 == 0), 3)
    for folder, model in (("ray", cluster.model("fake", config)), ("serial", LazyModel("fake"))):
        label_rows(table, TASK, model=model, config=config, folder=tmp_path / folder)
    cluster.close()
    assert files(tmp_path / "ray") == files(tmp_path / "serial")


class Interrupting(Quiet):
    """Interrupts at one of its updates, wherever that is."""

    def __init__(self, at: int) -> None:
        self.left = at

    def update(self, progress):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("at", [2, 6, 12, 17])
def test_an_interrupted_labelling_resumes_with_or_without_workers(serial, tmp_path, at):
    folder = tmp_path / "ray"
    cluster = fake_cluster(FakeRay(), 3)
    with pytest.raises(KeyboardInterrupt):
        labelled(folder, cluster.model("fake", CONFIG), Interrupting(at))
    cluster.close()
    stored = {name: content for name, content in files(folder).items() if name.endswith(".bin")}
    if at % 4:
        labelled(folder, LazyModel("fake"))
    else:
        again = fake_cluster(FakeRay(), 2)
        labelled(folder, again.model("fake", CONFIG))
        again.close()
    assert files(folder) == serial
    for name, content in stored.items():
        assert serial[name].startswith(content)


SEARCHES = {
    "default": SearchConfig(),
    "rejected early": SearchConfig(preset="paper", max_evaluations=60),
    "growing contexts": SearchConfig(context_order="append"),
    "chains": SearchConfig(chains=3),
    "bounded": SearchConfig(max_tokens=3000),
}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_whose_workers_die_has_the_files_of_one_process(name, tmp_path):
    dataset, config = toy_dataset(9), SEARCHES[name]
    ours = search(dataset, model="fake", config=config, output_dir=tmp_path / "serial")
    cluster = fake_cluster(FakeRay(lambda method, n: method == "search" and n % 4 == 0), 2)
    theirs = search(
        dataset,
        model=cluster.model("fake", config),
        config=config,
        output_dir=tmp_path / "ray",
    )
    cluster.close()
    assert files(tmp_path / "ray") == files(tmp_path / "serial")
    assert theirs.labels.tolist() == ours.labels.tolist()
    assert theirs.utility == ours.utility


def test_a_finished_search_takes_no_worker(fake, tmp_path):
    dataset = toy_dataset(6)
    search(dataset, model="fake", output_dir=tmp_path / "run")
    ray = FakeRay()
    cluster = fake_cluster(ray, 2)
    model = cluster.model("fake", SearchConfig())
    search(dataset, model=model, output_dir=tmp_path / "run")
    cluster.close()
    assert "search" not in ray.counts


def test_another_model_on_one_machine_is_refused(fake, tmp_path, monkeypatch):
    cluster = fake_cluster(FakeRay(lambda method, n: method == "call" and n == 3), 1)
    model = cluster.model("fake", CONFIG)
    assert model.identity().dtype == "float32"
    monkeypatch.setattr(LazyModel, "identity", lambda self: ModelIdentity("other", "float32"))
    with pytest.raises(InputError, match="has other weights than on the first worker"):
        labelled(tmp_path / "ray", model)
    cluster.close()


@pytest.mark.usefixtures("fake")
def test_work_at_which_workers_keep_dying_ends(tmp_path):
    said: list[str] = []
    cluster = fake_cluster(FakeRay(lambda method, n: method == "call"), 2, said)
    with pytest.raises(InputError, match="workers keep dying at the same work"):
        labelled(tmp_path / "ray", cluster.model("fake", CONFIG))
    cluster.close()
    assert said[0].startswith("a worker died")


@pytest.mark.usefixtures("fake")
def test_workers_that_cannot_be_started_end_the_work(monkeypatch):
    monkeypatch.setattr("icm_fast.cluster.pool._POLL_SECONDS", 0.01)
    ray = FakeRay()
    ray.refuse_starts = True
    cluster = fake_cluster(ray, 2)
    with pytest.raises(InputError, match="no worker could be started: no such place"):
        cluster.model("fake", CONFIG).identity()
    cluster.close()


@pytest.mark.usefixtures("fake")
def test_machines_have_the_same_versions(monkeypatch):
    versions = iter([{"torch": "1"}, {"torch": "2"}])
    monkeypatch.setattr(workers, "versions", lambda: next(versions))
    cluster = fake_cluster(FakeRay(), 2)
    choice = cluster.model("fake", CONFIG)._choice

    def call_often() -> None:
        for _ in range(1000):
            cluster.pool.call("facts", choice)

    with pytest.raises(InputError, match=r"has torch .*install the same versions"):
        call_often()
    cluster.close()


def _warned(model, text):
    warnings.warn(text, UserWarning, stacklevel=1)
    return len(text)


@pytest.mark.usefixtures("fake")
def test_a_warning_of_workers_is_given_once():
    cluster = fake_cluster(FakeRay(), 1)
    model = cluster.model("fake", CONFIG)
    with pytest.warns(UserWarning, match="texts are lost") as caught:
        assert [model.call(_warned, "texts are lost") for _ in range(3)] == [14] * 3
    cluster.close()
    assert len(caught) == 1


def _failing(model):
    raise ValueError("a fault of ours")


@pytest.mark.usefixtures("fake")
def test_a_fault_of_a_function_is_not_tried_again():
    ray = FakeRay()
    cluster = fake_cluster(ray, 1)
    model = cluster.model("fake", CONFIG)
    with pytest.raises(ray.exceptions.RayTaskError, match="a fault of ours"):
        model.call(_failing)
    cluster.close()
    assert ray.counts["call"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": -1}, "--ray-workers is -1"),
        ({"gpus": 100}, "--ray-gpus is 100"),
        ({"address": "ray://head:10001"}, "run the command on the cluster"),
    ],
)
def test_requests_that_nothing_serves(arguments, message):
    with pytest.raises(InputError, match=message):
        RayRequest(**arguments)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'icm-fast\[ray\]'"), on_ray():
        pass


def test_a_local_ray_is_closed_to_others(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with on_ray(RayRequest(workers=3)) as cluster:
        assert cluster.pool.width == 3
    (arguments,) = ray.init_arguments
    assert arguments["address"] == "local"
    assert arguments["include_dashboard"] is False


@pytest.mark.parametrize(
    ("address", "message"),
    [("local", "cannot start here: too slow; if"), ("head:1", "cannot be reached at head:1: too")],
)
def test_a_ray_that_is_not_there(monkeypatch, address, message):
    ray = FakeRay()
    ray.init_error = Exception("too slow\nand more")
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(InputError, match=message), on_ray(RayRequest(address)):
        pass


def test_workers_get_no_keys(monkeypatch, fake):
    monkeypatch.setenv("ICM_FAST_API_KEY", "planted-key")
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key")
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    sent: list[object] = []
    monkeypatch.setattr(
        "icm_fast.cluster.pool.Worker", lambda environment: sent.append(environment)
    )
    with on_ray(RayRequest(workers=1)):
        while not sent:
            pass
    assert "planted-key" not in repr(sent)


@pytest.mark.usefixtures("fake")
def test_the_command(monkeypatch, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(20)))
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    for folder, more in (("serial", []), ("ray", ["--ray", "--ray-workers", "2"])):
        words = ["label", str(tmp_path / "a.jsonl"), "--text", "review", "--model", "fake"]
        words += ["--labels", "negative,positive", "--folder", str(tmp_path / folder), *more]
        words += ["-o", str(tmp_path / f"{folder}.csv"), "--set", "core_size=6"]
        assert run([*words, "--progress", "none"]) == 0, capsys.readouterr().err
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "serial.csv").read_bytes()
    assert files(tmp_path / "ray") == files(tmp_path / "serial")
