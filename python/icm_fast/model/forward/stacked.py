"""Projections of the same input as one product, for devices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from icm_fast.model.forward.decoder_layers import Projections


class StackedProjections:
    """One matrix whose rows are the weights of several linear layers.

    The layers' own weights and biases become views of it, so that nothing is held twice, the model
    works as before, and changes in place are seen.
    """

    def __init__(self, parts: Projections) -> None:
        self._parts = parts
        self._weight, self._bias = _stack(parts)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Project ``[n_rows, hidden_size]``; the results are views of one tensor."""
        rows = F.linear(x, self._weight, self._bias)
        outputs: tuple[torch.Tensor, ...] = rows.split(self._parts.widths, dim=-1)
        return outputs

    def refresh(self) -> None:
        """Stack again where a layer has got other tensors, as by ``model.to``."""
        self._weight, self._bias = _stack(self._parts)


def _stack(parts: Projections) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The matrix and its bias; a family may have stacked them itself (phi3)."""
    linears = parts.linears
    # Tensors made in inference mode could not be trained later.
    with torch.inference_mode(mode=False), torch.no_grad():
        weight = _one_tensor([linear.weight for linear in linears])
        if any(linear.bias is None for linear in linears):  # all have one, or none
            return weight, None
        return weight, _one_tensor([linear.bias for linear in linears])


def _one_tensor(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """All rows of some tensors, which become views of it unless they are already."""
    first = parts[0]
    end = first.storage_offset()
    for part in parts:
        at_end = _storage(part) == _storage(first) and part.storage_offset() == end
        if not (at_end and part.is_contiguous()):
            break
        end += part.numel()
    else:
        n_rows = sum(len(part) for part in parts)
        return first.detach().as_strided((n_rows, *first.shape[1:]), first.stride())
    whole = torch.cat(list(parts))
    for part, rows in zip(parts, whole.split([len(part) for part in parts]), strict=True):
        part.data = rows
    return whole


def _storage(tensor: torch.Tensor) -> tuple[int, torch.dtype]:
    return tensor.untyped_storage().data_ptr(), tensor.dtype
