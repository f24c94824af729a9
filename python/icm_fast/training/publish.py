"""Trained models for others: an adapter merged into its base, and a card for the Hub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from icm_fast.errors import InputError
from icm_fast.export.hub_card import fenced_yaml, is_public, model_terms, public_name, redacted
from icm_fast.export.hub_push import CARD_FILE, MODEL, HubFolder, check_card
from icm_fast.files import is_file, share_by_umask, sync_folder, write_atomically, writing
from icm_fast.files.text import cell
from icm_fast.model.adapter_files import ADAPTER_CONFIG
from icm_fast.model.adapters import (
    MODEL_FOLDER,
    TUNING_FILE,
    base_name_of,
    find_tuned,
    foreign_code,
    import_peft,
    merge_adapter,
    quantization_of,
    read_tuning,
)
from icm_fast.model.copies import copy_model
from icm_fast.model.load import load_model
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.quantised import NOT_QUANTISED
from icm_fast.training.reward.model import (
    REWARD_FILE,
    RewardModel,
    adapter_of,
    load_reward_model,
    reward_home,
)
from icm_fast.training.session import save_whole

_PATHS = ("name_or_path", "_file")
"""How keys of configurations end whose values may be paths."""

_MARK = "written by `icm-fast`"
_PROBE = "The quick brown fox jumps over the lazy dog, and one of 1,234 foxes does not."
_SMALL = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.15}
"""By dtype: how far logits of a merged model may be from those beside its adapter, of their size.

A merge rounds the sum of base and adapter to the dtype of the base.
"""


@dataclass(frozen=True, slots=True)
class Merged:
    """A whole model that was made of an adapter and its base.

    Attributes:
        folder: Where it is, with its tokenizer and a card; ``--model`` takes it, or for a reward
            model ``load_reward_model``.
        difference: Largest difference between its logits (rewards) on a probe and those of the
            base beside the adapter, divided by the largest of these.
        fingerprint: Digest of its weights.
    """

    folder: Path
    difference: float
    fingerprint: str


def merge(
    adapter: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    device: str = "auto",
) -> Merged:
    """Merge an adapter into its base and write the whole model.

    What is written is read back and compared by its weights, and the merged model with the adapter
    beside its base by what they compute.

    Args:
        adapter: Folder of a fine-tuning, policy, DPO or reward model, or of a peft adapter.
        folder: Where to write; must be empty or absent.
        dtype: Same as in ``load_model``: that of the weights.
        device: Same as there.

    Raises:
        InputError: Not an adapter, a folder that is not empty, or a merge that changed results.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            f"{target} is not an empty folder; choose another one for the merged model"
        )
    home = reward_home(Path(adapter))
    if home is None:
        return _merge_causal(os.fspath(adapter), target, dtype, device)
    return _merge_reward(home, target, dtype, device)


def _merge_causal(adapter: str, target: Path, dtype: str, device: str) -> Merged:
    source = find_tuned(adapter)
    if source is None or not is_file(source / ADAPTER_CONFIG):
        raise InputError(
            f"{adapter} holds no adapter; name the folder of a training with method=lora, or of a "
            "peft adapter (a whole model needs no merge)"
        )
    record = _record(source.parent / TUNING_FILE)
    identity = record.get("identity")
    if isinstance(identity, Mapping) and quantization_of(identity) != NOT_QUANTISED:
        # Into the base as it is stored: in 4 bits a merge would round.
        whole = load_model(base_name_of(source), dtype=dtype, device=device)
        merged = merge_adapter(whole, source, adapter)
    else:
        merged = load_model(adapter, dtype=dtype, device=device)
    difference = _difference(merged, source, dtype, device)
    limit = _SMALL[merged.model.dtype]
    if not difference <= limit:
        raise InputError(
            f"the merged model differs from its adapter by {difference:.3g} of the largest logit, "
            f"where rounding explains {limit:g}; merge in another precision (--dtype float32)"
        )
    card = _card(record, public_name(base_name_of(source)), "merged", merged.name)
    with _made(target) as made:
        save_whole(merged.model, merged.tokenizer, made)
        write_atomically(made / CARD_FILE, card.encode())
        again = load_model(str(made), dtype=merged.dtype_name, device=device)
        _check_read_back(merged.fingerprint, again.fingerprint, target)
    return Merged(target, difference, merged.fingerprint)


def _merge_reward(home: Path, target: Path, dtype: str, device: str) -> Merged:
    adapter = adapter_of(home)
    if adapter is None:
        raise InputError(f"the reward model in {home} is whole already; it needs no merge")
    model = load_reward_model(home, dtype=dtype, device=device)
    record = _record(home / REWARD_FILE)
    card = _card(record, public_name(base_name_of(adapter)), "merged", str(home))
    with _made(target) as made:
        # The head is float32 in memory, and in the folder as the rest.
        whole = copy_model(model.network, model.network.dtype, share=True)
        save_whole(whole, model.tokenizer, made)
        write_atomically(made / REWARD_FILE, (json.dumps(record, indent=1) + "\n").encode())
        write_atomically(made / CARD_FILE, card.encode())
        again = load_reward_model(made, dtype=_dtype_name(model), device=device)
        difference = _reward_difference(model, again)
        if not difference <= _SMALL[model.network.dtype]:
            raise InputError(
                f"the merged reward model differs by {difference:.3g} of the largest reward when "
                "it is read back; merge in another precision (--dtype float32)"
            )
    return Merged(target, difference, again.fingerprint)


