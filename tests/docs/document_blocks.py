"""The documents, their fenced blocks and their links, for the tests of this folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    *(REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    REPOSITORY / "benchmarks/README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
)
RUNNABLE = ("sh", "python")

_FENCE = re.compile(r"^(```+)(\w*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^(```+).*?^\1$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- run: (quick|slow|no \([^)]+\)) -->\n\Z")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        document: Its file.
        line: Of its first line, from 1.
        language: As the fence has it.
        text: Its content.
        run: ``quick``, ``slow``, ``no (reason)``, or "" without the comment that says so.
    """

    document: Path
    line: int
    language: str
    text: str
    run: str

    @property
    def name(self) -> str:
        """File and line, for messages."""
        return f"{self.document.relative_to(REPOSITORY)}:{self.line}"


def name_of(document: Path) -> str:
    """The path in the repository, for the names of tests."""
    return str(document.relative_to(REPOSITORY))


def blocks_of(document: Path) -> Iterator[Block]:
    """Yield the blocks of a document that a reader would run."""
    text = document.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        comment = _COMMENT.search(text, 0, match.start())
        if match[2] in RUNNABLE:
            line = text.count("\n", 0, match.start()) + 1
            yield Block(document, line, match[2], match[3], comment[1] if comment else "")


def links_of(document: Path) -> list[str]:
    """Targets of a document's links within the repository."""
    targets = _LINK.findall(_CODE.sub("code", document.read_text(encoding="utf-8")))
    return [t for t in targets if "://" not in t and not t.startswith("mailto:")]


def inline_code(document: Path) -> list[str]:
    """Every piece of inline code."""
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    return re.findall(r"`([^`\n]+)`", text)


def anchors_of(document: Path) -> set[str]:
    """Anchors of the headings, where a forge and the site give the same one."""
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    words = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in _HEADING.findall(text)]
    forge = {re.sub(r"\s", "-", word) for word in words}
    return forge & {re.sub(r"[-\s]+", "-", word) for word in words}
