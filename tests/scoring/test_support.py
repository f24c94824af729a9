"""What shares prefixes is checked; what does not is refused with the way out, never wrong."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model import ModelRunner, load_model
from icm_fast.model.forward.attention import IMPLEMENTATION, tree_attention_enabled
from icm_fast.model.forward.generic import GenericForward
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.support import VERIFIED_FAMILIES, probe_difference, require_exact_sharing
from reference import reference_leave_one_out
from tiny_models import (
    FAMILIES,
    UNLISTED,
    WINDOW,
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
    tiny_model,
)

TREE, NAIVE = SearchConfig(), SearchConfig(scorer="naive")


def refusal(loaded, config=TREE, n=8):
    with pytest.raises(InputError) as caught:
        make_scorer(loaded, reviews(n=n), config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def worst_difference(loaded, config):
    dataset = reviews(n=6)
    labels = mixed_labels(dataset)
    scorer = make_scorer(loaded, dataset, config)
    oracle = reference_leave_one_out(
        dataset,
        labels,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        orders=scorer.plan(labels).contexts,
    )
    return float(np.abs(scorer.score(labels).scores - oracle).max())


def tiny_mamba():
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "mamba", vocab_size=420, hidden_size=32, num_hidden_layers=2, state_size=8, pad_token_id=0
    )
    return load_model((AutoModelForCausalLM.from_config(config).eval(), byte_tokenizer()))


def tiny_longrope(original, **changes):
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": original,
        "partial_rotary_factor": 1.0,
    }
    settings = {"rope_parameters": rope, "original_max_position_embeddings": original}
    return tiny_loaded("phi3", **settings, **changes)


def test_the_tests_hold_every_verified_family():
    assert set(FAMILIES) == VERIFIED_FAMILIES


@pytest.mark.parametrize("family", UNLISTED)
def test_ordinary_family_passes_the_probe_and_scores_exactly(family):
    loaded = tiny_loaded(family)
    assert loaded.model.config.model_type not in VERIFIED_FAMILIES
    assert probe_difference(loaded, ModelRunner(loaded)) < 1e-4
    assert worst_difference(loaded, TREE) <= 1e-4
    assert worst_difference(loaded, NAIVE) <= 1e-4


def test_state_space_model_is_refused_and_the_naive_scorer_takes_it():
    loaded = tiny_mamba()
    message = refusal(loaded)
    assert "'mamba' can't share prefixes" in message
    assert "scorer='naive'" in message
    assert worst_difference(loaded, NAIVE) <= 1e-4


def test_model_with_an_attention_of_its_own_is_refused():
    """BLOOM never calls ours; with small weights its probe alone would not tell."""
    torch.manual_seed(3)
    config = AutoConfig.for_model("bloom", vocab_size=420, hidden_size=32, n_layer=2, n_head=4)
    loaded = load_model((AutoModelForCausalLM.from_config(config).eval(), byte_tokenizer()))
    message = refusal(loaded)
    assert "0 of its 2 layers use the attention function" in message
    assert "scorer='naive'" in message


def test_probe_takes_weights_that_are_being_trained():
    loaded = tiny_loaded("olmo2")
    loaded.model.requires_grad_(True)
    scores = make_scorer(loaded, reviews(), TREE).score(mixed_labels(reviews())).scores
    assert np.isfinite(scores).all()


def test_window_that_never_reaches_the_attention_is_refused(monkeypatch):
    """The probe's contexts are shorter than most windows, so their values are compared."""
    loaded = tiny_loaded("starcoder2", sliding_window=200)
    make_scorer(loaded, reviews(), TREE)
    for layer in loaded.model.model.layers:
        monkeypatch.setattr(layer.self_attn.config, "sliding_window", 200)
    run = GenericForward.run

    def forgetting_windows(self, batch):
        hidden = run(self, batch)
        self.windows = dict.fromkeys(self.windows)
        return hidden

    monkeypatch.setattr(GenericForward, "run", forgetting_windows)
    assert "do not pass their sliding window" in refusal(loaded)


