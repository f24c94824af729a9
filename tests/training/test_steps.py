"""Steps in several passes, what is measured at them, held-out examples and the weights kept."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from icm_fast import InputError
from icm_fast.model import load_model
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.training import session
from icm_fast.training.batches import connected_groups, split_groups
from icm_fast.training.reward import Pair, RewardConfig, load_reward_model, train_reward
from icm_fast.training.reward.beginnings import read_rewards
from icm_fast.training.reward.network import last_device, reward_network
from icm_fast.training.reward.trainer import collate as collate_pairs
from icm_fast.training.reward.trainer import pair_ids, pair_loss
from icm_fast.training.sft import TuningConfig, fine_tune
from icm_fast.training.sft import trainer as sft_trainer
from icm_fast.training.sft.texts import chat_texts, training_texts
from icm_fast.training.sft.trainer import collate, label_loss
from icm_fast.training.steps import passes_of
from icm_fast.types import Dataset, Example, LabelSpace
from tiny_models import (
    FAMILIES,
    MULTI,
    UNLISTED,
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401 - in force by its import
    reviews,
    tiny_loaded,
    tiny_model,
)

TEMPLATE = (
    "<s>{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}<pad>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
ACCEPTED = frozenset({"input_ids", "attention_mask", "position_ids", "logits_to_keep", "use_cache"})
PAIRS = tuple(
    Pair(f"Film {k}?", f"great cast {'very ' * (k % 3)}{k}", f"dull {k}") for k in range(9)
)


def chat_model(family="llama"):
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = TEMPLATE
    return load_model((tiny_model(family), tokenizer))


def tune(folder=None, loaded=None, **changes):
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 0.005, "dtype": "float32"}
    dataset = reviews(MULTI)
    return fine_tune(
        dataset,
        mixed_labels(dataset, unlabelled=(2,)),
        model=loaded or tiny_loaded("llama"),
        config=TuningConfig(**(settings | changes)),
        output_dir=folder,
    )


def judge(folder=None, loaded=None, **changes):
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 0.005, "dtype": "float32"}
    config = RewardConfig(**(settings | changes))
    return train_reward(
        PAIRS, model=loaded or tiny_loaded("llama"), config=config, output_dir=folder
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def near(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.allclose(one[k], other[k], rtol=0, atol=2e-5) for k in one)


def test_passes_deal_out_rows_and_weigh_them_by_their_terms():
    terms = [1, 2, 3, 4, 5]
    found = [passes_of([4, 0, 2], terms, 2, rank=rank, size=2) for rank in (0, 1)]
    assert [[one.rows for one in own] for own in found] == [[[4], [2]], [[0], [4]]]
    assert [[one.share for one in own] for own in found] == [[5 / 9, 3 / 9], [1 / 9, 0.0]]
    whole = passes_of([1, 3], terms, 1, rank=0, size=1)
    assert [(one.rows, one.share) for one in whole] == [([1, 3], 1.0)]


def test_a_batch_in_parts_is_the_batch(tmp_path):
    """Also where a batch does not divide, with labels of several lengths; Adam hides no factor."""
    for train in (tune, judge):
        name = train.__name__
        whole = train(tmp_path / f"{name}-whole")
        parts = train(tmp_path / f"{name}-parts", micro_batch_size=3)
        assert parts.losses == pytest.approx(whole.losses, abs=1e-5)
        norms = [
            [line["grad_norm"] for line in lines(tmp_path / f"{name}-{kind}")]
            for kind in ("whole", "parts")
        ]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
        assert len(norms[0]) == len(whole.losses)
    assert near(whole.model.network, parts.model.network)


def test_figures_of_every_step_are_lines(tmp_path):
    judge(tmp_path, epochs=6, warmup=0.0, scheduler="constant")
    found = lines(tmp_path)
    assert [line["step"] for line in found] == list(range(1, 19))
    names = {"step", "loss", "accuracy", "margin", "learning_rate", "grad_norm"}
    assert all(line.keys() == names for line in found)
    assert found[0]["loss"] == pytest.approx(math.log(2))
    assert (found[0]["accuracy"], found[0]["margin"]) == (0.0, 0.0)
    assert found[-1]["accuracy"] == 1.0
    assert found[-1]["margin"] > 0
    assert found[3]["learning_rate"] == pytest.approx(0.005)


def test_groups_are_held_out_whole():
    groups = [0, 0, 1, 2, 1, 3]
    for seed in range(5):
        train, out = split_groups(groups, 0.5, seed)
        assert sorted(train + out) == list(range(6))
        assert not {groups[k] for k in train} & {groups[k] for k in out}
        assert len({groups[k] for k in out}) == 2
    assert split_groups(groups, 0.0, 0) == (list(range(6)), [])
    assert len(split_groups(groups, 0.01, 0)[1]) >= 1
    with pytest.raises(InputError, match="all 2 examples are of one group"):
        split_groups([7, 7], 0.5, 0)
    examples = [Example(str(k), f"p{k}", group="g" if k < 2 else None) for k in range(3)]
    assert connected_groups(Dataset(tuple(examples), LabelSpace((" a", " b")))) == [0, 0, 2]


@pytest.mark.parametrize("train", [tune, judge])
def test_the_weights_with_the_lowest_held_out_loss_are_kept(train, tmp_path):
    """With random labels and a high rate the loss on others rises, so the last are not the best."""
    settings = {"epochs": 8, "learning_rate": 0.03, "save_steps": 2, "eval_fraction": 0.3}
    kept = train(tmp_path / "kept", **settings)
    measured = [line for line in lines(tmp_path / "kept") if "eval_loss" in line]
    assert [line["step"] for line in measured][-1] == len(kept.losses)
    best = min(measured, key=lambda line: line["eval_loss"])
    assert (kept.best_step, kept.best_loss) == (best["step"], best["eval_loss"])
    again = train(tmp_path / "kept", **settings)
    assert (again.best_step, again.best_loss) == (kept.best_step, kept.best_loss)
    assert again.model.fingerprint == kept.model.fingerprint
    assert train(**settings).model.fingerprint == kept.model.fingerprint  # without a folder
    settings["scheduler"], settings["warmup"] = "constant", 0.0
    early = train(tmp_path / "early", patience=1, **settings)
    seen = [line["eval_loss"] for line in lines(tmp_path / "early") if "eval_loss" in line]
    rises = [k for k in range(1, len(seen)) if seen[k] >= min(seen[:k])]
    if rises:  # stopped at the first
        assert len(seen) == rises[0] + 1
        assert len(early.losses) == 2 * len(seen)


def test_killed_after_it_had_stopped_early_it_takes_no_further_step(tmp_path, monkeypatch):
    settings = {"epochs": 8, "learning_rate": 0.3, "scheduler": "constant", "warmup": 0.0}
    settings |= {"save_steps": 1, "eval_fraction": 0.3, "patience": 1}
    whole = judge(tmp_path / "whole", **settings)
    assert len(whole.losses) < 8 * 2, "it did not stop early; this test shows nothing"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(session, "_store", killed)
        with pytest.raises(KeyboardInterrupt):
            judge(tmp_path / "killed", **settings)
    resumed = judge(tmp_path / "killed", **settings)
    assert resumed.losses == whole.losses
    assert (resumed.best_step, resumed.best_loss) == (whole.best_step, whole.best_loss)
    assert resumed.model.fingerprint == whole.model.fingerprint


def test_settings_that_need_each_other():
    with pytest.raises(InputError, match="patience = 2 stops by the loss on held-out examples"):
        TuningConfig(patience=2)
    with pytest.raises(InputError, match="use_dora is a setting of adapters, but method is full"):
        TuningConfig(method="full", use_dora=True)
    with pytest.raises(InputError, match="target_modules must be names of layers"):
        TuningConfig(target_modules=[])
    with pytest.raises(InputError, match="quantization=nf4 cannot train all weights"):
        TuningConfig(method="full", quantization="nf4")
    with pytest.raises(InputError, match="unknown format 'chatt'; did you mean 'chat'"):
        TuningConfig(format="chatt")
    config = TuningConfig(target_modules=["v_proj", "q_proj"], micro_batch_size=2)
    assert config.target_modules == ("q_proj", "v_proj")
    assert TuningConfig.from_mapping(config.to_dict()) == config
    assert not TuningConfig().to_dict().keys() & TuningConfig.LATER


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
        {"use_dora": True},
        {"neftune_noise_alpha": 5.0},
        {"method": "full", "autocast": True},
    ],
)
def test_adapters_noise_and_autocast_are_settings(settings, tmp_path):
    tuned, plain = tune(tmp_path, **settings), tune(method=settings.get("method", "lora"))
    assert tuned.losses != plain.losses
    assert load_model_like(tuned, tmp_path)
    if "target_modules" in settings:
        stored = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
        assert stored["target_modules"] == ["q_proj", "v_proj"]
        assert stored["use_rslora"] is True
    if settings.get("autocast"):
        assert tuned.model.dtype_name == "float32"
        assert tuned.losses == pytest.approx(plain.losses, abs=0.2)


def load_model_like(tuned, folder):
    """Whether a finished folder gives the same model again."""
    record = json.loads((folder / "tuning.json").read_text())
    return record["losses"] == list(tuned.losses) and tuned.model.fingerprint


@pytest.mark.parametrize("format", ["plain", "chat"])
@pytest.mark.parametrize("family", [*FAMILIES, *UNLISTED])
def test_a_padded_batch_is_the_mean_of_its_rows(family, format):
    """Rows of different lengths, each weighed by its label tokens; of reward models by one."""
    loaded, dataset = chat_model(family), reviews(MULTI)
    labels = mixed_labels(dataset, ())
    groups = range(len(dataset))
    if format == "chat":
        texts = chat_texts(dataset, labels, loaded.tokenizer, groups)
    else:
        pieces = tokenize_dataset(dataset, loaded.tokenizer)
        texts = training_texts(pieces, label_tree(pieces), labels, groups)
    rows = [sft_trainer._row(text) for text in texts]
    with torch.no_grad():
        together = float(label_loss(loaded.model, collate(rows), ACCEPTED)[0])
        alone = [float(label_loss(loaded.model, collate([row]), ACCEPTED)[0]) for row in rows]
    counts = [text.n_loss for text in texts]
    assert len({len(text.ids) for text in texts}) > 1
    assert together == pytest.approx(np.average(alone, weights=counts), abs=2e-5)
    if family in ("granite", "cohere", "gpt_oss", "olmo2", "starcoder2"):
        return  # some have no reward head; the others are like llama there
    network = reward_network(loaded, torch.float32, share=True)
    torch.manual_seed(0)
    torch.nn.init.normal_(network.score.weight)
    pairs = pair_ids(PAIRS[:4], loaded.tokenizer, RewardConfig(format=format), 512)
    with torch.no_grad():
        together = float(pair_loss(network, collate_pairs(pairs))[0])
        alone = [float(pair_loss(network, collate_pairs([pair]))[0]) for pair in pairs]
    assert together == pytest.approx(np.mean(alone), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite", "gpt2"])
def test_logits_in_parts_give_the_same_loss_and_gradients(family, monkeypatch):
    loaded, dataset = tiny_loaded(family), reviews(MULTI)
    pieces = tokenize_dataset(dataset, loaded.tokenizer)
    labels = mixed_labels(dataset, ())
    texts = training_texts(pieces, label_tree(pieces), labels, range(8))
    batch = collate([sft_trainer._row(text) for text in texts])
    model = loaded.model.requires_grad_(True)
    found = []
    for limit in (2**40, 420 * 5):
        monkeypatch.setattr(sft_trainer, "LOGITS_AT_ONCE", limit)
        model.zero_grad()
        loss, figures = label_loss(model, batch, ACCEPTED)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((float(loss.detach()), figures, gradients))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert found[0][1] == pytest.approx(found[1][1])
    assert found[0][2].keys() == found[1][2].keys()
    for name, gradient in found[0][2].items():
        assert torch.allclose(gradient, found[1][2][name], atol=1e-4), name


class Largest(TorchDispatchMode):
    """Notes the size of the largest memory that is behind a tensor, in numbers of four bytes."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple) else (made,):
            if isinstance(one, torch.Tensor):
                self.size = max(self.size, one.untyped_storage().nbytes() // 4)
        return made


def test_texts_do_not_need_tokens_times_vocabulary(monkeypatch):
    monkeypatch.setattr(sft_trainer, "LOGITS_AT_ONCE", 4000 * 16)
    loaded = tiny_loaded("llama", vocab_size=4000)
    sizes = []
    for n in (4, 16):
        ids = [[1, *range(5, 5 + 60)]] * n
        rows = [{"input_ids": list(one), "completion_mask": [0] + [1] * 60} for one in ids]
        model = loaded.model.requires_grad_(False)
        model.get_input_embeddings().weight.requires_grad_(True)
        with Largest() as largest:
            label_loss(model, collate(rows), ACCEPTED)[0].backward()
        sizes.append(largest.size)
    assert sizes[0] == sizes[1] <= 4000 * 32 < 16 * 60 * 4000


def test_the_tokenizer_of_the_user_is_not_written_into():
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.pad_token = None
    loaded = load_model((tiny_model("llama"), tokenizer))
    before = tokenizer.special_tokens_map, tokenizer.padding_side, len(tokenizer)
    tune(loaded=loaded, epochs=1)
    judge(loaded=loaded, epochs=1)
    assert (tokenizer.special_tokens_map, tokenizer.padding_side, len(tokenizer)) == before
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("family", [*FAMILIES, "olmo2"])
def test_the_reward_head_stands_where_the_last_norm_is(family):
    loaded = tiny_loaded(family)
    body = loaded.model.base_model
    norm = [m for n, m in body.named_modules() if type(m).__name__.endswith(("Norm", "RMSNorm"))][
        -1
    ]
    norm.to("meta")
    assert last_device(body).type == "meta"
    if family != "olmo2":
        loaded.model.hf_device_map = {"": "cpu"}
        network = reward_network(loaded, torch.float32, share=True)
        assert network.score.weight.device.type == "meta"
        assert network.hf_device_map == {"": "cpu"}


def test_chat_is_what_the_template_writes_and_is_recorded(tmp_path):
    loaded = chat_model()
    tune(tmp_path / "sft", loaded=loaded, format="chat", epochs=1)
    judge(tmp_path / "rm", loaded=loaded, format="chat", epochs=1)
    assert json.loads((tmp_path / "sft/tuning.json").read_text())["identity"]["format"] == "chat"
    assert json.loads((tmp_path / "rm/reward.json").read_text())["identity"]["format"] == "chat 1"
    with pytest.raises(InputError, match="format is 'chat' there and 'plain' here"):
        tune(tmp_path / "sft", loaded=loaded, epochs=1)
    dataset = reviews()
    (text, *_) = chat_texts(dataset, np.zeros(8, np.int32), loaded.tokenizer, range(8))
    prompt = f"<s>[user] {dataset.examples[0].prompt}[assistant] "
    ids = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert list(text.ids[: -text.n_loss]) == ids
    assert loaded.tokenizer.decode(text.ids[-text.n_loss :]) == "positive<pad>"
    with pytest.raises(InputError, match="needs a tokenizer with a chat template"):
        tune(format="chat")


def test_long_answers_of_a_chat_reward_model_are_cut_where_the_template_still_closes_them():
    model = judge(loaded=chat_model(), format="chat", epochs=1).model
    answers = ["good " * 600, "bad"]
    values, n_truncated = read_rewards(model, ["Why?"] * 2, answers, refuse_long=False)
    assert (values.shape, n_truncated) == ((2,), 1)
    # Padded beside the longer text, a score may differ in its last bits.
    assert values[1] == pytest.approx(model.score_answers(["Why?"], ["bad"])[0], abs=1e-5)


def test_a_chat_reward_model_is_loaded_as_one(tmp_path):
    loaded = chat_model()
    loaded.model.save_pretrained(tmp_path / "base")
    loaded.tokenizer.save_pretrained(tmp_path / "base")
    base = load_model(str(tmp_path / "base"), dtype="float32")
    trained = judge(tmp_path / "rm", loaded=base, format="chat", epochs=1)
    again = load_reward_model(tmp_path / "rm", dtype="float32")
    assert trained.model.format == again.format == "chat"
    assert np.array_equal(trained.model.score_pairs(PAIRS), again.score_pairs(PAIRS))
