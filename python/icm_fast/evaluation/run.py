"""Comparison of a finished run with gold, stored in its folder."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

from icm_fast.errors import InputError
from icm_fast.evaluation.compare import compare
from icm_fast.evaluation.gold import NothingHeldOutError, held_out, load_gold
from icm_fast.evaluation.report import EVALUATION_FILE, read_stored
from icm_fast.files import write_atomically
from icm_fast.identity import json_digest
from icm_fast.runs.finished import FinishedRun
from icm_fast.scoring.models import Opened
from icm_fast.tasks.source import TaskSource
from icm_fast.types import UNLABELLED, Dataset


def evaluate_run(
    run: FinishedRun, model: Opened, *, n_test: int = 100, file_name: str = EVALUATION_FILE
) -> dict[str, Any]:
    """Compare the labels of ``run`` with gold, or return a stored comparison.

    Args:
        run: The finished run.
        model: The model that predicts, loaded only if no comparison by it is stored. A model whose
            files have changed counts as another one, as do other weights in memory.
        n_test: Maximum number of held-out examples.
        file_name: Name of the file in the run folder that stores the comparison.

    Returns:
        :meth:`GoldComparison.to_dict`, with the name of the ``model``.

    Raises:
        InputError: The run does not record where its data came from, or there is no gold.
    """
    if run.source is None:
        raise InputError(
            f"{run.folder} does not say which task its data came from, so its gold is unknown; "
            "use icm_fast.evaluation in Python"
        )
    key = {
        "n_test": n_test,
        "model": model.name,
        "model_files": _model_digest(model),
        "labels_sha256": _labels_digest(run),
        "gold_sha256": _gold_digest(run.source, run.dataset, n_test),
    }
    path = run.folder / file_name
    stored = read_stored(path) or {}
    if all(stored.get(name) == value for name, value in key.items()):
        comparison: dict[str, Any] = stored["comparison"]
        return comparison
    comparison = compare(
        run.source, run.dataset, run.labels, model=model, config=run.config, n_test=n_test
    ).to_dict() | {"model": model.name}
    content = json.dumps({**key, "comparison": comparison}, indent=2) + "\n"
    write_atomically(path, content.encode())
    return comparison


def _labels_digest(run: FinishedRun) -> str:
    return hashlib.sha256(run.labels.astype("<i4").tobytes()).hexdigest()


def _model_digest(model: Opened) -> str:
    """What tells the model from others of its name: its files, or what a model in memory holds.

    Empty for a name of which no file is here.
    """
    files = model.files_digest()
    if files or model.is_named:
        return files
    identity = model.identity()
    return json_digest([identity.fingerprint, identity.dtype, dict(identity.more)])


def _gold_digest(source: TaskSource, dataset: Dataset, n_test: int) -> str:
    """Hash of the held-out examples and of all gold that the comparison uses."""
    gold = load_gold(source, dataset)
    content: list[object] = [gold.tolist()]
    if (gold != UNLABELLED).any():
        with suppress(NothingHeldOutError):
            test, test_gold = held_out(source, dataset, n_test)
            content += [test.fingerprint(), test_gold.tolist()]
    return json_digest(content)
