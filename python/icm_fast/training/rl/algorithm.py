"""Every argument of trl's GRPO and RLOO that decides what is learned, set here and nowhere else.

trl changes defaults between its versions: of the same command, one version would then train
another policy than the next. So each argument is either set here, whatever its default, or named as
one that has no part in the loss; a test asserts that the installed trl has no further ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from transformers import PreTrainedModel

from icm_fast.training.rl.config import PolicyConfig

OPTIMISER: Mapping[str, object] = {
    "optim": "adamw_torch_fused",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
}
"""Arguments of every trainer of transformers, at the values of transformers 5."""

_SAMPLING: Mapping[str, object] = {
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "pad_to_multiple_of": None,
    "shuffle_dataset": False,
    # Otherwise a base with dropout would sample as one policy and learn as another.
    "disable_dropout": True,
}

_OFF_GRPO: Mapping[str, object] = {
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "cast_lm_head_to_fp32": False,
    "multi_objective_aggregation": "sum_then_normalize",
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
}
_OFF: Mapping[str, object] = {
    "reward_weights": None,
    "sync_ref_model": False,
    "use_vllm": False,
    "use_transformers_paged": False,
    "use_transformers_continuous_batching": False,
}
"""What is not used, of both."""

NO_PART_IN_THE_LOSS = frozenset(
    (
        # How it is generated and computed, or shown.
        *("model_init_kwargs", "trust_remote_code", "cache_implementation", "chat_template_kwargs"),
        *("generation_batch_size", "steps_per_generation", "num_generations_eval"),
        *("ds3_gather_for_generation", "transformers_continuous_batching_config"),
        *("log_completions", "log_multimodal", "num_completions_to_print", "log_unique_prompts"),
        *("log_completions_hub_repo", "max_tool_calling_iterations"),
        # Of losses, of adaptive entropy and of a moving reference, all of which are off.
        *("sapo_temperature_neg", "sapo_temperature_pos"),
        *("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
        *("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
        *("ref_model_mixup_alpha", "ref_model_sync_steps"),
    )
)
"""Arguments that are left at trl's defaults; those of vLLM, which is off, begin with ``vllm_``."""

PACKAGES = ("trl", "transformers", "peft", "torch")
"""Whose versions decide what is learned; an unfinished training resumes only with the same ones."""


def algorithm_arguments(config: PolicyConfig, model: PreTrainedModel) -> dict[str, object]:
    """Arguments of ``GRPOConfig`` or ``RLOOConfig`` that decide what is learned.

    Args:
        config: Settings.
        model: The policy, for its coefficient of the router loss.

    Returns:
        Plain JSON types, by names of trl; they are part of a training's identity.
    """
    shared = {
        **OPTIMISER,
        **_SAMPLING,
        **_OFF,
        "num_generations": config.group_size,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        # With a weight of 0 trl leaves out the divergence, also from what it reports.
        "beta": config.kl_weight,
        "num_iterations": config.num_iterations,
        "epsilon": config.epsilon,
        "epsilon_high": config.epsilon_high,
        "mask_truncated_completions": config.mask_truncated_completions,
        "router_aux_loss_coef": router_weight(model),
    }
    if config.algorithm == "rloo":
        return {
            **shared,
            "normalize_advantages": config.scale_rewards == "batch",
            "reward_clip_range": None,
        }
    return {
        **shared,
        **_OFF_GRPO,
        "loss_type": config.loss_type,
        "scale_rewards": config.scale_rewards,
        "delta": config.delta,
        "importance_sampling_level": config.importance_sampling_level,
        "use_bias_correction_kl": config.use_bias_correction_kl,
    }


def router_weight(model: PreTrainedModel) -> float | None:
    """The weight of the loss that balances experts, as the model declares it; None without one."""
    text = model.config.get_text_config()
    if not hasattr(text, "output_router_logits"):
        return None
    return float(getattr(text, "router_aux_loss_coef", 0.0))


def known_arguments(kind: type, arguments: Mapping[str, object]) -> dict[str, object]:
    """Those of ``arguments`` that the installed trl has.

    An earlier trl lacks some that are off here; without ``router_aux_loss_coef`` it has no router
    loss, which is why versions are part of the identity.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in arguments.items() if name in names}