def _difference(merged: LoadedModel, adapter: Path, dtype: str, device: str) -> float:
    """Of the logits on the probe, against those of the base with the adapter beside it."""
    base = load_model(base_name_of(adapter), dtype=dtype, device=device)
    ids = torch.tensor([merged.tokenizer(_PROBE)["input_ids"]], device=merged.device)
    with foreign_code(), torch.no_grad():
        copied = copy_model(base.model, base.model.dtype, share=True)
        if (rows := len(merged.model.get_input_embeddings().weight)) != len(
            copied.get_input_embeddings().weight
        ):
            copied.resize_token_embeddings(rows, mean_resizing=False)
        live = import_peft().PeftModel.from_pretrained(
            copied, str(adapter), trust_remote_code=False
        )
        beside = live.eval()(input_ids=ids).logits.float()
        alone = merged.model(input_ids=ids).logits.float()
    return float((alone - beside).abs().max() / beside.abs().max())


def _reward_difference(one: RewardModel, other: RewardModel) -> float:
    texts = [_PROBE, _PROBE[:20], _PROBE[5:50]]
    values, others = one.score(texts), other.score(texts)
    return float(abs(values - others).max() / max(abs(values).max(), 1e-6))


def _dtype_name(model: RewardModel) -> str:
    return str(model.network.dtype).removeprefix("torch.")


def _check_read_back(made: str, read: str, target: Path) -> None:
    if made != read:
        raise InputError(
            f"the weights of the merged model change when they are written to {target}; merge "
            "them in another precision (--dtype float32), or check the disk"
        )


class _made:  # noqa: N801 - a context, used as a function
    """A folder beside ``target`` that becomes it when the block ends without an error."""

    def __init__(self, target: Path) -> None:
        self._target = target
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._scratch = tempfile.TemporaryDirectory(dir=target.parent, prefix=".merge-")

    def __enter__(self) -> Path:
        self._folder = Path(self._scratch.name) / "made"
        self._folder.mkdir()
        return self._folder

    def __exit__(self, kind: object, *_: object) -> None:
        with self._scratch:
            if kind is None:
                with writing(self._target):
                    share_by_umask(self._folder)
                    if self._target.exists():
                        self._target.rmdir()  # empty, as checked
                    os.replace(self._folder, self._target)
                    sync_folder(self._target.parent)


def write_model_folder(
    source: str | os.PathLike[str], folder: Path, *, license: str | None = None
) -> HubFolder:
    """Write an adapter, a whole model or a reward model with a card, without paths of this machine.

    Args:
        source: Folder of a training, of a merged model, or of a peft adapter.
        folder: Where to write.
        license: Identifier of a license, if the user gave one.

    Raises:
        InputError: Not such a folder, a training that is not finished, a README.md in the folder
            that is not ours, or a file that cannot be written.
    """
    origin, record = _origin(Path(source))
    is_adapter = is_file(origin / ADAPTER_CONFIG)
    base = base_name_of(origin) if is_adapter else ""
    check_card(folder / CARD_FILE, _MARK)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = []
    for path in sorted(origin.iterdir()):
        if not path.is_file() or path.name in (CARD_FILE, REWARD_FILE, TUNING_FILE, ".lock"):
            continue
        names.append(path.name)
        if path.suffix == ".json" and path.name.endswith("config.json"):
            content = _public_config(json.loads(path.read_text(encoding="utf-8")), base)
            write_atomically(folder / path.name, (json.dumps(content, indent=2) + "\n").encode())
        else:
            with writing(folder / path.name):
                shutil.copyfile(path, folder / path.name)
    if record and _is_reward(record):  # by which load_reward_model knows one
        public = {key: redacted(key, value) for key, value in record.items()}
        write_atomically(folder / REWARD_FILE, (json.dumps(public, indent=1) + "\n").encode())
        names.append(REWARD_FILE)
    kind = "adapter" if is_adapter else "model"
    card = _card(record, public_name(base), kind, Path(source).name, license, base=base)
    write_atomically(folder / CARD_FILE, card.encode())
    return HubFolder(folder, (CARD_FILE, *names), 0, "", MODEL)


