"""One column and one seed of an experiment: a search, then every method's predictions.

Each result is a separate file, written whole or not at all; an interrupted cell resumes with the
first missing one. A search gets the examples alone. Gold labels are read next to it, for a digest
that says what results came from, and are never passed to it, except for those that a column's
``start`` takes on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

import numpy as np

from icm_fast.config import without_removed
from icm_fast.errors import InputError
from icm_fast.evaluation.many_shot import predict
from icm_fast.evaluation.metrics import accuracy
from icm_fast.evaluation.prompt_formats import chat_pieces
from icm_fast.experiments.cell_data import CellData
from icm_fast.experiments.cell_search import run_search
from icm_fast.experiments.documents import HeldOutFacts, OrderFacts, Record, SearchFacts, Versions
from icm_fast.experiments.experiment import Column
from icm_fast.experiments.methods import METHODS
from icm_fast.experiments.orders import order_sensitivity
from icm_fast.experiments.predicting import Prediction, predict_test
from icm_fast.files import is_file, refuse_links, write_atomically, writing
from icm_fast.files.fields import read_shape
from icm_fast.identity import as_stored, check_same, json_digest
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.runs.labels import read_labels
from icm_fast.runs.provenance import machine_facts, versions
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.models import TOKENIZING
from icm_fast.tracking import TrackLike, part_of
from icm_fast.types import Dataset, IntArray, Reporter

if TYPE_CHECKING:
    from icm_fast.scoring.models import Opened, ScoringModel

Document = TypeVar("Document")

IDENTITY_FILE = "identity.json"
_OTHER_FOLDER = "choose another output folder or delete this one"
_DELETE = "delete the file to compute it again"
MACHINE = "machine"
_RESULTS = 2
"""Increased when methods or their stored results change, so that old results are not mixed in."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """All results of one cell.

    Attributes:
        seed: Its seed.
        search: Facts about the search.
        test: ``ids``, ``gold``, ``groups`` and constraint ``pairs`` of the held-out examples.
        predictions: By method.
        orders: What :func:`order_sensitivity` returns; None if the column has no ``n_orders``.
        identity: What its results came from.
        versions: Of packages, and the ``machine``: one entry for each set that computed something.
    """

    seed: int
    search: SearchFacts
    test: HeldOutFacts
    predictions: dict[str, Prediction]
    orders: OrderFacts | None
    identity: dict[str, object]
    versions: list[Versions]


class _StoredPrediction(TypedDict):
    """A :class:`Prediction` in JSON."""

    scores: list[list[float]] | None
    reason: str
    n_shots: int
    labels_accuracy: float | None
    n_tokens: int
    seconds: float


class Cell:
    """The work of one cell; finished parts are read from its files.

    Args:
        column: What is labelled.
        seed: Seed of data, search and test examples.
        folder: Where its files are kept.
        model: The column's model, shared with other cells.
        data: Folder of the data files.
        chat_model: The column's model for prompts in a chat template; the same by default.
    """

    def __init__(
        self,
        column: Column,
        seed: int,
        folder: Path,
        model: Opened,
        data: Path | None,
        chat_model: Opened | None = None,
    ) -> None:
        self._folder = folder
        self._data = CellData(column, seed, model, data, chat_model)

    def run(
        self, methods: Sequence[str], reporter: Reporter, track: TrackLike = None
    ) -> CellResult:
        """Search, then predict by each method.

        Steps of the search, and of trainings under the name of their method, go to ``track``.

        Raises:
            InputError: Data, settings or model do not fit each other, or differ from those that
                earlier results in the folder came from.
        """
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._check_identity()
        facts = self._kept(
            "search.json",
            lambda: run_search(self._data, self._folder / "search", reporter, track),
            SearchFacts,
        )
        reporter.say(
            f"search: agreement {facts['agreement']:.2f}, {facts['n_evaluations']} evaluations, "
            f"{facts['seconds']:.0f} s"
        )
        test = self._kept("test.json", self._describe_test, HeldOutFacts)
        if test != as_stored(dict(self._describe_test())):
            raise InputError(
                f"{self._folder / 'test.json'} differs from the held-out data; {_DELETE}"
            )
        found = read_labels(self._folder / "search", self._data.dataset)
        predictions = {}
        for name in methods:
            predictions[name] = self._prediction(name, found, part_of(track, name))
            reporter.say(f"{name}: {_outcome(predictions[name], np.array(test['gold'], np.int32))}")
        orders = self._orders(found, reporter)
        return CellResult(self._data.seed, facts, test, predictions, orders, **self._record())

    def _identity(self) -> dict[str, object]:
        """All that the results depend on, as JSON gives it back."""
        data = self._data
        test, gold = data.test
        return as_stored(
            {
                "results": _RESULTS,
                "config": data.column.config(data.seed).to_dict(),
                "start": data.column.start and [data.column.start, data.column.n_start],
                "tuning": data.column.tuning_config(data.seed).to_dict(),
                "data": data.dataset.fingerprint(),
                "data_gold": json_digest(data.gold.tolist()),
                "test": test.fingerprint(),
                "test_gold": json_digest(gold.tolist()),
                "model": _weights(data.model),
                "chat_model": data.column.chat_model and _weights(data.chat_model),
                "model_tokens": _tokens(data.model, data.dataset, test),
                "chat_tokens": data.column.chat_model and _chat_tokens(data.chat_model, test),
                **({"hhh_prompt": json_digest(data.hhh_prompt)} if data.hhh_prompt else {}),
                **({"batch_size": data.column.batch_size} if data.column.batch_size else {}),
            }
        )

    def _check_identity(self) -> None:
        """Refuse a folder with results of another cell; mark an empty one."""
        identity, path = self._identity(), self._folder / IDENTITY_FILE
        refuse_links(self._folder)
        if is_file(path):
            stored = self._record()["identity"]
            config = stored.get("config")
            if not isinstance(config, dict):
                raise InputError(f"{path} names no settings; {_OTHER_FOLDER}")
            stored["config"] = without_removed(config)
            check_same(self._folder, stored, identity, "cell of an experiment")
            return
        if any(self._folder.iterdir()):
            raise InputError(
                f"{self._folder} does not say what its results came from ({IDENTITY_FILE} is "
                "missing); choose another output folder or delete this one"
            )
        self._write(IDENTITY_FILE, {"identity": identity, "versions": []})

    def _record(self) -> Record:
        return read_shape(self._folder / IDENTITY_FILE, Record, _OTHER_FOLDER)

    def _note_versions(self) -> None:
        """Record the versions and the machine that compute something here."""
        record, now = self._record(), versions(("trl", "peft"))
        now |= {MACHINE: _machine_of(self._data.model)}
        if now not in record["versions"]:
            self._write(IDENTITY_FILE, {**record, "versions": [*record["versions"], now]})

    def _write(self, name: str, content: object) -> None:
        write_atomically(self._folder / name, (json.dumps(content) + "\n").encode())

    def _orders(self, found: IntArray, reporter: Reporter) -> OrderFacts | None:
        n_orders = self._data.column.n_orders
        if not n_orders:
            return None
        orders = self._kept(
            f"orders-{n_orders}.json",
            lambda: order_sensitivity(self._data, found, n_orders),
            OrderFacts,
        )
        if len(orders["orders"]) != n_orders:
            raise InputError(f"{self._folder} holds other orders than {n_orders}; {_DELETE}")
        values = [order["accuracy"] for order in orders["orders"]]
        reporter.say(f"{n_orders} orders: accuracy {min(values):.2f} to {max(values):.2f}")
        return orders

    def _prediction(self, name: str, found: IntArray, track: TrackLike) -> Prediction:
        folder = self._folder / name
        path = self._folder / f"{name}.json"
        if not is_file(path):
            self._note_versions()
            made = predict_test(METHODS[name], self._data, found, folder, track)
            self._write(path.name, asdict(made))
        read = Prediction(**read_shape(path, _StoredPrediction, _DELETE))
        test = self._data.test[0]
        if read.scores is not None and (
            len(read.scores) != len(test)
            or {len(row) for row in read.scores} != {len(test.label_space)}
        ):
            raise InputError(
                f"{path}: scores of other examples than the {len(test)} held out; {_DELETE}"
            )
        return read

    def _kept(self, name: str, make: Callable[[], Document], shape: type[Document]) -> Document:
        """Content of a JSON file of the cell; ``make`` gives it if the file is missing."""
        path = self._folder / name
        if not is_file(path):
            self._note_versions()
            self._write(name, make())
        return read_shape(path, shape, _DELETE)

    def _describe_test(self) -> HeldOutFacts:
        test, gold = self._data.test
        return {
            "ids": [example.id for example in test.examples],
            "gold": gold.tolist(),
            "groups": [example.group for example in test.examples],
            "labels": list(test.label_space),
            "pairs": [(c.first, c.second, c.allowed) for c in test.constraints],
        }


def _weights(model: Opened) -> dict[str, str]:
    identity = model.identity()
    return {"fingerprint": identity.fingerprint, "dtype": identity.dtype}


def _tokens(model: Opened, *datasets: Dataset) -> list[str]:
    """What a model reads of data sets, and how it computes."""
    tokenizer = model.load().tokenizer
    with TOKENIZING:
        pieces = [asdict(tokenize_dataset(dataset, tokenizer)) for dataset in datasets]
    return [json_digest(pieces), *model.identity().more.values()]


def _chat_tokens(model: Opened, dataset: Dataset) -> list[str]:
    """What a chat model reads of a data set in its template, and how it computes."""
    tokenizer = model.load().tokenizer
    try:
        with TOKENIZING:
            read = json_digest(asdict(chat_pieces(dataset, tokenizer)))
    except InputError as error:
        read = str(error)  # the method that needs the template says so
    return [read, *model.identity().more.values()]


def _machine_of(model: Opened) -> str:
    """The machine that computes: this one, or that of a worker."""
    return model.call(_machine) if isinstance(model, ModelElsewhere) else _machine()


def _machine(model: ScoringModel | None = None) -> str:
    facts = machine_facts()
    return f"{facts['processor']}, {facts['instruction_sets']}, {facts['processors']} threads"


def _outcome(prediction: Prediction, gold: IntArray) -> str:
    if prediction.scores is None:
        return f"left out, {prediction.reason}"
    scores = np.array(prediction.scores, np.float32)
    plain, calibrated = (accuracy(predict(scores, calibrated=c), gold) for c in (False, True))
    return f"accuracy {plain:.2f}, calibrated {calibrated:.2f}, {prediction.seconds:.0f} s"
