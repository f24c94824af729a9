"""A run as a data set on the Hugging Face Hub: the folder that is pushed, and the push.

Models go the same way; see :mod:`icm_fast.training.publish`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icm_fast.errors import InputError, first_line
from icm_fast.export.hub_card import dataset_card
from icm_fast.export.lm_eval import LM_EVAL
from icm_fast.export.tables import encode_run, file_suffix
from icm_fast.files import is_file, read_file, write_atomically, writing
from icm_fast.files.text import without_secrets
from icm_fast.runs.finished import FinishedRun

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "README.md"
_WRITTEN_BY_US = "written by `icm-fast export --format"
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


DATASET, MODEL = "dataset", "model"
_SAYS = {DATASET: ("data set", "Labels found by icm_fast"), MODEL: ("model", "Model of icm_fast")}
"""What a kind of repository is called, and the message of a commit there."""


@dataclass(frozen=True, slots=True)
class HubFolder:
    """What is pushed.

    Attributes:
        folder: The local folder.
        files: Names of the files to push; others in the folder stay.
        n_rows: Number of rows of the data.
        note: What was left out of the data and how to use it; may be empty.
        kind: ``dataset`` or ``model``.
    """

    folder: Path
    files: tuple[str, ...]
    n_rows: int
    note: str
    kind: str = DATASET


def write_hub_folder(
    run: FinishedRun, folder: Path, *, format: str = "jsonl", license: str | None = None
) -> HubFolder:
    """Write the data and their card.

    Raises:
        InputError: A format that cannot be pushed, a run that lacks what the format needs, a
            README.md in the folder that is not ours, or a file that cannot be written.
    """
    if format == LM_EVAL:
        raise InputError(
            f"--format {LM_EVAL} contains paths of this machine and cannot be pushed; "
            "choose another format"
        )
    encoded = encode_run(run, format)
    file = f"train{file_suffix(format)}"
    card = dataset_card(
        run, file=file, format=format, n_rows=encoded.n_rows, note=encoded.note, license=license
    )
    check_card(folder / CARD_FILE, _WRITTEN_BY_US)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / file, encoded.content)
    write_atomically(folder / CARD_FILE, card.encode())
    return HubFolder(folder, (CARD_FILE, file), encoded.n_rows, encoded.note)


def check_card(path: Path, mark: str) -> None:
    """Raise InputError if a README.md stands there that does not hold ``mark``, so is not ours."""
    if not is_file(path):
        return
    if mark.encode() not in read_file(path, "choose another folder"):
        raise InputError(f"{path} was not written by an export; choose another folder (--output)")


def check_repository(name: str, kind: str = DATASET) -> None:
    """Raise InputError unless ``name`` has the form OWNER/NAME."""
    if not _REPOSITORY.fullmatch(name):
        what, _ = _SAYS[kind]
        raise InputError(f"{name!r} is not the name of a {what} on the Hub; write OWNER/NAME")


def push(pushed: HubFolder, repository: str, *, private: bool = True) -> str:
    """Upload the folder; the token comes from the environment or the Hub login.

    Args:
        pushed: What :func:`write_hub_folder` or ``write_model_folder`` wrote.
        repository: OWNER/NAME; created if absent.
        private: Create it private, and refuse an existing public one; otherwise create it public.

    Returns:
        The URL of the repository.

    Raises:
        InputError: No token, a public repository where a private one was requested, or an error
            of the Hub or the network.
    """
    check_repository(repository, pushed.kind)
    import huggingface_hub

    token = huggingface_hub.get_token()
    if token is None:
        raise InputError("no token for the Hub; run `hf auth login`, or set HF_TOKEN")
    api = huggingface_hub.HfApi()
    try:
        address = _upload(api, pushed, repository, private)
    except InputError:
        raise
    except Exception as error:  # whatever the hub client raises, the user gets one line
        # The client may quote a header with the token, hence no chained cause either.
        reason = without_secrets(first_line(error).replace(token, "(token)"))
        raise InputError(
            f"cannot push to {repository}: {reason}; check the name, the network and that the "
            f"token can write (the files to push are in {pushed.folder})"
        ) from None
    return address


def _upload(api: HfApi, pushed: HubFolder, repository: str, private: bool) -> str:
    kind = pushed.kind
    address = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
    if private and not api.repo_info(repository, repo_type=kind).private:
        raise InputError(
            f"{repository} exists and is public; add --public to push there, make it private on "
            "the Hub, or choose another name"
        )
    api.upload_folder(
        repo_id=repository,
        repo_type=kind,
        folder_path=pushed.folder,
        allow_patterns=list(pushed.files),
        commit_message=_SAYS[kind][1],
    )
    return str(address)