def _origin(source: Path) -> tuple[Path, dict[str, object]]:
    """The folder with the weights, and the record of its training, empty where there is none."""
    home = reward_home(source)
    if home is not None:
        load = adapter_of(home) or (home / MODEL_FOLDER if (home / MODEL_FOLDER).is_dir() else home)
        record = _record(home / REWARD_FILE)
        if "losses" not in record:
            raise InputError(f"the reward model in {home} is not finished; train it to its end")
        return load, record
    tuned = find_tuned(str(source))
    if tuned is not None:
        return tuned, _record(tuned.parent / TUNING_FILE)
    if is_file(source / "config.json"):
        return source, {}
    raise InputError(
        f"{source} holds no trained model; name the folder of a training, an adapter or a merged "
        "model"
    )


def _record(path: Path) -> dict[str, object]:
    return read_tuning(path) if is_file(path) else {}


def _is_reward(record: Mapping[str, object]) -> bool:
    identity = record["identity"]
    return isinstance(identity, Mapping) and "training" not in identity and "n_pairs" in identity


def _public_config(content: object, base: str) -> object:
    """A configuration of a model, tokenizer or adapter without folders of this machine."""
    if not isinstance(content, dict):
        return content
    public = {
        key: public_name(value) if key.endswith(_PATHS) and isinstance(value, str) else value
        for key, value in content.items()
    }
    if "base_model_name_or_path" in public:
        public["base_model_name_or_path"] = public_name(base)
    return public


def _card(
    record: Mapping[str, object],
    base_name: str,
    kind: str,
    name: str,
    license: str | None = None,
    *,
    base: str = "",
) -> str:
    """README.md of a model.

    Args:
        record: Of the training; may be empty.
        base_name: What others call the base; empty where it is not known.
        kind: ``adapter``, ``merged`` or ``model``.
        name: Of the folder, for the title.
        license: Identifier of a license.
        base: What the user called the base; a hub id is linked.
    """
    identity = record.get("identity")
    known: Mapping[str, object] = identity if isinstance(identity, Mapping) else {}
    reward = bool(record) and _is_reward(record)
    what = {"adapter": "an adapter for", "merged": "merged into"}.get(kind, "trained from")
    purpose = "Reward model" if reward else "Language model"
    parts = [
        _front_matter(known, kind, reward, license, base),
        f"# {cell(public_name(name))}",
        f"{purpose}: {what} {cell(base_name or 'its base')}, {_MARK}.",
        _facts(record, known),
    ]
    parts.append("## Use\n\n" + _use(kind, reward))
    settings = known.get("config")
    if isinstance(settings, Mapping):
        public = {str(key): redacted(str(key), value) for key, value in settings.items()}
        parts.append("## Settings\n\n" + fenced_yaml(public))
    if terms := model_terms(base_name):
        parts.append("## Terms\n\n" + "\n".join(f"- {line}" for line in terms))
    versions = record.get("versions")
    if isinstance(versions, Mapping):
        parts.append("## Versions\n\n" + fenced_yaml(versions))
    return "\n\n".join(parts) + "\n"


def _front_matter(
    identity: Mapping[str, object], kind: str, reward: bool, license: str | None, base: str
) -> str:
    tags = ["icm", "reward-model" if reward else str(identity.get("training", "fine-tuned"))]
    content: dict[str, object] = {
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-classification" if reward else "text-generation",
        **({"base_model": base} if is_public(base) else {}),
        **({"license": license} if license else {}),
        "tags": tags,
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _facts(record: Mapping[str, object], identity: Mapping[str, object]) -> str:
    """What is known of the training, as a table."""
    if not record:
        return "How it was trained is not recorded."
    losses = record.get("losses")
    known = losses if isinstance(losses, list) else []
    rows: dict[str, object] = {
        "examples": identity.get("n_examples"),
        "pairs": identity.get("n_pairs"),
        "format of the prompts": identity.get("format"),
        "digest of the data": identity.get("data_digest"),
        "fingerprint of the base": identity.get("model_fingerprint"),
        "dtype of the base": identity.get("model_dtype"),
        "steps": len(known) or None,
        "loss of the first step": f"{known[0]:.4f}" if known else None,
        "loss of the last step": f"{known[-1]:.4f}" if known else None,
        "step whose weights were kept": record.get("best_step"),
        "loss on held-out examples": record.get("best_loss"),
    }
    lines = [f"| {key} | {cell(value)} |" for key, value in rows.items() if value is not None]
    return "## Training\n\n" + "\n".join(["| what | value |", "|---|---|", *lines])


def _use(kind: str, reward: bool) -> str:
    if reward:
        code = (
            "from icm_fast.training.reward import load_reward_model\n\n"
            'model = load_reward_model("FOLDER")  # where this repository was downloaded\n'
            'print(model.score_answers(["Why?"], ["Because."]))'
        )
    elif kind == "adapter":
        code = (
            "from peft import AutoPeftModelForCausalLM\n\n"
            'model = AutoPeftModelForCausalLM.from_pretrained("OWNER/NAME")'
        )
    else:
        code = (
            "from transformers import AutoModelForCausalLM\n\n"
            'model = AutoModelForCausalLM.from_pretrained("OWNER/NAME")'
        )
    return f"```python\n{code}\n```"
