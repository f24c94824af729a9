"""Judges and policies of no time at all, for the tests of this folder."""

from pathlib import Path

import numpy as np
import torch

from icm_fast.training.reward.model import RewardModel, as_reward_model
from icm_fast.training.reward.network import reward_network
from tiny_models import tiny_loaded

PROMPTS = ("Why is it dull?", "Who is in the cast?", "How does it end?", "Is it long?")


def random_judge():
    """A real reward model whose head is random."""
    base = tiny_loaded("llama", bos=True)
    network = reward_network(base, base.model.dtype, share=True)
    torch.nn.init.normal_(network.score.weight, generator=torch.Generator().manual_seed(3))
    return as_reward_model("random", network, base.tokenizer, "plain")


def judge_of(score):
    """A reward model with the rewards that a function gives to a list of texts."""

    class Judge(RewardModel):
        __slots__ = ()

        def score(self, texts, *, batch_size=16):
            return np.array(score(texts), np.float32)

    plain = random_judge()
    return Judge(*(getattr(plain, name) for name in RewardModel.__dataclass_fields__))


def policy(seed_size, ends=()):
    """A random policy; ``ends`` are more tokens that end its texts."""
    loaded = tiny_loaded("llama", initializer_range=seed_size)
    loaded.model.generation_config.eos_token_id = [2, *ends]
    return loaded


def stable_files(folder: Path) -> dict[str, bytes]:
    """All that is the same however often a run was interrupted; times and folders are left out."""
    timed = {"tuning.json", "reward.json", "summary.json", "events.jsonl", "config.yaml"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in timed
        and "evaluations" not in path.name
        # These name the folder.
        and not ("-against-" in path.name and path.suffix in (".json", ".md"))
    }
