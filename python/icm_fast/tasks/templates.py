"""Prompt templates with ``{column}`` placeholders."""

from __future__ import annotations

from functools import lru_cache
from string import Formatter

from icm_fast.errors import InputError, shown
from icm_fast.tasks.rows import Row


def placeholders(template: str) -> list[str]:
    """Return the columns that a template names."""
    return [name for _, name in pieces(template) if name is not None]


def filled(template: str, row: Row) -> str:
    """The template with the texts of a row.

    Raises:
        InputError: A column is missing, or is not text.
    """
    return "".join(
        text if name is None else text + row.text(name) for text, name in pieces(template)
    )


@lru_cache(maxsize=64)
def pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    """Each text of a template with the column after it, None at the end.

    Raises:
        InputError: Braces that do not close, or that hold more than a name.
    """
    try:
        parsed = [
            (text, name, spec or how) for text, name, spec, how in Formatter().parse(template)
        ]
    except ValueError as error:
        raise InputError(
            f"template {shown(template)}: {error}; write {{{{ and }}}} for literal braces"
        ) from error
    for _, name, extra in parsed:
        if extra or name == "":
            raise InputError(
                f"template {shown(template)}: a placeholder must be a column name in braces, "
                "no more"
            )
    return tuple((text, name) for text, name, _ in parsed)
