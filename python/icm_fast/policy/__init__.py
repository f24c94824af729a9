"""Policies: what they write, and which of two a judge prefers."""

from icm_fast.policy.config import PolicyConfig
from icm_fast.policy.generation import Continuation, generate, mean_nll, token_logprobs
from icm_fast.policy.head_to_head import evaluate_policies
from icm_fast.policy.outcome import HeadToHead, write_head_to_head
from icm_fast.policy.prompts import PromptSet, judged_text, policy_text, read_prompts
from icm_fast.policy.training import TrainedPolicy, train_policy

__all__ = [
    "Continuation",
    "HeadToHead",
    "PolicyConfig",
    "PromptSet",
    "TrainedPolicy",
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
