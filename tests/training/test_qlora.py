"""Adapters on a base in 4 bits, end to end; bits are not promised there."""

import sys

import numpy as np
import pytest
import torch

from icm_fast import InputError
from icm_fast.evaluation.many_shot import many_shot
from icm_fast.model import load_model
from icm_fast.model.quantised import import_bitsandbytes
from icm_fast.training.dpo import DpoConfig, train
from icm_fast.training.publish import merge
from icm_fast.training.reward import Pair, RewardConfig, load_reward_model, train_reward
from icm_fast.training.sft import TuningConfig, fine_tune
from tiny_models import one_thread, reviews, tiny_loaded  # noqa: F401 - in force by its import

LABELS = np.array([0, 1, -1, 0, 1, -1, 1, 0], np.int32)
PAIRS = [Pair(f"Film {k}?", f"great {k}", f"dull {k}") for k in range(6)]
QUICK = {"epochs": 4, "batch_size": 4, "learning_rate": 0.02, "dtype": "float32"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    loaded = tiny_loaded("llama", hidden_size=64, intermediate_size=128, head_dim=16)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def in_4_bits(base):
    return load_model(str(base), dtype="float32", device="cpu", quantization="nf4")


def test_a_fine_tuning_in_4_bits(base, tmp_path, capfd):
    pytest.importorskip("bitsandbytes")
    config = TuningConfig(quantization="nf4", micro_batch_size=2, **QUICK)
    tuned = fine_tune(
        reviews(), LABELS, model=in_4_bits(base), config=config, output_dir=tmp_path / "tuned"
    )
    assert "kernels-community" not in capfd.readouterr().err
    assert tuned.losses[-1] < 0.5 * tuned.losses[0]
    layer = tuned.model.model.model.layers[0].self_attn.q_proj
    assert layer.base_layer.weight.dtype == torch.uint8
    assert all(
        p.dtype == torch.float32 for n, p in tuned.model.model.named_parameters() if "lora" in n
    )
    again = load_model(str(tmp_path / "tuned"), dtype="float32", device="cpu")
    scores = [many_shot(None, None, reviews(), model=m).scores for m in (tuned.model, again)]
    assert np.allclose(*scores, atol=1e-4)
    plain = many_shot(None, None, reviews(), model=load_model(str(base), dtype="float32")).scores
    assert np.abs(scores[0] - plain).max() > 0.1
    done = merge(tmp_path / "tuned", tmp_path / "whole", dtype="float32")
    whole = load_model(str(done.folder), dtype="float32")
    assert whole.model.model.layers[0].self_attn.q_proj.weight.dtype == torch.float32
    merged = many_shot(None, None, reviews(), model=whole).scores
    agree = (merged.argmax(1) == scores[0].argmax(1)).mean()
    assert agree >= 0.75  # what was learned in 4 bits, the whole model knows


def test_a_reward_model_and_dpo_in_4_bits(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = RewardConfig(quantization="nf4", **QUICK)
    trained = train_reward(PAIRS, model=in_4_bits(base), config=config, output_dir=tmp_path / "rm")
    assert trained.losses[-1] < trained.losses[0]
    values = load_reward_model(tmp_path / "rm", dtype="float32").score_pairs(PAIRS)
    assert np.allclose(values, trained.model.score_pairs(PAIRS), atol=1e-4)
    preferred = train(PAIRS, model=str(base), config=DpoConfig(quantization="fp4", **QUICK))
    assert preferred.losses[-1] < preferred.losses[0]


def test_what_cannot_be_quantised_is_said(base, monkeypatch):
    config = TuningConfig(quantization="nf4", **QUICK)
    with pytest.raises(InputError, match="this one is loaded already; pass its name"):
        fine_tune(reviews(), LABELS, model=tiny_loaded("llama"), config=config)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r"needs bitsandbytes .* pip install 'bitsandbytes>=0.46'"):
        fine_tune(reviews(), LABELS, model=str(base), config=config)


def test_bitsandbytes_fetches_no_kernel(monkeypatch):
    """Its import looks for a package through which it would run code from the hub."""
    seen = []
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(
        "importlib.import_module", lambda name: seen.append((name, sys.modules["kernels"]))
    )
    before = sys.modules.get("kernels")
    import_bitsandbytes("nf4")
    assert seen == [("bitsandbytes", None)]
    assert sys.modules.get("kernels") is before
