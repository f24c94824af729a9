"""Which layers get adapters: of mixtures of experts, and of models that see images."""

import json

import torch
import trl
from transformers import AutoConfig, AutoModelForCausalLM

from icm_fast.model import load_model
from icm_fast.model.adapters import foreign_code
from icm_fast.training.adapted import adapter_figures, outside_text
from icm_fast.training.config import TuningConfig
from icm_fast.training.reward.network import reward_network
from icm_fast.training.rl import PolicyConfig, train_policy
from icm_fast.training.sft import fine_tune_texts
from icm_fast.training.steps import lora_config
from listeners import Listener
from policy_cases import PROMPTS, random_judge
from tiny_models import REVIEWS, byte_tokenizer, one_thread, tiny_loaded, tiny_model  # noqa: F401

ATTENTION = {"k_proj": 2, "o_proj": 2, "q_proj": 2, "v_proj": 2}
MLP = {"down_proj": 2, "gate_proj": 2, "up_proj": 2}
EXPERTS = {"down_proj": 2, "gate": 2, "gate_up_proj": 2}


def seeing():
    """A tiny model with a tower for images."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    text = {
        **sizes,
        "vocab_size": 420,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
    }
    vision = {**sizes, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4
    )
    return AutoModelForCausalLM.from_config(config).eval()


def figures(model, task="CAUSAL_LM"):
    from peft import get_peft_model

    config = TuningConfig(rank=2)
    with foreign_code():
        return adapter_figures(get_peft_model(model, lora_config(config, task, model)))


def test_every_linear_layer_of_a_plain_model_gets_adapters():
    model = tiny_model("llama")
    assert outside_text(model) == []
    found = figures(model)
    assert found["adapted"] == dict(sorted({**ATTENTION, **MLP}.items()))
    assert found["not_adapted"] == {}
    # rank 2: of each layer 2 * (inputs + outputs)
    attention = 2 * (64 + 48 + 48 + 64)
    assert found["n_trained"] == 2 * (attention + 3 * 2 * (32 + 48))


def test_of_experts_and_routers_it_is_said_what_peft_does_with_them():
    found = figures(tiny_model("gpt_oss"))
    assert found["adapted"] == ATTENTION
    assert found["not_adapted"] == {"down_proj": 2, "gate_up_proj": 2, "router": 2}


def test_experts_that_peft_adapts_are_named():
    """peft 0.21 adapts those of Mixtral, 0.18 does not."""
    found = figures(tiny_model("mixtral", num_local_experts=2))
    assert found["adapted"].items() >= ATTENTION.items()
    rest = found["adapted"].keys() - ATTENTION.keys()
    assert rest in (set(), set(EXPERTS))
    assert found["not_adapted"] == ({} if rest else EXPERTS)


def test_towers_of_images_get_no_adapters():
    model = seeing()
    assert any("vision_tower" in name for name in outside_text(model))
    assert not any("language_model" in name for name in outside_text(model))
    found = figures(model)
    assert found["adapted"] == dict(sorted({**ATTENTION, **MLP}.items()))
    assert found["not_adapted"] == {}


def test_reward_models_adapt_the_same_layers():
    network = reward_network(tiny_loaded("llama"), torch.float32, share=True)
    assert figures(network, "SEQ_CLS")["adapted"] == dict(sorted({**ATTENTION, **MLP}.items()))


def test_a_mixture_whose_experts_have_adapters_is_merged(tmp_path):
    loaded = load_model((tiny_model("mixtral", num_local_experts=2), byte_tokenizer()))
    config = TuningConfig(epochs=1, learning_rate=0.01, dtype="float32")
    tuned = fine_tune_texts(REVIEWS, model=loaded, config=config, output_dir=tmp_path)
    content = json.loads((tmp_path / "tuning.json").read_text())
    assert {**content["adapted"], **content["not_adapted"]} == {**ATTENTION, **EXPERTS}
    before, after = loaded.model.state_dict(), tuned.model.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = content["adapted"]
    assert {name.removesuffix(".weight").rpartition(".")[2] for name in changed} == set(adapted)


def test_it_is_recorded_and_told(tmp_path):
    loaded = load_model((tiny_model("gpt_oss"), byte_tokenizer()))
    told, warned = Listener(), []
    told.warn = warned.append
    policy = train_policy(
        PROMPTS,
        model=loaded,
        reward=random_judge(),
        config=PolicyConfig(
            steps=1, batch_size=2, max_new_tokens=4, n_held_out=0, warmup=0.0, dtype="float32"
        ),
        output_dir=tmp_path,
        progress=told,
    )
    router = policy.log.steps[0]["router_loss"]
    assert (router is not None) == ("router_aux_loss_coef" in trl.GRPOConfig.__dataclass_fields__)
    content = json.loads((tmp_path / "tuning.json").read_text())
    assert content["adapted"] == ATTENTION
    assert content["n_trained"] > 0
    assert warned == [
        "adapters are on 2 k_proj, 2 o_proj, 2 q_proj, 2 v_proj; 2 down_proj, 2 gate_up_proj, "
        "2 router have none and stay as they are"
    ]
