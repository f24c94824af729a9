"""Models: loading, hardware, key-value store, and packed forward passes."""

from icm_fast.model.load import LoadedModel, ModelSpec, load_model
from icm_fast.model.runner import ModelRunner

__all__ = ["LoadedModel", "ModelRunner", "ModelSpec", "load_model"]
