"""A damaged or made-up run folder gives one line or a valid result, from every reader."""

import copy
import json
import math
import os
import shutil

import numpy as np
import pytest
import yaml
from export_cases import claims_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.report import run_report
from icm_fast.evaluation.run import evaluate_run
from icm_fast.export.hub_card import dataset_card
from icm_fast.export.tables import FORMATS, encode_run
from icm_fast.model.lazy import LazyModel
from icm_fast.reports import render_page
from icm_fast.reports.searches import search_report
from icm_fast.runs.finished import read_run
from run_fakes import FakeScorer

FILES = (
    "config.yaml",
    "examples.jsonl",
    "labels.jsonl",
    "summary.json",
    "events.jsonl",
    "evaluations.bin",
    "evaluation.json",
)
TEXTS = [name for name in FILES if not name.endswith(".bin")]
WEIRD = [
    *(None, True, -2, -1, 2, 2**31, 2**63, 10**400, 0.5, 1e300, math.nan, math.inf, -math.inf),
    *("", "x", "\ud800", "\x1b[31m", [], [[]], [1], [None], {}, {"a": 1}, {"label": []}),
]


def _comparison() -> dict:
    method = {
        **{"n_shots": 3, "accuracy": 0.5, "interval": [0.4, 0.6], "calibrated_accuracy": 0.5},
        **{"auc": None, "calibration_error": 0.1, "consistency": None},
    }
    names = ("zero-shot", "ICM many-shot", "golden many-shot")
    return {
        "n_test": 4,
        "comparison": {
            **{"agreement": 0.5, "permuted_agreement": 0.5, "n_gold": 6, "n_test": 4},
            "methods": [{"method": name, **method} for name in names],
            "model": "fake",
        },
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    home = tmp_path_factory.mktemp("whole")
    run = claims_run(home)
    (run.folder / "evaluation.json").write_text(json.dumps(_comparison()))
    return run.folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def restored(whole, folder):
    for name in FILES:
        shutil.copyfile(whole / name, folder / name)


def resume(folder):
    """Search again into the folder; no model is loaded, since everything is scored."""
    source = read_source(folder)
    dataset = source.load_dataset()
    return icm_fast.search(
        dataset,
        model="/models/fake",
        config=SearchConfig(max_evaluations=3, seed=source.seed),
        output_dir=folder,
        scorer=FakeScorer(len(dataset)),
        source=source,
    )


def read_source(folder):
    from icm_fast.tasks.source import TaskSource

    path = str(folder.parent / "claims.jsonl")
    return TaskSource("truthfulqa", path, limit=6, seed=4)


def evaluate(folder):
    """What the command does up to the point where the model would be loaded."""

    class NoModel(LazyModel):
        def load(self):
            raise InputError("the model is not loaded in this test")

    evaluate_run(read_run(folder), NoModel("fake"), n_test=4)


def check_all(folder):
    """Run all readers; each returns, or raises an InputError of one line."""
    for reader in (report, export, evaluate, resume):
        message = ""
        try:
            reader(folder)
        except InputError as error:
            message = str(error)
        assert "\n" not in message, reader
        assert len(message) < 2000, reader


def report(folder):
    run = read_run(folder)
    run_report(run).encode()
    render_page(search_report(run, n_rows=100), "run").encode()


def export(folder):
    run = read_run(folder)
    assert set(run.labels.tolist()) <= {-1, 0, 1}
    assert np.isfinite(run.scores).all()
    for format in FORMATS:
        if format not in ("dpo", "trl-preference"):
            encode_run(run, format)
    dataset_card(run, file="f", format="csv", n_rows=1, note="").encode()


many = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@many
@given(data=st.data())
def test_no_edit_of_a_byte_ends_in_a_traceback(whole, folder, data):
    shutil.copyfile(whole.parent / "claims.jsonl", folder.parent / "claims.jsonl")
    restored(whole, folder)
    path = folder / data.draw(st.sampled_from(FILES))
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["set", "cut", "insert", "drop"]))
    byte = data.draw(st.integers(0, 255))
    if kind == "set":
        content[where] = byte
    elif kind == "cut":
        del content[where:]
    elif kind == "insert":
        content.insert(where, byte)
    else:
        del content[where]
    path.write_bytes(bytes(content))
    check_all(folder)


def _places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, (*path, number))


def _edited(content, path, value, *, drop):
    content = copy.deepcopy(content)
    if not path:
        return value
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    if drop:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return content


