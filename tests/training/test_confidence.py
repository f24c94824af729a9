"""Confidence as weights of a loss and as margins of pairs."""

import json
import math

import numpy as np
import pytest
import torch

import icm_fast
from icm_fast import InputError, SearchConfig, load_task, search
from icm_fast.cli import run
from icm_fast.runs.finished import read_run
from icm_fast.training.confidence import confidence_margin, loss_weights
from icm_fast.training.dpo import DpoConfig
from icm_fast.training.reward import Pair, RewardConfig, pairs_of_run, read_pairs
from icm_fast.training.reward.network import reward_network
from icm_fast.training.reward.trainer import collate as collate_pairs
from icm_fast.training.reward.trainer import pair_ids, pair_loss, pairs_digest
from icm_fast.training.sft import TuningConfig, fine_tune, fine_tune_texts
from icm_fast.training.sft import trainer as sft_trainer
from icm_fast.training.sft.trainer import collate, label_loss
from icm_fast.types import Dataset, Example, LabelSpace
from tiny_models import MULTI, one_thread, reviews, tiny_loaded  # noqa: F401 - in force by import

ACCEPTED = frozenset(("input_ids", "attention_mask", "position_ids", "logits_to_keep"))
QUICK = {"epochs": 2, "batch_size": 3, "dtype": "float32", "learning_rate": 1e-3, "save_steps": 1}
SURE = np.array([0.9, 0.2, 0.5, 1.0, 0.6, 0.8, 0.7, 0.3])
PAIRS = tuple(Pair("Good?", f"yes {k}", f"no {k}", confidence=(0.5 + k) / 5) for k in range(4))


