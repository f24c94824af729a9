"""A model that is loaded when it is first needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icm_fast.model.loaded import LoadedModel, ModelSpec


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What must stay the same for scores to be comparable."""

    fingerprint: str
    dtype: str
    more: Mapping[str, str] = field(default_factory=dict)
    """What the model reads and how it computes; empty for scores that no model of ours made."""
    probe: str = ""
    """What a model on a server answers to known sentences; rounding may change it a little."""


class LazyModel:
    """A model as the user passed it, loaded on first use.

    Args:
        model: See :func:`icm_fast.model.load_model`.
        dtype: Dtype of the weights, or ``auto``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    def __init__(self, model: ModelSpec, *, dtype: str = "auto", device: str = "auto") -> None:
        self._model = model
        self._dtype = dtype
        self._device = device
        self._loaded: LoadedModel | None = None

    @property
    def name(self) -> str:
        """The model as the user named it; loads the model only if it was not given as text."""
        if isinstance(self._model, (str, os.PathLike)):
            return os.fspath(self._model)
        return self.load().name

    @property
    def is_named(self) -> bool:
        """Whether it was given as a name or path, and not as a model in memory."""
        return isinstance(self._model, (str, os.PathLike))

    def load(self) -> LoadedModel:
        """The loaded model.

        Raises:
            InputError: The model cannot be found or read.
        """
        if self._loaded is None:
            from icm_fast.model import load_model

            self._loaded = load_model(self._model, dtype=self._dtype, device=self._device)
        return self._loaded

    def identity(self) -> ModelIdentity:
        """Fingerprint, dtype and computation of the loaded model."""
        loaded = self.load()
        more = {"model_computation": loaded.computation}
        return ModelIdentity(loaded.fingerprint, loaded.dtype_name, more)

    def files_digest(self) -> str:
        """See :func:`icm_fast.model.stored_files.files_digest`; empty for a model in memory."""
        if not isinstance(self._model, (str, os.PathLike)):
            return ""
        from icm_fast.model.stored_files import files_digest

        return files_digest(os.fspath(self._model))

    def may_differ(self, files: object) -> bool:
        """Whether the model may be another one than that whose files had this digest.

        A model in memory has none, and nothing needs to be loaded to compare it.
        """
        if not isinstance(self._model, (str, os.PathLike)):
            return True
        return bool(files) and self.files_digest() not in ("", files)
