"""Training texts, loss, base, determinism and merged weights, on tiny random models."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from icm_fast import InputError, SearchConfig, plan_leave_one_out
from icm_fast.evaluation.many_shot import many_shot
from icm_fast.model import load_model
from icm_fast.model.adapters import foreign_code, import_peft, merge_adapter
from icm_fast.model.copies import copy_model
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.scoring.factory import make_scorer
from icm_fast.training.batches import order_batches
from icm_fast.training.sft import TuningConfig, fine_tune, fine_tune_texts
from icm_fast.training.sft.texts import plain_texts, training_texts
from icm_fast.training.sft.trainer import collate, label_loss
from icm_fast.training.steps import TrainingStep
from listeners import Listener
from tiny_models import (
    FAMILIES,
    MULTI,
    PREFIX,
    SINGLE,
    UNLISTED,
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401 - in force by its import
    reviews,
    tiny_loaded,
    tiny_model,
)

QUICK = TuningConfig(epochs=2, batch_size=3, learning_rate=0.01, dtype="float32")
LABELS = np.array([0, 1, -1, 0, 1, -1, 1, 0], np.int32)


def bits(loaded):
    return {name: p.detach().clone() for name, p in loaded.model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("preamble", ["", "Judge the films."])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("space", [SINGLE, MULTI, PREFIX])
def test_texts_are_the_tokens_of_a_zero_shot_query(space, bos, preamble):
    dataset, loaded = replace(reviews(space), preamble=preamble), tiny_loaded("llama", bos=bos)
    labels = mixed_labels(dataset)
    pieces = tokenize_dataset(dataset, loaded.tokenizer)
    tree = label_tree(pieces)
    texts = training_texts(pieces, tree, labels)
    unlabelled = np.full(len(dataset), -1, np.int32)
    plan = plan_leave_one_out(dataset, unlabelled, model=(loaded.model, loaded.tokenizer))
    chosen = np.flatnonzero(labels >= 0)
    assert len(texts) == len(chosen)
    for i, text in zip(chosen, texts, strict=True):
        steps = [token for _, token in tree.steps[labels[i]]]
        assert list(text.ids) == plan.prompt_ids(int(i)) + steps
        assert text.n_loss == len(steps)
        assert steps[: len(pieces.labels[labels[i]])] == list(pieces.labels[labels[i]])


def test_collate_forwards_all_but_the_last_token_and_aims_at_labels_alone():
    batch = collate(
        [
            {"input_ids": [5, 6, 7, 8, 9], "completion_mask": [0, 0, 0, 1, 1]},
            {"input_ids": [3, 4], "completion_mask": [0, 1]},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 0, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert batch["targets"].tolist() == [[8, 9], [-100, 4]]


@pytest.mark.parametrize("family", [*FAMILIES, *UNLISTED])
def test_loss_is_the_log_probability_that_scoring_gives_to_the_labels(family):
    dataset, loaded = reviews(PREFIX), tiny_loaded(family)
    labels = mixed_labels(dataset, ())
    pieces = tokenize_dataset(dataset, loaded.tokenizer)
    texts = training_texts(pieces, label_tree(pieces), labels)
    rows = [
        {
            "input_ids": list(t.ids),
            "completion_mask": [k >= len(t.ids) - t.n_loss for k in range(len(t.ids))],
        }
        for t in texts
    ]
    accepted = frozenset({"input_ids", "attention_mask", "position_ids", "logits_to_keep"})
    with torch.no_grad():
        loss = float(label_loss(loaded.model, collate(rows), accepted)[0])
    config = SearchConfig(scorer="naive", normalize="vocabulary")
    scores = make_scorer(loaded, dataset, config).score(np.full(len(dataset), -1, np.int32)).scores
    expected = -sum(scores[i, y] for i, y in enumerate(labels)) / sum(t.n_loss for t in texts)
    assert loss == pytest.approx(float(expected), abs=1e-4)


def test_first_loss_is_the_base_models_and_training_lowers_it():
    dataset, loaded = reviews(), tiny_loaded("llama")
    tuned = fine_tune(
        dataset, LABELS, model=loaded, config=TuningConfig(epochs=20, learning_rate=0.02)
    )
    config = SearchConfig(normalize="vocabulary")
    before = many_shot(None, None, dataset, model=loaded, config=config).scores
    after = many_shot(None, None, dataset, model=tuned.model, config=config).scores
    chosen = LABELS >= 0
    mean = [-float(s[chosen, LABELS[chosen]].mean()) for s in (before, after)]
    assert tuned.losses[0] == pytest.approx(mean[0], abs=2e-2)
    assert mean[1] < 0.2 * mean[0]
    assert tuned.n_examples == 6
    assert len(tuned.losses) == 20


@pytest.mark.parametrize("method", ["lora", "full"])
def test_base_and_random_states_stay_as_they_were(method):
    loaded = tiny_loaded("gemma3_text")
    weights, fingerprint = bits(loaded), loaded.fingerprint
    asked_for_gradients = [p.requires_grad for p in loaded.model.parameters()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), float(torch.rand(1))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    config = TuningConfig(method=method, epochs=1, learning_rate=0.01)
    tuned = fine_tune(reviews(), LABELS, model=loaded, config=config)
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected
    assert same(bits(loaded), weights)
    assert [p.requires_grad for p in loaded.model.parameters()] == asked_for_gradients
    assert tuned.model.fingerprint != fingerprint
    assert not same(bits(tuned.model), weights)
    assert tuned.model.dtype_name == loaded.dtype_name


def test_same_inputs_give_the_same_bits_and_another_seed_gives_others():
    def run(**changes):
        config = TuningConfig(epochs=2, batch_size=3, lora_dropout=0.3, **changes)
        return fine_tune(reviews(), LABELS, model=tiny_loaded("llama"), config=config)

    one, again, other = run(), run(), run(seed=1)
    assert one.losses == again.losses
    assert same(bits(one.model), bits(again.model))
    assert not same(bits(one.model), bits(other.model))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_merged_weights_give_the_live_adapters_logits(family, tmp_path):
    loaded = tiny_loaded(family)
    tuned = fine_tune(reviews(), LABELS, model=loaded, config=QUICK, output_dir=tmp_path / "tuned")
    copied = copy_model(loaded.model, torch.float32, share=False)
    with foreign_code():
        live = (
            import_peft()
            .PeftModel.from_pretrained(copied, str(tmp_path / "tuned" / "adapter"))
            .eval()
        )
    ids = torch.tensor([loaded.tokenizer("Review: a small wonder\nSentiment:")["input_ids"]])
    with torch.no_grad():
        base = loaded.model(input_ids=ids).logits
        expected = live(input_ids=ids).logits
        merged = tuned.model.model(input_ids=ids).logits
    assert float((merged - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert float((merged - base).abs().max()) > 1e-2


def test_bfloat16_trains_adapters_and_keeps_the_bases_dtype():
    model = tiny_model("llama").to(torch.bfloat16)
    loaded = load_model((model, byte_tokenizer()))
    config = TuningConfig(epochs=20, learning_rate=0.02, dtype="bfloat16")
    tuned = fine_tune(reviews(), LABELS, model=loaded, config=config)
    assert tuned.model.dtype_name == "bfloat16"
    assert tuned.losses[-1] < 0.3 * tuned.losses[0]


def test_only_labelled_examples_are_trained_on():
    dataset, loaded = reviews(), tiny_loaded("llama")
    kept = np.flatnonzero(LABELS >= 0)
    whole = fine_tune(dataset, LABELS, model=loaded, config=QUICK)
    part = fine_tune(dataset.subset(kept), LABELS[kept], model=loaded, config=QUICK)
    assert same(bits(whole.model), bits(part.model))


def test_every_row_stands_once_in_every_epoch_beside_rows_of_its_length():
    lengths = [int(n) for n in np.random.default_rng(0).integers(5, 60, 100)]
    batches = order_batches(lengths, epochs=3, batch_size=8, seed=4)
    per_epoch = len(batches) // 3
    for epoch in range(3):
        rows = [row for b in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for row in b]
        assert sorted(rows) == list(range(100))
    padded = sum(max(lengths[r] for r in b) * len(b) for b in batches)
    assert padded < 1.15 * 3 * sum(lengths)
    assert batches[:per_epoch] != batches[per_epoch : 2 * per_epoch]
    assert batches == order_batches(lengths, epochs=3, batch_size=8, seed=4)
    assert batches != order_batches(lengths, epochs=3, batch_size=8, seed=5)


def test_progress_hears_of_every_step():
    shown = Listener()
    tuned = fine_tune(
        reviews(),
        LABELS,
        model=tiny_loaded("llama"),
        config=QUICK,
        progress=shown,
    )
    steps = [TrainingStep(k + 1, 4, "loss", loss) for k, loss in enumerate(tuned.losses)]
    assert shown.states == steps
    assert steps[0].describe() == f"step 1 of 4, loss {tuned.losses[0]:.3f}"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_finished_folder_is_loaded_and_is_a_model(method, tmp_path):
    loaded = tiny_loaded("llama")
    base = tmp_path / "base"
    loaded.model.save_pretrained(base)
    loaded.tokenizer.save_pretrained(base)
    loaded = load_model(str(base), dtype="float32")
    config = TuningConfig(method=method, epochs=1, learning_rate=0.01)
    folder = tmp_path / "tuned"
    first = fine_tune(reviews(), LABELS, model=loaded, config=config, output_dir=folder)

    def must_not_train(*_):
        pytest.fail("a finished fine-tuning was trained again")

    again = fine_tune(
        reviews(),
        LABELS,
        model=loaded,
        config=config,
        output_dir=folder,
        progress=Listener(must_not_train),
    )
    content = {".lock", "tuning.json", "steps.jsonl", "adapter" if method == "lora" else "model"}
    assert {path.name for path in folder.iterdir()} == content
    by_name = load_model(str(folder), dtype="float32")
    assert again.losses == first.losses
    assert again.seconds == first.seconds
    assert first.model.fingerprint == again.model.fingerprint == by_name.fingerprint
    assert by_name.fingerprint != loaded.fingerprint
    assert by_name.name == first.model.name == str(folder)
    scores = [many_shot(None, None, reviews(), model=m).scores for m in (first.model, by_name)]
    assert np.array_equal(*scores)
    record = json.loads((folder / "tuning.json").read_text())
    assert record["losses"] == list(first.losses)
    assert {"trl", "peft", "torch"} <= record["versions"].keys()


def test_a_tuned_model_can_be_tuned_again(tmp_path):
    loaded = tiny_loaded("llama")
    once = fine_tune(reviews(), LABELS, model=loaded, config=QUICK)
    twice = fine_tune(reviews(), LABELS, model=once.model, config=QUICK)
    assert twice.losses[0] < once.losses[0]


def test_memory_of_the_base_is_shared_and_not_written(tmp_path):
    loaded = tiny_loaded("llama")
    fine_tune(reviews(), LABELS, model=loaded, config=QUICK, output_dir=tmp_path / "t")
    merged = merge_adapter(loaded, tmp_path / "t" / "adapter", "merged")
    pairs = {name: p.data_ptr() for name, p in loaded.model.named_parameters()}
    shared = {n for n, p in merged.model.named_parameters() if p.data_ptr() == pairs[n]}
    assert any("embed_tokens" in name for name in shared)
    assert not any("proj" in name for name in shared)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"method": "lorra"}, "did you mean 'lora'"),
        ({"epochs": 0}, "epochs = 0 is outside 1"),
        ({"epochs": 1.5}, "epochs must be an integer"),
        ({"learning_rate": float("nan")}, "learning_rate = nan is outside"),
        ({"batch_size": "8"}, "batch_size must be a number"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing must be true or false"),
        ({"method": "full", "dtype": "bfloat16"}, "loses small updates to rounding"),
        ({"seed": -1}, "seed = -1 is outside"),
    ],
)
def test_bad_settings_are_refused(settings, text):
    with pytest.raises(InputError, match=text):
        TuningConfig(**settings)


def test_settings_come_from_a_mapping():
    assert TuningConfig.from_mapping({"rank": 4}) == TuningConfig(rank=4)
    assert TuningConfig.from_mapping(TuningConfig().to_dict()) == TuningConfig()
    assert TuningConfig(method="full").learning_rate == 2e-5
    with pytest.raises(InputError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        TuningConfig.from_mapping({"epoch": 1})


def test_bad_input_is_refused():
    dataset, loaded = reviews(), tiny_loaded("llama")
    with pytest.raises(InputError, match="none of the 8 examples is labelled"):
        fine_tune(dataset, np.full(8, -1), model=loaded)
    with pytest.raises(InputError, match=r"label 2 of example 'r0' \(row 0\) is outside"):
        fine_tune(dataset, np.full(8, 2), model=loaded)
    short = tiny_loaded("llama", max_position_embeddings=8)
    with pytest.raises(InputError, match=r"the longest training text has .* the model takes 8"):
        fine_tune(dataset, LABELS, model=short)


def test_a_loss_that_is_no_number_stops_with_the_fix():
    loaded = tiny_loaded("llama")
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[:] = float("inf")
    with pytest.raises(InputError, match="the loss of step 1 is nan; lower learning_rate"):
        fine_tune(reviews(), LABELS, model=loaded, config=QUICK)


@pytest.mark.parametrize("package", ["trl", "peft", "datasets"])
def test_missing_packages_are_named(package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*pip install 'icm-fast\[train\]'"):
        fine_tune(reviews(), LABELS, model=tiny_loaded("llama"), config=QUICK)


@pytest.mark.parametrize("bos", [False, True])
def test_plain_texts_bear_loss_from_their_first_token_to_their_end(bos):
    loaded = tiny_loaded("llama", bos=bos)
    tokenizer = loaded.tokenizer
    (text,) = plain_texts(["A fine film"], tokenizer)
    ids = tokenizer("A fine film", add_special_tokens=False)["input_ids"]
    start = [tokenizer.bos_token_id] if bos else []
    assert list(text.ids) == [*start, *ids, tokenizer.eos_token_id]
    assert text.n_loss == len(text.ids) - 1


@pytest.mark.parametrize("texts", [[], ["fine", ""]])
def test_plain_texts_need_something_to_learn(texts):
    with pytest.raises(InputError, match=r"no texts to train on|text 1 is '', which holds nothing"):
        plain_texts(texts, tiny_loaded("llama").tokenizer)


def test_loss_of_plain_texts_is_that_of_language_models():
    loaded = tiny_loaded("llama", bos=True)
    texts = ["A fine film", "Dull", "Long, and then longer still"]
    config = TuningConfig(epochs=1, batch_size=3, dtype="float32")
    first = fine_tune_texts(texts, model=loaded, config=config).losses[0]
    terms = []
    for text in plain_texts(texts, loaded.tokenizer):
        ids = torch.tensor([text.ids])
        logits = loaded.model(input_ids=ids).logits[0, :-1].detach().double()
        terms += list(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    assert first == pytest.approx(float(torch.stack(terms).mean()), abs=1e-5)


def test_a_model_learns_texts_and_goes_on_from_a_folder(tmp_path):
    loaded = tiny_loaded("llama")
    texts = ["A fine film", "Dull"]
    config = TuningConfig(epochs=40, batch_size=2, learning_rate=0.02, dtype="float32")
    tuned = fine_tune_texts(texts, model=loaded, config=config, output_dir=tmp_path / "a")
    assert tuned.losses[-1] < 0.5 * tuned.losses[0]
    assert (tuned.n_examples, len(tuned.losses)) == (2, 40)
    again = fine_tune_texts(texts, model=loaded, config=config, output_dir=tmp_path / "a")
    assert same(bits(again.model), bits(tuned.model))
    with pytest.raises(InputError, match="holds a different fine-tuning"):
        fine_tune_texts(texts[::-1], model=loaded, config=config, output_dir=tmp_path / "a")
