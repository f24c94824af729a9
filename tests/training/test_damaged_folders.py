"""Damaged or made-up documents of trainings, pools and experiments: one line or a valid result."""

import copy
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icm_fast.errors import InputError
from icm_fast.experiments.documents import HeldOutFacts, OrderFacts, SearchFacts
from icm_fast.experiments.documents import Record as CellRecord
from icm_fast.files.fields import read_shape
from icm_fast.model.adapters import read_tuning
from icm_fast.training.folder import CHECKPOINTS, TuningFolder
from icm_fast.training.reward.pool import PoolLabels
from icm_fast.training.rl.train import read_history
from icm_fast.training.rl.trainer import _read_log

IDENTITY = {"model_fingerprint": "a", "model_dtype": "float32", "config": {"seed": 0}}
MEASURED = dict.fromkeys(
    ("step", "reward", "kl", "perplexity", "length", "finished", "repetition", "distinct"), 1.0
)
HISTORY = {"steps": [{"step": 1, "loss": None}, {"loss": math.nan}], "measurements": [MEASURED]}
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r", "probability": 0.5}
FACTS = {
    **{"agreement": 0.5, "permuted_agreement": 0.5, "gold_counts": [1, 2], "found_counts": [2, 1]},
    **{"gold_utility": None, "n": 3},
    **{"n_labelled": 3, "utility": 1.0, "n_evaluations": 1, "n_iterations": 1},
    **{"n_parameters": 1, "n_tokens": 1, "seconds": 1.0, "reason": "x", "concerns": ["a"]},
}


def resume(folder: Path) -> None:
    """What a training does that finds its folder."""
    with TuningFolder(folder, IDENTITY) as opened:
        if opened.result() is None:
            opened.last_checkpoint()


def shape(kind):
    return lambda folder: read_shape(next(folder.glob("*.json")), kind, "delete it")


CASES = {
    "record": ("tuning.json", {"identity": IDENTITY, "losses": [1.0], "seconds": 1.0}, resume),
    "tuning": (
        "tuning.json",
        {"identity": IDENTITY, "losses": [1.0], "seconds": 1.0},
        lambda folder: read_tuning(folder / "tuning.json"),
    ),
    "checkpoint": (
        f"{CHECKPOINTS}/checkpoint-3/complete.json",
        {"losses": [1.0], "seconds": 1.0},
        resume,
    ),
    "history": ("history.json", HISTORY, read_history),
    "policy": (
        "policy_log.json",
        {**HISTORY, "samples": [{}], "seconds": 1.0, "kl_weight": 0.1},
        _read_log,
    ),
    "pool": ("pool.jsonl", PAIR, lambda folder: PoolLabels(folder / "pool.jsonl", 1, 0).pairs()),
    "search": ("search.json", FACTS, shape(SearchFacts)),
    "orders": ("orders.json", {"orders": [], "spread": 0.5}, shape(OrderFacts)),
    "identity": ("identity.json", {"identity": {}, "versions": [{"a": "b"}]}, shape(CellRecord)),
    "test": (
        "test.json",
        {
            **{"ids": ["a"], "gold": [1], "groups": [None], "labels": ["x", "y"]},
            "pairs": [[0, 1, [[True, False], [False, True]]]],
        },
        shape(HeldOutFacts),
    ),
}
WEIRD = [
    *(None, True, -2, 2**63, 10**400, 0.5, math.nan, math.inf, "", "x", "\ud800"),
    *([], [[]], [None], {}, {"a": 1}),
]


def write(folder: Path, case: str) -> Path:
    name, content, _ = CASES[case]
    (folder / "samples.jsonl").write_text('{"step": 1}\n')
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n")
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_whole_document_is_read(tmp_path, case):
    write(tmp_path, case)
    CASES[case][2](tmp_path)


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner if isinstance(value, (dict, list)) else ():
        yield from places(one, (*path, key)) if isinstance(one, (dict, list)) else [(*path, key)]


@pytest.mark.parametrize("case", CASES)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_edit_ends_in_a_traceback(tmp_path, case, data):
    path = write(tmp_path, case)
    if data.draw(st.booleans()):
        content = copy.deepcopy(CASES[case][1])
        *way, last = data.draw(st.sampled_from(list(places(content))[1:]))
        inside = content
        for key in way:
            inside = inside[key]
        if data.draw(st.booleans()):
            del inside[last]
        else:
            inside[last] = data.draw(st.sampled_from(WEIRD))
        path.write_text(json.dumps(content) + "\n")
    else:
        raw = bytearray(path.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(raw))
    message = ""
    try:
        CASES[case][2](tmp_path)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("name", ["tuning.json", ".lock", CHECKPOINTS, "adapter"])
def test_a_training_folder_with_a_link_is_refused(tmp_path, name):
    victim = tmp_path / "victim"
    (victim / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / name).symlink_to(victim)
    with pytest.raises(InputError, match=f"{name} is a symbolic link"):
        resume(tmp_path / "training")
    assert (victim / "checkpoint-1").is_dir()


@pytest.mark.parametrize("name", ["checkpoint-x", "checkpoint-", "checkpoint-1_0", "checkpoint-²"])
def test_other_things_among_the_checkpoints_are_one_line(tmp_path, name):
    (tmp_path / CHECKPOINTS / name).mkdir(parents=True)
    with pytest.raises(InputError, match="is not a checkpoint of a training"):
        resume(tmp_path)
    assert (tmp_path / CHECKPOINTS / name).is_dir()
