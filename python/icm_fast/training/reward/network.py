"""A causal decoder with one number for a text: the body of a base and a linear head."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from icm_fast.errors import InputError
from icm_fast.model.copies import copy_model
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.pretrained import read_config, read_weights
from icm_fast.model.quantised import mark_quantised

TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids")
"""What :func:`pad_left` makes of texts."""


def reward_network(base: LoadedModel, dtype: torch.dtype, *, share: bool) -> PreTrainedModel:
    """A transformers model for sequence classification with one label, and the body of ``base``.

    Its head is float32 and zero: before training every text has the reward 0.

    Args:
        base: Left as it is.
        dtype: Of the body.
        share: Let the body's weights lie in the memory of the base; for adapters alone.

    Raises:
        InputError: transformers has no sequence classification for this family.
    """
    config = copy.deepcopy(base.model.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):  # no weights: the body is put in, and the head made below
            network: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except (ValueError, KeyError):
        raise InputError(
            f"transformers has no sequence classification for {config.model_type} ({base.name}), "
            "so it cannot become a reward model; use another family, such as llama, qwen or gemma"
        ) from None
    body = copy_model(base.model, dtype, share=share).base_model
    setattr(network, network.base_model_prefix, body)
    head = network.score
    network.score = torch.nn.Linear(
        head.in_features, 1, bias=False, dtype=torch.float32, device=last_device(body)
    )
    if (places := getattr(base.model, "hf_device_map", None)) is not None:
        network.hf_device_map = places  # trainers leave a model that is spread over devices alone
    torch.nn.init.zeros_(network.score.weight)
    mark_quantised(network, base.model)
    network.config.dtype = dtype
    return network.eval().requires_grad_(False)


def last_device(body: torch.nn.Module) -> torch.device:
    """Where the last hidden states of a decoder are: with its last weights, those of a norm.

    The embedding may stand elsewhere (``device=balanced``).
    """
    *_, last = body.parameters()
    return last.device


def load_network(folder: str, dtype: torch.dtype, name: str) -> PreTrainedModel:
    """Read a whole network back from a folder of safetensors.

    Raises:
        InputError: Weights, or the head, are missing.
        OSError, ValueError: Raised by transformers.
    """
    network = read_weights(
        AutoModelForSequenceClassification, folder, read_config(folder), dtype, name=name
    )
    if (n_labels := len(network.score.weight)) != 1:
        raise InputError(
            f"the model in {folder} has {n_labels} outputs, but a reward model has 1; name a "
            "folder that `icm-fast train reward` wrote"
        )
    return with_float_head(network)


def with_float_head(network: PreTrainedModel) -> PreTrainedModel:
    """The network in evaluation mode with its head in float32, whatever the body is in."""
    network.score.float()
    return network.eval().requires_grad_(False)


def pad_left(texts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """A batch of token ids in which the last column holds the end of every text.

    Returns:
        ``input_ids``, ``attention_mask``, ``position_ids``: ``[n_texts, longest]`` int64.
    """
    width = max(len(ids) for ids in texts)
    input_ids = torch.zeros(len(texts), width, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(texts):
        input_ids[row, width - len(ids) :] = torch.tensor(ids)
        mask[row, width - len(ids) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}


def forward_rewards(network: PreTrainedModel) -> None:
    """Let a forward pass of the network, or of a peft model around it, return :func:`rewards`."""

    def forward(**inputs: torch.Tensor) -> torch.Tensor:
        # FSDP warns of views, whose hooks operations in place would drop.
        return rewards(network, {name: inputs[name] for name in TEXT_INPUTS}).clone()

    network.forward = forward


def rewards(network: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The reward of every text of a batch of :func:`pad_left`, ``[n_texts]`` float32.

    Taken at the last token by position. transformers' own pooling looks for the last token that is
    no padding, and takes an EOS that pads for padding.
    """
    body = getattr(network, network.base_model_prefix)
    accepted = inspect.signature(body.forward).parameters
    arguments = {name: batch[name] for name in batch if name in accepted}
    hidden = body(**arguments, use_cache=False).last_hidden_state[:, -1]
    head = network.score
    # Also under autocast: a reward is float32.
    with torch.autocast(hidden.device.type, enabled=False):
        value: torch.Tensor = head(hidden.float().to(head.weight.device))[:, 0]
    return value
