"""The files of an adapter, checked before peft sees them.

peft imports modules that a configuration names, fills weights that are missing with its own
beginnings, and leaves aside what it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from icm_fast.errors import InputError, first_line
from icm_fast.files import reading

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FIX = "pass the folder of a finished fine-tuning or of a peft adapter"

_TYPES = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3")
"""Kinds of adapters that add to linear layers and can be merged into them."""

_CODE = ("megatron_config", "arrow_config", "runtime_config")
_NOT_MERGED = ("alora_invocation_tokens", "layer_replication", "monteclora_config", "velora_config")
_FILES = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, "token*", "special_tokens_map.json", "added_tokens.json"]
_FILES += ["vocab.json", "merges.txt", "chat_template*"]
_TRANSFORMERS = "transformers.models."
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
_HEADS = ("lm_head", "embed_out", "output")


def read_adapter_config(adapter: Path) -> dict[str, object]:
    """Read and check the configuration of an adapter.

    Raises:
        InputError: It is corrupt, of a kind that cannot be merged, or names code.
    """
    content, path = adapter_content(adapter), adapter / ADAPTER_CONFIG
    _check_kind(path, content)
    _check_code(path, content)
    return content


def adapter_content(adapter: Path) -> dict[str, object]:
    """The configuration of an adapter as it is, unchecked.

    Raises:
        InputError: It is corrupt.
    """
    path = adapter / ADAPTER_CONFIG
    with reading(path, FIX):
        text = path.read_bytes()
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is corrupt; {FIX}")
    return content


def _check_kind(path: Path, content: Mapping[str, object]) -> None:
    kind = content.get("peft_type")
    if kind not in _TYPES:
        raise InputError(
            f"{path} has peft_type {_short(kind)}, but only {', '.join(_TYPES)} can be merged; "
            "merge the adapter with its own tools and pass the whole model"
        )
    for key in _NOT_MERGED:
        if content.get(key):
            raise InputError(
                f"{path} sets {key}, which cannot be merged into a model; merge the adapter with "
                "its own tools and pass the whole model"
            )


def _check_code(path: Path, content: Mapping[str, object]) -> None:
    """Refuse what makes peft import a module, but for transformers' own models."""
    named = [key for key in _CODE if content.get(key)]
    if content.get("megatron_core") not in (None, "", "megatron.core"):
        named.append("megatron_core")
    if not _is_own_class(content.get("auto_mapping")):
        named.append("auto_mapping")
    named += [key for key in ("auto_map", "custom_modules", "base_model_class") if content.get(key)]
    if named:
        raise InputError(
            f"{path} names code in {named[0]} ({_short(content[named[0]])}), and code of an "
            "adapter is never run; delete the key if the adapter works without it"
        )


def _is_own_class(mapping: object) -> bool:
    """Whether ``auto_mapping`` is absent or names a class of transformers, as peft writes it."""
    if not mapping:
        return True
    if not isinstance(mapping, Mapping) or set(mapping) - {"base_model_class", "parent_library"}:
        return False
    library, name = mapping.get("parent_library"), mapping.get("base_model_class")
    own = isinstance(library, str) and library.startswith(_TRANSFORMERS)
    return own and isinstance(name, str) and name.isidentifier()


def weight_shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's weights.

    Raises:
        InputError: The file is missing or damaged.
    """
    path = adapter / ADAPTER_WEIGHTS
    if not path.is_file():
        raise InputError(f"{adapter} has no {ADAPTER_WEIGHTS}; {FIX}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot merge the adapter {adapter}: {first_line(error)}; {FIX}"
        ) from error


def vocabulary_rows(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Rows of the embedding or head that an adapter brings whole, None where it brings none."""
    rows = {
        shape[0]
        for key, shape in shapes.items()
        if len(shape) == 2 and is_whole_layer(key, (*_EMBEDDINGS, *_HEADS))
    }
    return max(rows, default=None)


def is_whole_layer(key: str, names: Iterable[str] = _EMBEDDINGS + _HEADS) -> bool:
    """Whether a name of a file is the weight of an embedding or head itself."""
    stem, _, last = key.rpartition(".")
    layer = stem.removesuffix(".modules_to_save").removesuffix(".base_layer").rpartition(".")[2]
    return last == "weight" and layer in names


def check_keys(adapter: Path, found: Iterable[str], expected: Iterable[str]) -> None:
    """Refuse an adapter unless its file has exactly the weights of the adapted model.

    Args:
        adapter: Its folder.
        found: Names in the file.
        expected: Names that peft would write; whole embeddings may come on top.

    Raises:
        InputError: Names the first difference.
    """
    there, wanted = set(found), set(expected)
    if missing := sorted(wanted - there):
        raise InputError(
            f"{adapter / ADAPTER_WEIGHTS} is incomplete: no {missing[0]}{_more(missing)}; copy or "
            "save the adapter again"
        )
    if unknown := sorted(key for key in there - wanted if not is_whole_layer(key)):
        raise InputError(
            f"{adapter / ADAPTER_WEIGHTS} holds {unknown[0]}{_more(unknown)}, which the model does "
            "not have; use the base model that the adapter was trained on"
        )


def check_targets(adapter: Path, wanted: object, modules: Iterable[str]) -> None:
    """Refuse target modules that the model does not have; peft only needs one that it has.

    Raises:
        InputError: Names the first that is missing.
    """
    if isinstance(wanted, str) or not isinstance(wanted, (list, tuple, set)):
        return  # an expression, of which peft says that nothing fits
    names = list(modules)
    for target in sorted(map(str, wanted)):
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise InputError(
                f"the adapter {adapter} adapts {target!r}, which the model does not have; use the "
                "base model that the adapter was trained on"
            )


def fetched_adapter(repository: str) -> Path | None:
    """The files of an adapter on the hub in a local folder; None where there is no adapter.

    transformers would hand the adapter of a hub id to peft unchecked, and its base too.
    """
    from huggingface_hub import snapshot_download
    from transformers.utils.hub import cached_file

    try:
        config = cached_file(
            repository,
            ADAPTER_CONFIG,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None  # whatever is wrong with the repository, loading it will say so
    if config is None:
        return None
    return Path(snapshot_download(repository, allow_patterns=_FILES))


def has_tokenizer(adapter: Path) -> bool:
    """Whether an adapter's folder holds a tokenizer of its own."""
    return any((adapter / name).is_file() for name in ("tokenizer.json", "tokenizer.model")) or (
        (adapter / "vocab.json").is_file() and (adapter / "merges.txt").is_file()
    )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
