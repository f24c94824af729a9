"""A model that is loaded when it is first needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What must stay the same for scores to be comparable."""

    fingerprint: str
    dtype: str


class LazyModel:
    """A model argument and, once asked for, the model that it stands for.

    Args:
        model: Hub id, folder, .gguf file, (model, tokenizer) pair, or an
            already loaded model.
        dtype: Weights' dtype or ``auto``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    def __init__(self, model: Any, *, dtype: str = "auto", device: str = "auto") -> None:
        self._model = model
        self._dtype = dtype
        self._device = device
        self._loaded: Any = model if hasattr(model, "fingerprint") else None

    @property
    def name(self) -> str:
        """The model as the user named it; loads it only where it was not named by text."""
        if isinstance(self._model, (str, os.PathLike)):
            return os.fspath(self._model)
        return str(self.load().name)

    def load(self) -> Any:
        """The loaded model.

        Raises:
            InputError: The model cannot be found, read or served.
        """
        if self._loaded is None:
            from icm_fast.model import load_model

            self._loaded = load_model(self._model, dtype=self._dtype, device=self._device)
        return self._loaded

    def identity(self) -> ModelIdentity:
        """Fingerprint and dtype of the loaded model."""
        loaded = self.load()
        return ModelIdentity(str(loaded.fingerprint), str(loaded.dtype_name))