def tune(folder=None, confidence=SURE, **changes):
    dataset = reviews(MULTI)
    config = TuningConfig(**{**QUICK, "weights": "confidence", **changes})
    labels = np.arange(len(dataset)) % len(dataset.label_space)
    return fine_tune(
        dataset,
        labels,
        model=tiny_loaded("llama"),
        config=config,
        confidence=confidence,
        output_dir=folder,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search with the preset default, its folder, and its model's."""
    folder = tmp_path_factory.mktemp("confident")
    loaded = tiny_loaded("llama")
    for part in (loaded.model, loaded.tokenizer):
        part.save_pretrained(folder / "tiny")
    dataset = reviews()
    result = search(
        dataset,
        model=str(folder / "tiny"),
        config=SearchConfig(dtype="float32"),
        output_dir=folder / "run",
    )
    return result, folder / "run"


def test_a_run_has_the_confidence_of_its_result(finished):
    result, folder = finished
    before = (folder / "evaluations.bin").read_bytes()
    found = read_run(folder).confidence
    assert result.confidence is not None
    assert 0 < found.min() < found.max() <= 1
    assert found == pytest.approx(result.confidence, abs=1e-4)
    assert (folder / "evaluations.bin").read_bytes() == before


def test_weights_have_the_mean_of_one_and_need_every_confidence():
    assert loss_weights([0.5, 1.0, 0.0]) == pytest.approx([1.0, 2.0, 0.0])
    for bad, message in (
        ([0.5, None], "example 1 has no confidence; train on a search that scored"),
        ([0.5, math.nan], "example 1 has no confidence"),
        ([1.5], "the confidence of example 0 must be in 0 .. 1, got 1.5"),
        ([0.0, 0.0], "the confidence of every example is 0; set weights to none"),
    ):
        with pytest.raises(InputError, match=message):
            loss_weights(bad)
    assert confidence_margin(0.9, 0) == pytest.approx(math.log(9))
    assert confidence_margin(0.3, 0) == 0.0
    assert confidence_margin(1.0, 0) == pytest.approx(math.log(999))


def test_the_loss_of_a_label_counts_as_its_weight(monkeypatch):
    loaded = tiny_loaded("llama")
    rows = [
        {"input_ids": [1, 5, 7, 9], "completion_mask": [0, 0, 1, 1], "weight": 0.5},
        {"input_ids": [1, 6, 8], "completion_mask": [0, 0, 1], "weight": 2.0},
    ]
    bare = [{k: v for k, v in row.items() if k != "weight"} for row in rows]
    with torch.no_grad():
        whole = label_loss(loaded.model, collate(rows), ACCEPTED)
        alone = [float(label_loss(loaded.model, collate([row]), ACCEPTED)[0]) for row in bare]
        monkeypatch.setattr(sft_trainer, "LOGITS_AT_ONCE", 1)
        parts = label_loss(loaded.model, collate(rows), ACCEPTED)
    expected = (0.5 * 2 * alone[0] + 2.0 * alone[1]) / 3
    assert float(whole[0]) == pytest.approx(expected, abs=1e-5)
    assert float(parts[0]) == pytest.approx(expected, abs=1e-5)
    assert parts[1] == whole[1]


def test_sure_labels_win_over_unsure_ones():
    space = LabelSpace((" good", " bad"))
    examples = tuple(Example(str(k), "A film. It is") for k in range(8))
    dataset = Dataset(examples, space, name="contradicting")
    labels = np.arange(8) % 2
    config = TuningConfig(epochs=8, dtype="float32", learning_rate=1e-2, weights="confidence")
    chosen = []
    for confidence in (np.where(labels == 0, 0.9, 0.1), np.where(labels == 1, 0.9, 0.1)):
        tuned = fine_tune(
            dataset, labels, model=tiny_loaded("llama"), config=config, confidence=confidence
        )
        (label,) = set(
            icm_fast.evaluate.many_shot(None, None, dataset, model=tuned.model).labels.tolist()
        )
        chosen.append(label)
    assert chosen == [0, 1]


def test_equal_confidence_gives_the_bits_of_no_weights_and_passes_sum_to_the_step():
    same = tune(confidence=np.full(8, 0.7))
    assert same.losses == tune(weights="none").losses
    weighted = tune()
    assert weighted.losses != same.losses
    assert tune(micro_batch_size=1).losses == pytest.approx(weighted.losses, abs=1e-5)


def test_killed_it_resumes_to_the_same_bits_and_other_confidence_is_refused(tmp_path, monkeypatch):
    whole = tune(tmp_path / "whole", micro_batch_size=2)
    calls = iter(range(7))
    true_loss = sft_trainer.label_loss

    def stopping(*arguments, **named):
        if next(calls, None) is None:
            raise RuntimeError("killed")
        return true_loss(*arguments, **named)

    monkeypatch.setattr(sft_trainer, "label_loss", stopping)
    with pytest.raises(RuntimeError, match="killed"):
        tune(tmp_path / "killed", micro_batch_size=2)
    monkeypatch.undo()
    assert any((tmp_path / "killed/checkpoints").iterdir())
    with pytest.raises(InputError, match="holds a different fine-tuning: data_digest"):
        tune(tmp_path / "killed", confidence=SURE[::-1], micro_batch_size=2)
    assert tune(tmp_path / "killed", micro_batch_size=2).losses == whole.losses
    made = [tmp_path / k / "adapter/adapter_model.safetensors" for k in ("whole", "killed")]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_pairs_take_weights_and_margins_from_their_confidence():
    tokenizer = tiny_loaded("llama").tokenizer
    plain = pair_ids(PAIRS, tokenizer, RewardConfig(), 512)
    config = RewardConfig(weights="confidence", margin="confidence", margin_scale=0.5)
    ids = pair_ids(PAIRS, tokenizer, config, 512)
    assert [one.weight for one in ids] == pytest.approx([0.25, 0.75, 1.25, 1.75])
    assert [one.margin for one in ids] == pytest.approx([0, 0, 0, 0.5 * math.log(0.7 / 0.3)])
    assert len({pairs_digest(one) for one in (plain, ids)}) == 2
    loaded = tiny_loaded("llama")
    network = reward_network(loaded, torch.float32, share=True)
    torch.manual_seed(0)
    torch.nn.init.normal_(network.score.weight)
    with torch.no_grad():
        together = float(pair_loss(network, collate_pairs(ids))[0])
        alone = [float(pair_loss(network, collate_pairs([one]))[0]) for one in ids]
    assert together == pytest.approx(np.mean(alone), abs=1e-4)
    with pytest.raises(InputError, match="example 0 has no confidence"):
        pair_ids([Pair("", "a", "b")], tokenizer, config, 512)


def test_files_of_pairs_may_have_confidence(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    path.write_text(json.dumps({**row, "confidence": 0.75}) + "\n" + json.dumps(row) + "\n")
    assert [pair.confidence for pair in read_pairs(path).pairs] == [0.75, None]
    path.write_text(json.dumps({**row, "confidence": 1.5}) + "\n")
    with pytest.raises(InputError, match=r"line 1.*confidence of a pair must be in 0 .. 1"):
        read_pairs(path)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(InputError, match="margin=confidence has no effect while margin_scale is 0"):
        RewardConfig(margin="confidence")
    with pytest.raises(InputError, match="weights=confidence is not supported by DPO"):
        DpoConfig(weights="confidence")
    config = TuningConfig(weights="confidence")
    with pytest.raises(InputError, match="texts have no labels; set weights to none"):
        fine_tune_texts(["a text"], model=tiny_loaded("llama"), config=config)
    with pytest.raises(InputError, match="weights=confidence needs the confidence of every label"):
        tune(confidence=None)
    with pytest.raises(InputError, match=r"confidence has the shape \(3,\), but there are 8"):
        tune(confidence=SURE[:3])
    assert "weights" not in TuningConfig().to_dict()
    assert "margin" not in RewardConfig().to_dict()


def test_on_the_command_line(finished, tmp_path, capsys):
    _, folder = finished
    settings = [f"--set={name}={value}" for name, value in QUICK.items()]
    made = []
    for weights in ("none", "confidence"):
        output = tmp_path / weights
        words = ["train", "sft", str(folder), *settings, "--set", f"weights={weights}"]
        assert run([*words, "-o", str(output)]) == 0, capsys.readouterr().err
        made.append(json.loads((output / "tuning.json").read_text()))
    assert made[0]["losses"] != made[1]["losses"]
    assert made[1]["identity"]["config"]["weights"] == "confidence"


def test_pairs_of_a_run_know_how_sure_their_labels_are(tmp_path, capsys):
    options = {"limit": 8, "split": "search", "max_chars": 40}
    dataset, _ = load_task("movie-sentiment", **options)
    loaded = tiny_loaded("llama")
    for part in (loaded.model, loaded.tokenizer):
        part.save_pretrained(tmp_path / "tiny")
    known = (0, 1, 0, 1, -1, -1, -1, -1)
    search(
        dataset,
        model=str(tmp_path / "tiny"),
        config=SearchConfig(dtype="float32", fixed_labels=known),
        output_dir=tmp_path / "run",
    )
    found = read_run(tmp_path / "run")
    sure = found.confidence
    pairs = pairs_of_run(found, with_confidence=True).pairs
    texts = [example.prompt for example in found.dataset.examples]
    for pair in pairs:
        one, other = (
            sure[next(k for k, text in enumerate(texts) if response in text)]
            for response in (pair.chosen, pair.rejected)
        )
        both = one * other / (one * other + (1 - one) * (1 - other))
        assert pair.confidence == pytest.approx(both)
    assert all(pair.confidence is None for pair in pairs_of_run(found).pairs)
    words = [
        "train",
        "reward",
        str(tmp_path / "run"),
        "--set",
        "epochs=1",
        "--set",
        "dtype=float32",
    ]
    words += ["--set", "margin=confidence", "--set", "margin_scale=0.1"]
    assert run([*words, "--set", "weights=confidence"]) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run/reward/initial/reward.json").read_text())
    config = record["identity"]["config"]
    assert (config["margin"], config["weights"]) == ("confidence", "confidence")
    assert run([*words, "--set", "weights=confidence", "--labels", "gold", "-o", "x"]) == 2
