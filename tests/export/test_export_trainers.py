"""One step of trl's trainers on exported files, with tiny random models."""

import copy

import pytest
import torch
from export_cases import claims_run, pairs_run
from transformers import AutoModelForSequenceClassification

from icm_fast.export.tables import export_run
from icm_fast.model.adapters import foreign_code
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.training.sft.texts import training_texts
from tiny_models import (
    byte_tokenizer,
    one_thread,  # noqa: F401 - in force by its import
    tiny_model,
)

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def settings(folder):
    return {
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "max_length": None,
    }


def load(run, format, folder):
    import datasets

    export_run(run, format, folder / "a.jsonl")
    return datasets.load_dataset(
        "json",
        data_files=str(folder / "a.jsonl"),
        split="train",
        cache_dir=str(folder / "cache"),
    )


def step(trainer):
    """Train one step; tell the loss and whether it changed the weights."""
    before = [p.detach().clone() for p in trainer.model.parameters()]
    loss = trainer.train().training_loss
    after = trainer.model.parameters()
    return loss, any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.fixture
def tokenizer():
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_sft_trains_on_the_tokens_that_scoring_reads(tmp_path, tokenizer):
    run = claims_run(tmp_path)
    with foreign_code():
        import trl

        trainer = trl.SFTTrainer(
            model=tiny_model("llama"),
            args=trl.SFTConfig(**settings(tmp_path)),
            train_dataset=load(run, "trl-sft", tmp_path),
            processing_class=tokenizer,
        )
        rows = [trainer.data_collator([row]) for row in trainer.train_dataset]
        loss, changed = step(trainer)
    pieces = tokenize_dataset(run.dataset, tokenizer)
    texts = training_texts(pieces, label_tree(pieces), run.labels)
    assert len(rows) == len(texts)
    for row, text in zip(rows, texts, strict=True):
        # trl closes a completion by the end of the text, which scoring does not.
        assert row["input_ids"][0].tolist() == [*text.ids, tokenizer.eos_token_id]
        assert int((row["labels"] != -100).sum()) == text.n_loss + 1
    assert loss > 0
    assert changed


@pytest.mark.parametrize("format", ["trl-preference", "dpo"])
def test_dpo_trainer(tmp_path, tokenizer, format):
    run = pairs_run(tmp_path)
    with foreign_code():
        import trl

        trainer = trl.DPOTrainer(
            model=tiny_model("llama"),
            ref_model=tiny_model("llama"),  # trl would look for it by the name of the model
            args=trl.DPOConfig(**settings(tmp_path)),
            train_dataset=load(run, format, tmp_path),
            processing_class=tokenizer,
        )
        row = trainer.train_dataset[0]
        loss, changed = step(trainer)
    prompt, chosen = (tokenizer.decode(row[k]) for k in ("prompt_ids", "chosen_ids"))
    if format == "dpo":
        assert (prompt, chosen) == ("<user>Why?\n<assistant>", "answer 0a\nin two lines\n")
    else:
        assert (prompt, chosen) == (
            "Human: Why?\n\nAssistant:",
            " answer 0a\nin two lines</s>",
        )
    # Before the first step policy and reference agree: the loss is that of a fair coin.
    assert loss == pytest.approx(0.6931, abs=1e-3)
    assert changed


@pytest.mark.parametrize("format", ["trl-preference", "dpo"])
def test_reward_trainer(tmp_path, tokenizer, format):
    run = pairs_run(tmp_path)
    config = tiny_model("llama").config
    config.num_labels = 1
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with foreign_code():
        import trl

        trainer = trl.RewardTrainer(
            model=model,
            args=trl.RewardConfig(**settings(tmp_path)),
            train_dataset=load(run, format, tmp_path),
            processing_class=tokenizer,
        )
        row = trainer.train_dataset[0]
        loss, changed = step(trainer)
    text = tokenizer.decode(row["chosen_ids"])
    if format == "dpo":
        assert text == "<user>Why?\n<assistant>answer 0a\nin two lines\n"
    else:
        assert text == "Human: Why?\n\nAssistant: answer 0a\nin two lines</s>"
    assert loss > 0
    assert changed
