"""A trained reward model: texts to rewards; loading one from the folder of its training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icm_fast.errors import InputError, first_line
from icm_fast.files import expanded
from icm_fast.model.adapter_files import ADAPTER_CONFIG
from icm_fast.model.adapters import (
    ADAPTER_FOLDER,
    MODEL_FOLDER,
    base_name_of,
    check_base,
    merge_into,
    quantization_of,
    read_tuning,
    tokenizer_for,
)
from icm_fast.model.load import load_model, pick_device, pick_dtype
from icm_fast.model.loaded import (
    LoadedModel,
    check_vocabulary,
    computation_digest,
    fingerprint_model,
    max_context_of,
)
from icm_fast.model.pretrained import UNREADABLE, read_tokenizer
from icm_fast.training.chat import CHAT, PLAIN, Prompt, answer_ids, plain_text
from icm_fast.training.reward.network import (
    load_network,
    pad_left,
    reward_network,
    rewards,
    with_float_head,
)
from icm_fast.training.reward.pairs import Pair
from icm_fast.training.reward.text import recorded_format, reward_ids
from icm_fast.types import ScoreArray

REWARD_FILE = "reward.json"
INITIAL = "initial"
FINAL = "final"
POOL_FILE = "pool.jsonl"
POOL_RECORD = "pool.json"

_TRAIN_AGAIN = "run `icm-fast train reward` again with the same settings; it resumes"


@dataclass(frozen=True, slots=True, eq=False)
class RewardModel:
    """A reward model in evaluation mode.

    Attributes:
        name: What the user called it.
        network: transformers model for sequence classification with one label, adapters merged.
        tokenizer: Its tokenizer.
        fingerprint: Hex digest of architecture and weights.
        max_context: Longest text in tokens.
        format: How it reads prompts: ``plain`` or ``chat``, see :mod:`icm_fast.training.chat`.
    """

    name: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    max_context: int
    format: str = PLAIN

    @property
    def computation(self) -> str:
        """Hex digest of what the configuration says about how the network computes."""
        return computation_digest(self.network.config)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        device: torch.device = self.network.get_input_embeddings().weight.device
        return device

    def token_ids(self, text: str) -> tuple[int, ...]:
        """What the model reads of a text of ``reward_text``."""
        return reward_ids(text, self.tokenizer)

    def score(self, texts: Sequence[str], *, batch_size: int = 16) -> ScoreArray:
        """Rewards of texts that ``reward_text`` made; higher is better, only differences count.

        Each text is scored once: the last bits of a reward depend on its row in a batch, and equal
        texts shall have equal rewards.

        Args:
            texts: Any number.
            batch_size: Texts in one forward pass; texts of about the same length share one.

        Returns:
            ``[n_texts]`` float32, in the order of the texts.

        Raises:
            InputError: A text is longer than the model's context, or a reward is not finite.
        """
        return self.score_ids([self.token_ids(text) for text in texts], batch_size=batch_size)

    def score_answers(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, batch_size: int = 16
    ) -> ScoreArray:
        """Rewards of answers to prompts, in the format that the model was trained in.

        Args:
            prompts: ``[n]``, texts or messages; an empty text leaves its answer alone.
            answers: ``[n]``.
            batch_size: Same as in :meth:`score`.

        Returns:
            ``[n]`` float32.

        Raises:
            InputError: Same as in :meth:`score`, or a prompt that the format cannot render.
        """
        both = zip(prompts, answers, strict=True)
        if self.format == CHAT:
            ids = [self.answer_ids(prompt, answer) for prompt, answer in both]
            return self.score_ids(ids, batch_size=batch_size)
        texts = [plain_text(prompt, answer) for prompt, answer in both]
        return self.score(texts, batch_size=batch_size)

    def answer_ids(self, prompt: Prompt, answer: str) -> tuple[int, ...]:
        """What the model reads of an answer to a prompt."""
        return answer_ids(self.tokenizer, prompt, answer, format=self.format)

    def score_ids(self, texts: Sequence[tuple[int, ...]], *, batch_size: int = 16) -> ScoreArray:
        """Rewards of token ids as :meth:`score` has them of texts, ``[n_texts]`` float32."""
        once = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        ids = list(once)
        longest = max(map(len, ids), default=0)
        if longest > self.max_context:
            raise InputError(
                f"a text has {longest} tokens, but the maximum of the reward model {self.name} is "
                f"{self.max_context}; shorten it"
            )
        values = np.zeros(len(ids), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = {k: v.to(self.device) for k, v in pad_left([ids[i] for i in rows]).items()}
            with torch.inference_mode():
                values[rows] = rewards(self.network, batch).cpu().numpy()
        if not np.isfinite(values).all():
            raise InputError(
                f"the reward model {self.name} gave a reward that is not finite; load it with "
                "dtype float32"
            )
        found: ScoreArray = values[[once[text] for text in texts]]
        return found

    def score_pairs(self, pairs: Sequence[Pair]) -> ScoreArray:
        """Rewards of chosen and rejected responses, ``[n_pairs, 2]`` float32.

        Raises:
            InputError: Same as in :meth:`score`.
        """
        prompts = [pair.prompt for pair in pairs for _ in range(2)]
        answers = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        return self.score_answers(prompts, answers).reshape(-1, 2)


def as_reward_model(
    name: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, format: str
) -> RewardModel:
    """A finished network with its tokenizer, and the format that it reads."""
    network = with_float_head(network)
    check_vocabulary(name, network, tokenizer)
    return RewardModel(
        name,
        network,
        tokenizer,
        fingerprint_model(network),
        max_context_of(network.config),
        format,
    )


def load_reward_model(
    folder: str | os.PathLike[str], *, dtype: str = "auto", device: str = "auto"
) -> RewardModel:
    """Load the reward model of a training, or the last one of a training in two stages.

    Args:
        folder: What ``train_reward`` or ``two_stage`` wrote.
        dtype: Same as in :func:`icm_fast.model.load_model`; ``auto``: see :func:`reward_dtype`.
        device: Same as there, but not ``balanced``.

    Raises:
        InputError: No finished reward model there, or its base is missing or has changed.
    """
    home = reward_home(expanded(folder))
    if home is None:
        raise InputError(
            f"{folder} holds no reward model (no {REWARD_FILE}); name a folder that "
            "`icm-fast train reward` wrote"
        )
    content = read_tuning(home / REWARD_FILE)
    if "losses" not in content:
        raise InputError(f"the reward model in {home} is not finished; {_TRAIN_AGAIN}")
    identity = content["identity"]
    format = recorded_format(identity.get("format"), home)
    adapter = adapter_of(home)
    if adapter is None:
        trained = str(identity["model_dtype"])
        whole = home / MODEL_FOLDER if (home / MODEL_FOLDER).is_dir() else home
        return _load_whole(str(folder), whole, dtype, device, trained, format)
    # The base as it was in training, also where the rewards are then computed in float32.
    base_dtype = str(identity["model_dtype"]) if dtype == "auto" else dtype
    try:
        base = load_model(
            base_name_of(adapter),
            dtype=base_dtype,
            device=device,
            quantization=quantization_of(identity),
        )
    except InputError as error:
        raise InputError(f"the base of the reward model {home} is missing: {error}") from error
    check_base(adapter, identity, base)
    wanted = reward_dtype(base) if dtype == "auto" else base.model.dtype
    return merge_reward(base, adapter, str(folder), wanted, format)


def reward_dtype(base: LoadedModel) -> torch.dtype:
    """Dtype in which rewards are computed: float32 on a CPU, otherwise that of the base.

    In bfloat16 a reward depends on what else is in its batch (measured: by up to 0.2 where rewards
    spread by 2), and on a CPU it is no faster.
    """
    return torch.float32 if base.device.type == "cpu" else base.model.dtype


def merge_reward(
    base: LoadedModel, adapter: Path, name: str, dtype: torch.dtype, format: str
) -> RewardModel:
    """The reward model of an adapter on a base, which stays as it is, in ``dtype``.

    Raises:
        InputError: peft is missing, or the adapter cannot be read or is not for this model.
    """
    network = reward_network(base, dtype, share=True)
    merged = merge_into(network, adapter, base.name)
    return as_reward_model(name, merged, tokenizer_for(merged, adapter, base), format)


def reward_home(folder: Path) -> Path | None:
    """The folder with the record of a reward model, from that of two stages too.

    Returns:
        None where there is no reward model.

    Raises:
        InputError: The second stage is not finished.
    """
    if (folder / REWARD_FILE).is_file():
        return folder
    if (folder / FINAL / REWARD_FILE).is_file():
        return folder / FINAL
    if (folder / POOL_RECORD).is_file():
        raise InputError(f"the second stage in {folder} is not finished; {_TRAIN_AGAIN}")
    return folder / INITIAL if (folder / INITIAL / REWARD_FILE).is_file() else None


def adapter_of(home: Path) -> Path | None:
    """Where the adapter of a reward model is: in its own folder, or as it was downloaded."""
    if (home / ADAPTER_FOLDER).is_dir():
        return home / ADAPTER_FOLDER
    return home if (home / ADAPTER_CONFIG).is_file() else None


def _load_whole(
    name: str, folder: Path, dtype: str, device: str, base_dtype: str, format: str
) -> RewardModel:
    target = pick_device(device)
    try:
        # See reward_dtype.
        wanted = {"cpu": "float32"}.get(target.type, base_dtype) if dtype == "auto" else dtype
        network = load_network(str(folder), pick_dtype(wanted, target), name)
        tokenizer = read_tokenizer(str(folder))
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"cannot load the reward model {name}: {first_line(error)}; {_TRAIN_AGAIN}"
        ) from error
    return as_reward_model(name, network.to(target), tokenizer, format)