@many
@given(data=st.data())
def test_no_edit_of_a_value_ends_in_a_traceback(whole, folder, data):
    shutil.copyfile(whole.parent / "claims.jsonl", folder.parent / "claims.jsonl")
    restored(whole, folder)
    path = folder / data.draw(st.sampled_from(TEXTS))
    text = path.read_text()
    lines = [text] if path.suffix in (".json", ".yaml") else text.splitlines()
    row = data.draw(st.integers(0, len(lines) - 1))
    content = (yaml.safe_load if path.suffix == ".yaml" else json.loads)(lines[row])
    place = data.draw(st.sampled_from(list(_places(content))))
    value, drop = data.draw(st.sampled_from(WEIRD)), data.draw(st.booleans())
    # JSON is YAML too, so that surrogates and huge integers get there.
    lines[row] = json.dumps(_edited(content, place, value, drop=drop))
    path.write_text("\n".join(lines) + "\n")
    check_all(folder)


@pytest.mark.parametrize(
    ("name", "row", "change", "message"),
    [
        ("labels.jsonl", 0, {"label_index": -2}, "line 1: label_index is -2"),
        ("labels.jsonl", 2, {"label_index": 2}, "line 3: label_index is 2"),
        ("labels.jsonl", 0, {"label_index": 0}, "line 1: label is ' True'"),
        ("labels.jsonl", 0, {"logprobs": [0.0]}, "a list of 2 finite numbers"),
        ("labels.jsonl", 0, {"logprobs": [math.nan, 0.0]}, "a list of 2 finite numbers"),
        ("labels.jsonl", 0, {"id": "other"}, "line 1: id is 'other'"),
        ("labels.jsonl", 0, {"margin": None}, "line 1: margin is None"),
        ("labels.jsonl", 0, {"confidence": 1.5}, "line 1: confidence is 1.5, expected a"),
        ("labels.jsonl", 0, {"confidence": None}, "line 1: confidence is None"),
        ("examples.jsonl", 1, {"prompt": 1}, "line 2: prompt is 1, expected text"),
        ("examples.jsonl", 1, {"prompt": " "}, "empty prompt"),
        ("summary.json", 0, {"n_examples": "x"}, "n_examples is 'x', expected an integer"),
        ("summary.json", 0, {"seconds": 10**400}, "seconds is an integer of many digits"),
        ("events.jsonl", 0, {"move": None}, "line 1: move is None, expected text"),
        ("evaluation.json", 0, {"comparison": []}, "comparison: a list of 0 is not an object"),
    ],
)
def test_the_message_names_file_line_and_value(folder, name, row, change, message):
    path = folder / name
    text = path.read_text()
    lines = [text] if name.endswith(".json") else text.splitlines()
    lines[row] = json.dumps(json.loads(lines[row]) | change)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=name) as caught:
        run_report(read_run(folder))
    assert message in str(caught.value)


def test_a_made_up_record_with_a_right_checksum_is_refused(tmp_path):
    from icm_fast.runs.score_log import ScoredLabelling, ScoreLog

    path = tmp_path / "evaluations.bin"
    log = ScoreLog(path, 3, 2, "ab" * 32)
    log.append(ScoredLabelling(np.full(3, -2, np.int32), np.zeros((3, 2), np.float32), 1))
    log.close()
    with pytest.raises(InputError, match=r"outside -1 \.\. 1"):
        ScoreLog(path, 3, 2, "ab" * 32)


def test_edited_examples_are_noticed_when_a_search_resumes(whole, folder):
    shutil.copyfile(whole.parent / "claims.jsonl", folder.parent / "claims.jsonl")
    path = folder / "examples.jsonl"
    path.write_text(path.read_text().replace("Q0", "Q9"))
    with pytest.raises(InputError, match="differs from the data of this search"):
        resume(folder)


def test_yaml_aliases_that_stand_for_gigabytes_are_refused(folder):
    path = folder / "config.yaml"
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 10)}]" for k in range(1, 10)]
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match="not the configuration of a run"):
        read_run(folder)


# --- links, pipes and devices in folders of others --------------------------

READERS = (report, export, evaluate, resume)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
@pytest.mark.parametrize("name", [*FILES, ".lock", ".labels.jsonl.tmp", "anything"])
def test_a_run_folder_with_a_link_or_pipe_is_refused(whole, folder, tmp_path, reader, kind, name):
    shutil.copyfile(whole.parent / "claims.jsonl", folder.parent / "claims.jsonl")
    victim = tmp_path / "victim"
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)
    if kind == "link":
        victim.write_text("precious")
    with pytest.raises(InputError, match=rf"{name} is a (symbolic link|pipe)"):
        reader(folder)
    assert victim.exists() == (kind == "link")
    assert kind != "link" or victim.read_text() == "precious"


def test_a_run_folder_reached_through_a_link_is_fine(folder, tmp_path):
    (tmp_path / "way").symlink_to(folder)
    assert read_run(tmp_path / "way").labels.tolist() == read_run(folder).labels.tolist()
