"""DPO on pairs and on the labels of a run: loss, resuming, chat, parts, held-out pairs, folders."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distributed_cases import chat_loaded
from icm_fast import InputError, SearchConfig, search
from icm_fast.cli import run
from icm_fast.model import load_model
from icm_fast.runs.finished import read_run
from icm_fast.tasks.source import TaskSource
from icm_fast.training.dpo import DpoConfig, train
from icm_fast.training.dpo.trainer import preference_ids
from icm_fast.training.reward import Pair
from listeners import Listener
from tiny_models import one_thread, tiny_loaded  # noqa: F401 - in force by its import

PAIRS = tuple(
    Pair(f"What of film {k}?", f"great cast {'very ' * (k % 3)}{k}", f"dull {k}") for k in range(10)
)
CONFIG = DpoConfig(
    epochs=2,
    batch_size=4,
    micro_batch_size=2,
    learning_rate=0.005,
    lora_dropout=0.1,
    save_steps=2,
    dtype="float32",
)
RESUMED = {"format": "chat", "eval_fraction": 0.2, "epochs": 3}
SCRIPT = """
import sys, time
import torch
from listeners import Listener
from test_dpo import RESUMED, chat_loaded, prefer
torch.set_num_threads(1)

def progress(step):
    print(step.done, flush=True)
    time.sleep(0.05)

prefer(sys.argv[1], Listener(progress), loaded=chat_loaded(), **RESUMED)
"""


def prefer(folder=None, progress=None, loaded=None, pairs=PAIRS, **changes):
    if changes.get("method") == "full":
        changes["lora_dropout"] = 0.0
    return train(
        pairs,
        model=loaded or tiny_loaded("llama"),
        config=DpoConfig(**(CONFIG.to_dict() | changes)),
        output_dir=folder,
        progress=progress,
    )


def log_probability(model, ids, n_prompt):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    steps = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return float(steps[n_prompt - 1 :].sum())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loss_is_that_of_the_paper_and_falls(method, tmp_path):
    loaded = tiny_loaded("llama")
    before = {n: p.clone() for n, p in loaded.model.named_parameters()}
    settings = {"method": method, "epochs": 6, "warmup": 0.0, "scheduler": "constant"}
    trained = prefer(tmp_path, loaded=loaded, lora_dropout=0.0, **settings)
    assert trained.losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert trained.losses[-1] < 0.3
    assert all(torch.equal(before[n], p) for n, p in loaded.model.named_parameters())
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert lines[-1]["accuracy"] == 1.0
    # The merged model has the margins that its adapter had after the last step.
    margins = []
    for pair in preference_ids(PAIRS, loaded.tokenizer, CONFIG, 512):
        gains = [
            log_probability(trained.model.model, pair.prompt + text, len(pair.prompt))
            - log_probability(loaded.model, pair.prompt + text, len(pair.prompt))
            for text in (pair.chosen, pair.rejected)
        ]
        margins.append(CONFIG.beta * (gains[0] - gains[1]))
    assert sum(margins) / len(margins) > 0.8 * lines[-1]["margin"] > 0.5


def test_parts_and_other_losses():
    whole = prefer(micro_batch_size=None, lora_dropout=0.0, epochs=1)
    parts = prefer(micro_batch_size=1, lora_dropout=0.0, epochs=1)
    assert parts.losses == pytest.approx(whole.losses, abs=1e-5)
    other = prefer(loss="ipo", lora_dropout=0.0, epochs=1)
    assert other.losses[0] == pytest.approx((1 / (2 * CONFIG.beta)) ** 2, rel=1e-4)


def test_killed_in_the_middle_it_ends_with_the_same_bits(tmp_path):
    """In the chat format, in several passes, with held-out pairs and dropout."""
    whole = prefer(tmp_path / "whole", loaded=chat_loaded(), **RESUMED)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(killed)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    for line in process.stdout:
        if int(line) >= 4:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shown = Listener()
    resumed = prefer(killed, shown, loaded=chat_loaded(), **RESUMED)
    assert 3 <= shown.done[0] <= 5
    assert (resumed.best_step, resumed.best_loss) == (whole.best_step, whole.best_loss)
    assert resumed.losses == whole.losses
    assert resumed.model.fingerprint == whole.model.fingerprint
    logs = [(folder / "steps.jsonl").read_text() for folder in (killed, tmp_path / "whole")]
    assert logs[0] == logs[1]
    assert {p.name for p in killed.iterdir()} == {
        *(".lock", "tuning.json", "steps.jsonl", "adapter"),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a tiny model that can be named."""
    folder = tmp_path_factory.mktemp("found")
    loaded = tiny_loaded("llama", max_position_embeddings=2048)
    loaded.model.save_pretrained(folder / "tiny")
    loaded.tokenizer.save_pretrained(folder / "tiny")
    return folder


def test_from_64_found_pairs_to_a_model_on_the_command_line(finished, capsys):
    """The labels of a search of movie reviews give more pairs than 64; DPO runs end to end."""
    folder = finished
    source = TaskSource("movie-sentiment", limit=40, options={"split": "search", "max_chars": 40})
    config = SearchConfig(dtype="float32", max_evaluations=2)
    dataset = source.load_dataset()
    search(
        dataset,
        model=str(folder / "tiny"),
        config=config,
        output_dir=folder / "run",
        source=source,
    )
    words = ["train", "dpo", str(folder / "run"), "--set", "epochs=1", "--set", "dtype=float32"]
    words += ["--set", "micro_batch_size=4", "--set", "eval_fraction=0.2"]
    assert run(words) == 0
    told = capsys.readouterr().out
    n_pairs = int(told.split(" pairs")[0])
    assert n_pairs >= 64
    assert f"Trained on {n_pairs} pairs" in told
    assert "Kept: the weights of step" in told
    tuned = load_model(str(folder / "run/dpo"), dtype="float32")
    assert tuned.fingerprint != load_model(str(folder / "tiny"), dtype="float32").fingerprint
    record = json.loads((folder / "run/dpo/tuning.json").read_text())
    assert record["identity"]["training"] == "dpo"
    assert record["identity"]["algorithm"]["loss_type"] == ["sigmoid"]
    again = train(
        read_run(folder / "run"),
        model=load_model(str(folder / "tiny"), dtype="float32"),
        config=DpoConfig.from_mapping(record["identity"]["config"]),
        output_dir=folder / "run/dpo",
    )
    assert again.n_pairs == n_pairs
    assert again.model.fingerprint == tuned.fingerprint


def test_bad_input_is_one_line():
    with pytest.raises(InputError, match="unknown loss 'sigmoyd'; did you mean 'sigmoid'"):
        DpoConfig(loss="sigmoyd")
    with pytest.raises(InputError, match="no pairs to train on"):
        prefer(pairs=[])
    with pytest.raises(InputError, match=r"pair 0 has the probability 0.7, but DPO reads choices"):
        prefer(pairs=[Pair("", "a", "b", probability=0.7)])
    with pytest.raises(InputError, match="pairs do not name a model"):
        train(PAIRS)
    with pytest.raises(InputError, match=r"shortest of 10 pairs .* training takes 4; raise max_l"):
        prefer(max_length=4)
    assert DpoConfig().learning_rate == 2e-5
    assert DpoConfig(method="full").learning_rate == 1e-6
