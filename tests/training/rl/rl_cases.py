"""A reward model that likes one word, and a training of seconds against it."""

import torch

from icm_fast.training.reward import Pair, RewardConfig, train_reward
from icm_fast.training.rl import PolicyConfig, train_policy
from tiny_models import tiny_loaded

PROMPTS = tuple(f"What of film {k}?" for k in range(14))
CONFIG = PolicyConfig(
    steps=6,
    batch_size=2,
    group_size=4,
    micro_batch_size=4,
    max_new_tokens=6,
    n_held_out=4,
    eval_steps=3,
    sample_steps=2,
    save_steps=2,
    learning_rate=0.01,
    dtype="float32",
)

KILLED = {"kl_target": 0.01, "format": "chat", "num_iterations": 2, "save_steps": 1}
"""Of a training that is killed; its passes are two for each update."""


def reward_model(folder=None):
    """Trained on pairs whose better text holds ``great``."""
    return reward_model_of(tiny_loaded("llama"), folder)


def reward_model_of(model, folder=None):
    """The same of any model, perhaps by its name."""
    pairs = [Pair(prompt, f"great cast {k}", f"dull {k}") for k, prompt in enumerate(PROMPTS * 2)]
    config = RewardConfig(epochs=4, batch_size=4, learning_rate=0.01, dtype="float32")
    return train_reward(pairs, model=model, config=config, output_dir=folder).model


def train(folder=None, progress=None, reward=None, prompts=PROMPTS, loaded=None, **changes):
    torch.set_num_threads(1)
    return train_policy(
        prompts,
        model=loaded or tiny_loaded("llama"),
        reward=reward or reward_model(),
        config=PolicyConfig(**{**CONFIG.to_dict(), **changes}),
        output_dir=folder,
        progress=progress,
    )
