"""Rows of data sets on the Hugging Face Hub, streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icm_fast.errors import InputError, first_line, shown
from icm_fast.tasks.formats import Record, class_name, number

if TYPE_CHECKING:
    from collections.abc import Iterable

HUB_PREFIX = "hub:"

_ADDRESS = re.compile(
    r"(?P<name>[\w.-]+(?:/[\w.-]+)?)"
    r"(?:@(?P<revision>refs/(?:convert/\w+|pr/\d+)|[^/:@\s]+))?"
    r"(?:/(?P<config>[^/:@\s]+))?"
    r"(?::(?P<split>[^:@\s]+))?"
)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Which rows of the Hub: ``hub:NAME[@revision][/config][:split]``.

    Attributes:
        name: ``owner/name``, or a name without owner.
        revision: Branch, tag or commit; None for the newest.
        config: Configuration of the data set; None for its only or default one.
        split: Split, by default ``train``.
    """

    name: str
    revision: str | None = None
    config: str | None = None
    split: str = "train"


def hub_address(text: str) -> HubAddress:
    """Read an address.

    Two names before the revision are owner and name, so that the configuration of a data set
    without owner needs a revision: ``hub:NAME@main/config``.

    Raises:
        InputError: The text is not such an address.
    """
    parts = _ADDRESS.fullmatch(text.removeprefix(HUB_PREFIX))
    if parts is None:
        raise InputError(
            f"{shown(text)} is not an address of the Hub; write "
            "hub:NAME[@revision][/config][:split], for example hub:owner/name@main/default:test"
        )
    return HubAddress(parts["name"], parts["revision"], parts["config"], parts["split"] or "train")


def hub_records(text: str) -> Iterator[Record]:
    """Yield the rows of an address; only those that are taken are fetched.

    The numbers of ClassLabel columns become their names.

    Raises:
        InputError: A malformed address, no package datasets, or rows that cannot be loaded.
    """
    address = hub_address(text)
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "Hugging Face data sets need the package datasets; run `pip install icm-fast[datasets]`"
        ) from error
    return number(text, _stream(datasets.load_dataset, text, address), "row")


def _stream(load: object, text: str, address: HubAddress) -> Iterator[Mapping[str, object]]:
    assert callable(load)
    try:
        records: Iterable[Mapping[str, object]] = load(
            *([address.name] if address.config is None else [address.name, address.config]),
            split=address.split,
            streaming=True,
            **({} if address.revision is None else {"revision": address.revision}),
        )
        names = class_names(getattr(records, "features", None))
        for record in records:
            yield {
                column: class_name(value, names[column]) if column in names else value
                for column, value in record.items()
            }
    except Exception as error:  # the hub client raises many types; the user gets one line
        raise InputError(
            f"cannot load {text}: {first_line(error)}; check the name and the network, or pass a "
            "local file"
        ) from error


def class_names(features: object) -> dict[str, list[str]]:
    """Names of the values of the columns that are ClassLabels."""
    if not isinstance(features, Mapping):
        return {}
    return {
        column: list(feature.names)
        for column, feature in features.items()
        if type(feature).__name__ == "ClassLabel"
    }
