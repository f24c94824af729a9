"""Policies: what they write, and which of two a judge prefers."""

from icm_fast.training.rl.config import PolicyConfig
from icm_fast.training.rl.generation import Continuation, generate, mean_nll, token_logprobs
from icm_fast.training.rl.head_to_head import Written, evaluate_policies
from icm_fast.training.rl.outcome import HeadToHead, write_head_to_head
from icm_fast.training.rl.prompts import PromptSet, judged_text, policy_text, read_prompts
from icm_fast.training.rl.train import TrainedPolicy, train_policy

__all__ = [
    "Continuation",
    "HeadToHead",
    "PolicyConfig",
    "PromptSet",
    "TrainedPolicy",
    "Written",
    "evaluate_policies",
    "generate",
    "judged_text",
    "mean_nll",
    "policy_text",
    "read_prompts",
    "token_logprobs",
    "train_policy",
    "write_head_to_head",
]
