"""Reward models from found labels (needs ``pip install 'icm-fast[train]'``)."""

from icm_fast.training.reward.config import RewardConfig
from icm_fast.training.reward.evaluation import (
    RewardEvaluation,
    evaluate_reward,
    evaluate_reward_file,
)
from icm_fast.training.reward.model import RewardModel, load_reward_model
from icm_fast.training.reward.pairs import Pair, PairSet, read_pairs
from icm_fast.training.reward.rewardbench2 import RewardBench2Evaluation
from icm_fast.training.reward.run_pairs import pairs_of_labels, pairs_of_run
from icm_fast.training.reward.text import reward_text
from icm_fast.training.reward.train import TrainedReward, train_reward
from icm_fast.training.reward.two_stage import TwoStage, two_stage

__all__ = [
    "Pair",
    "PairSet",
    "RewardBench2Evaluation",
    "RewardConfig",
    "RewardEvaluation",
    "RewardModel",
    "TrainedReward",
    "TwoStage",
    "evaluate_reward",
    "evaluate_reward_file",
    "load_reward_model",
    "pairs_of_labels",
    "pairs_of_run",
    "read_pairs",
    "reward_text",
    "train_reward",
    "two_stage",
]