def test_layers_of_another_kind_are_refused(monkeypatch):
    loaded = tiny_loaded("olmo2")
    monkeypatch.setattr(
        loaded.model.config, "layer_types", ["chunked_attention"] * 2, raising=False
    )
    assert "layers of type 'chunked_attention'" in refusal(loaded)


def test_logits_of_its_own_making_are_refused_by_both_scorers(monkeypatch):
    loaded = tiny_loaded("olmo2")
    forward = type(loaded.model).forward

    def tripled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * 3
        return output

    monkeypatch.setattr(type(loaded.model), "forward", tripled)
    for config in (TREE, NAIVE):
        assert "can't be scored: its logits differ by" in refusal(loaded, config)


def test_failing_forward_pass_is_one_line(monkeypatch):
    loaded = tiny_loaded("olmo2")

    def fail(self, *args, **kwargs):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(type(loaded.model), "forward", fail)
    assert "RuntimeError: first" in refusal(loaded, NAIVE)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": None}),
        ("gemma2", {"sliding_window": 500}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma3_text", {"sliding_window": 500}),
    ],
)
def test_windows_and_caps_change_the_scores(family, changes):
    """So the families' equality tests would notice one that is left out."""
    dataset = reviews(n=6)
    labels = mixed_labels(dataset)
    with_it, without = (
        make_scorer(loaded, dataset, TREE).score(labels).scores
        for loaded in (tiny_loaded(family), tiny_loaded(family, **changes))
    )
    assert np.abs(with_it - without).max() > 1e-2
    assert make_scorer(tiny_loaded(family), dataset, TREE).plan(labels).tree.start.max() > WINDOW


def test_longrope_below_its_original_length_is_exact():
    assert worst_difference(tiny_longrope(400), TREE) <= 1e-4


def test_longrope_above_its_original_length_is_refused():
    loaded = tiny_longrope(30)
    message = refusal(loaded)
    assert "longrope positions depend on the length of contexts above 30 tokens" in message
    assert "scorer='naive'" in message
    assert worst_difference(loaded, NAIVE) <= 1e-4


def test_longrope_is_checked_by_the_plan_where_the_caller_sets_the_limit():
    loaded = tiny_longrope(30)
    scorer = make_scorer(loaded, reviews(), SearchConfig(context_limit=400))
    few = mixed_labels(reviews(), unlabelled=tuple(range(1, 8)))
    assert np.isfinite(scorer.score(few).scores).all()
    with pytest.raises(InputError, match="above 30 tokens"):
        scorer.score(mixed_labels(reviews(), ()))


def test_longrope_would_be_wrong_above_its_original_length(monkeypatch):
    """The refusal is needed."""
    monkeypatch.setattr("icm_fast.scoring.factory.require_exact_sharing", lambda *_: None)
    monkeypatch.setattr("icm_fast.scoring.local.require_exact_sharing", lambda *_: None)
    assert worst_difference(tiny_longrope(44), TREE) > 1e-3


def test_dynamic_positions():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    loaded = tiny_loaded("llama", rope_parameters=rope, max_position_embeddings=150)
    require_exact_sharing(loaded, 150)
    with pytest.raises(InputError, match=r"dynamic positions .* above 150 tokens, and these have"):
        require_exact_sharing(loaded, 151)


def test_ordinary_positions_have_no_limit():
    for family in FAMILIES:
        assert require_exact_sharing(tiny_loaded(family), 10**9) is None  # no InputError


def test_attention_is_switched_back_even_after_an_error():
    model = tiny_model("gemma3_text")
    before = model.config._attn_implementation
    with tree_attention_enabled(model):
        assert model.config._attn_implementation == IMPLEMENTATION
    with pytest.raises(ValueError, match="exactly one of"), tree_attention_enabled(model):
        model()
    assert model.config._attn_implementation == before != IMPLEMENTATION


def test_tree_attention_outside_the_runner_is_an_error():
    model = tiny_model("llama")
    with tree_attention_enabled(model), pytest.raises(RuntimeError, match=r"ModelRunner"):
        model(input_ids=torch.tensor([[1, 2]]))
