"""Model folders, GGUF files and adapters of a tiny random Llama, with damaged bytes.

A number that a header holds is what its author says, and a weight too. So other results are wrong
only where the form of the file is damaged: its tables of tensors and its length.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from icm_fast.model import load_model

from ..target import CorruptionError, Target

_IDS = torch.tensor([[5, 77, 300, 12, 9]])


def _small() -> object:
    """A model whose file is small enough to be changed often."""
    from tiny_models import tiny_model

    return tiny_model("llama", num_hidden_layers=1, intermediate_size=16)


def _logits(spec: str) -> torch.Tensor:
    loaded = load_model(spec, dtype="float32", device="cpu")
    loaded.tokenizer("Review: dull\nSentiment: negative")
    with torch.inference_mode():
        logits: torch.Tensor = loaded.model(input_ids=_IDS).logits
    return logits


def _changed(data: bytes, whole: bytes, begin: int, end: int) -> bool:
    """Whether the bytes from ``begin`` to ``end`` are others, or the length is."""
    return len(data) != len(whole) or data[begin:end] != whole[begin:end]


class _Model(Target):
    def prepare(self, folder: Path) -> None:
        """Save the model and remember what it says."""
        from tiny_models import byte_tokenizer

        torch.set_num_threads(1)
        self._home, self._whole = folder, folder.parent / "whole"
        _small().save_pretrained(self._whole)  # type: ignore[attr-defined]
        byte_tokenizer().save_pretrained(self._whole)
        self._wanted = _logits(str(self._whole))


class Safetensors(_Model):
    """The first byte picks the file of the folder; the rest is its content."""

    name = "safetensors"
    FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    words = tuple(
        f'"{word}"'.encode()
        for word in (
            *("F32", "F16", "BF16", "I32", "U8", "F64", "data_offsets", "shape", "dtype"),
            *("hidden_size", "num_hidden_layers", "vocab_size", "head_dim", "rope_parameters"),
            *("model_type", "architectures", "quantization_config", "auto_map", "gemma3_text"),
            *("added_tokens", "normalizer", "pre_tokenizer", "merges", "vocab", "type", "chat"),
        )
    )

    def seeds(self) -> list[bytes]:
        """The undamaged files."""
        whole = [
            bytes([k]) + (self._whole / name).read_bytes() for k, name in enumerate(self.FILES)
        ]
        return super().seeds() + whole

    def read(self, data: bytes) -> None:
        """Load the folder with one damaged file."""
        name = self.FILES[(data or b"\0")[0] % len(self.FILES)]
        folder = self._home / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._whole, folder)
        (folder / name).write_bytes(data[1:])
        found = _logits(str(folder))
        if name != "model.safetensors":
            return
        whole = (self._whole / name).read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        if _changed(data[1:], whole, 0, end) and not torch.equal(found, self._wanted):
            same_weights = data[1:][-(len(whole) - end) :] == whole[end:]
            if same_weights:
                raise CorruptionError("other logits from a damaged table of tensors")


class Gguf(_Model):
    """The bytes of the file."""

    name = "gguf"
    words = tuple(
        word.encode()
        for word in (
            *("GGUF", "llama", "general.architecture", "token_embd.weight", "blk.0.attn_q.weight"),
            *("llama.block_count", "tokenizer.ggml.tokens", "tokenizer.ggml.model", "gpt2"),
            *("general.alignment", "llama.rope.dimension_count", "output.weight"),
        )
    )

    def prepare(self, folder: Path) -> None:
        """Write the file and remember what it says."""
        import gguf
        from test_gguf import write_gguf

        from tiny_models import byte_tokenizer

        torch.set_num_threads(1)
        self._home = folder
        path = folder.parent / "whole.gguf"
        write_gguf(path, _small(), byte_tokenizer())
        self._bytes = path.read_bytes()
        reader = gguf.GGUFReader(path)
        self._table = min(int(t.field.offset) for t in reader.tensors)
        self._data = int(reader.data_offset)
        self._wanted = _logits(str(path))

    def seeds(self) -> list[bytes]:
        """The undamaged file."""
        return [*super().seeds(), self._bytes]

    def read(self, data: bytes) -> None:
        """Load the damaged file."""
        shutil.rmtree(Path(self._home.parent / "cache"), ignore_errors=True)
        path = self._home / "model.gguf"
        path.write_bytes(data)
        found = _logits(str(path))
        if data[: self._table] != self._bytes[: self._table]:
            return
        weights = self._bytes[self._data :]
        is_form = _changed(data, self._bytes, self._table, self._data)
        if is_form and data[self._data :] == weights and not torch.equal(found, self._wanted):
            raise CorruptionError("other logits from a damaged table of tensors")


class Adapters(_Model):
    """The first byte picks the file of the adapter; the rest is its content."""

    name = "adapters"
    FILES = ("adapter_config.json", "adapter_model.safetensors")
    words = tuple(
        f'"{word}"'.encode()
        for word in (
            *("peft_type", "LORA", "ADALORA", "LOHA", "LOKR", "IA3", "target_modules", "r"),
            *("lora_alpha", "rank_pattern", "alpha_pattern", "modules_to_save", "bias", "use_dora"),
            *("layers_to_transform", "layers_pattern", "exclude_modules", "fan_in_fan_out", "F32"),
            *("init_lora_weights", "eva_config", "corda_config", "loftq_config", "qalora_group"),
            *("trainable_token_indices", "target_parameters", "revision", "task_type", "I32"),
        )
    )

    def prepare(self, folder: Path) -> None:
        """Make an adapter beside the model."""
        from peft import LoraConfig, get_peft_model

        from icm_fast.model.adapters import foreign_code

        super().prepare(folder)
        self._adapter = folder.parent / "adapter"
        with foreign_code():
            live = get_peft_model(_small(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        for name, weight in live.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)
        live.save_pretrained(self._adapter, save_embedding_layers=False)
        path = self._adapter / self.FILES[0]
        content = json.loads(path.read_text())
        content["base_model_name_or_path"] = str(self._whole)
        path.write_text(json.dumps(content))
        self._wanted = _logits(str(self._adapter))

    def seeds(self) -> list[bytes]:
        """The undamaged files."""
        whole = [
            bytes([k]) + (self._adapter / name).read_bytes() for k, name in enumerate(self.FILES)
        ]
        return super().seeds() + whole

    def read(self, data: bytes) -> None:
        """Load the adapter with one damaged file."""
        name = self.FILES[(data or b"\0")[0] % len(self.FILES)]
        folder = self._home / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._adapter, folder)
        (folder / name).write_bytes(data[1:])
        found = _logits(str(folder))
        whole = (self._adapter / name).read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        same_weights = name != self.FILES[0] and data[1:][-(len(whole) - end) :] == whole[end:]
        if same_weights and not torch.equal(found, self._wanted):
            raise CorruptionError("other logits from a damaged table of tensors")
