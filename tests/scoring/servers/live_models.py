"""SmolLM2 for real servers: its weights as float32, with all of its layers or the first two."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

FEW_LAYERS = 2

_FLATTER = 0.15
"""Factor of the logits of few layers, which would be some 70 apart."""

_OUTPUT_NORM = "output_norm.weight"


def write_float32(source: Path, target: Path, n_layers: int | None = None) -> None:
    """Write a GGUF file with the weights as they are here, as 32-bit numbers.

    llama.cpp would round activations before products with 4-bit weights.

    Args:
        source: A GGUF file of a Llama.
        target: The new file.
        n_layers: Keep only the first layers: no good model, but quick, and with the same tokenizer;
            its likely tokens are common words.
    """
    reader = gguf.GGUFReader(source)
    count = "llama.block_count"
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, content in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind, *inner = content.types
        value = content.contents()
        if name == count and n_layers is not None:
            value = n_layers
        writer.add_key_value(name, value, kind, inner[-1] if inner else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        block, _, rest = tensor.name.removeprefix("blk.").partition(".")
        if n_layers is not None and rest and block.isdecimal() and int(block) >= n_layers:
            continue
        weights = gguf.dequantize(tensor.data, tensor.tensor_type)
        if n_layers is not None and tensor.name == _OUTPUT_NORM:
            weights = weights * np.float32(_FLATTER)
        writer.add_tensor(tensor.name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
