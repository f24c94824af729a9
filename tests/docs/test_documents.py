"""Documents hold what they promise: sizes, links, commands, imports and numbers."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from document_blocks import (
    DOCUMENTS,
    REPOSITORY,
    Block,
    anchors_of,
    blocks_of,
    inline_code,
    links_of,
    name_of,
)

BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
REFERENCE = REPOSITORY / "docs/reference"
RESULTS = REPOSITORY / "docs/results.md"


@pytest.mark.parametrize(
    ("name", "lines", "words"), [("README.md", 90, 700), ("ARCHITECTURE.md", 120, 1200)]
)
def test_first_pages_stay_short(name: str, lines: int, words: int) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= lines
    assert len(text.split()) <= words


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    dead = [target for target in links_of(document) if not _resolves(document, target)]
    assert not dead


def _resolves(document: Path, target: str) -> bool:
    place, _, anchor = target.partition("#")
    path = (document.parent / place).resolve() if place else document
    if not path.exists() or REPOSITORY not in (path, *path.parents):
        return False
    return not anchor or (path.suffix == ".md" and anchor in anchors_of(path))


def test_a_kernel_is_five_clicks_from_the_readme() -> None:
    reached, page = {REPOSITORY / "README.md"}, "kernels/tree_attention/naive.py"
    for _ in range(5):
        reached |= {
            (document.parent / target.partition("#")[0]).resolve()
            for document in reached
            if document.suffix == ".md"
            for target in links_of(document)
        }
    assert REPOSITORY / page in reached


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    new = {REPOSITORY / "README.md", REPOSITORY / "docs/index.md"}
    while new:
        reached |= new
        new = {
            (document.parent / target.partition("#")[0]).resolve()
            for document in new
            if document.suffix == ".md"
            for target in links_of(document)
        } - reached
    pages = {page for page in (REPOSITORY / "docs").rglob("*.md") if page.parent != REFERENCE}
    assert not pages - reached


def test_every_block_says_whether_it_runs() -> None:
    assert not [block.name for block in BLOCKS if not block.run]


def _commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, as words; what here-documents hold is left out."""
    text = re.sub(r"<<'(\w+)'.*?^\1$", "", block.text, flags=re.MULTILINE | re.DOTALL)
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


COMMANDS = [
    pytest.param(words, id=f"{block.name}-{shlex.join(words)}")
    for block in BLOCKS
    if block.language == "sh"
    for words in _commands(block)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words: list[str]) -> None:
    if words[0] == "icm-fast":
        _parse(words[1:])
    elif words[0] == "make":
        _check_make(words[1:])
    elif "-m" in words and words[words.index("-m") + 1] == "icm_fast":
        _parse(words[words.index("-m") + 2 :])
    elif words[:2] == ["python", "-m"]:
        assert _is_module(words[2])
    else:
        shown = ("cat", "printf", ".", "pip", "cmake", "ctest", "python", "git", "build/debug")
        shown += ("docker",)
        assert words[0].startswith(shown)


def _is_module(name: str) -> bool:
    """Whether ``python -m`` finds it in a clone."""
    if name.startswith("benchmarks."):
        path = REPOSITORY / name.replace(".", "/")
        return path.with_suffix(".py").exists() or (path / "__main__.py").exists()
    return importlib.util.find_spec(name) is not None


def _parse(words: list[str]) -> None:
    """Parse a command line as the program would, and run nothing."""
    from icm_fast.cli.commands import app

    command: Any = typer.main.get_command(app)
    parent = None
    while True:
        context = command.make_context(command.name or "icm-fast", list(words), parent=parent)
        if not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, list(_rest(context)))
        parent = context


def _rest(context: Any) -> list[str]:
    """The words after a group's options; the first names its command."""
    kept = getattr(context, "_protected_args", None) or context.protected_args
    return [*kept, *context.args]


def _check_make(words: list[str]) -> None:
    targets = [word for word in words if "=" not in word]
    rules = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) <= set(rules)


def _named_commands() -> set[str]:
    """The commands that the text names: ``evaluate run`` of ``icm-fast evaluate run RUN``."""
    named = set()
    for document in DOCUMENTS:
        if document == RESULTS:
            continue  # it quotes commands as they were recorded
        for code in inline_code(document):
            words = re.match(r"icm-fast ((?:[a-z][a-z-]*(?: |$))+)", code)
            if words:
                named.add(words[1].strip())
    return named


def test_named_commands_exist() -> None:
    assert len(_named_commands()) > 10
    assert not [name for name in sorted(_named_commands()) if not _is_command(name)]


def _is_command(name: str) -> bool:
    from icm_fast.cli.commands import app

    command: Any = typer.main.get_command(app)
    for word in name.split():
        known = getattr(command, "commands", None)
        if known is None:
            return True  # the other words are arguments
        if word not in known:
            return False
        command = known[word]
    return True


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_blocks_name_what_exists(block: Block) -> None:
    tree = ast.parse(block.text, block.name)
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("icm_fast"):
            for alias in node.names:
                names[alias.asname or alias.name] = _member(str(node.module), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("icm_fast"):
                    importlib.import_module(alias.name)
                    names["icm_fast"] = importlib.import_module("icm_fast")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _follow(node, names)


def _member(module: str, name: str) -> Any:
    holder = importlib.import_module(module)
    return getattr(holder, name, None) or importlib.import_module(f"{module}.{name}")


def _follow(node: ast.expr, names: dict[str, Any]) -> Any:
    """What a dotted name of the library stands for; None for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        holder = _follow(node.value, names)
        return None if holder is None else getattr(holder, node.attr)
    return None


def test_numbers_of_the_readme_are_results() -> None:
    rows = [r for r in (REPOSITORY / "README.md").read_text().splitlines() if r.startswith("|")]
    numbers = re.findall(r"\b\d+(?:\.\d+)?\b", re.sub(r"\(.*?\)", "", "\n".join(rows)))
    assert len(numbers) > 10
    known = set(re.findall(r"\b\d+(?:\.\d+)?\b", RESULTS.read_text(encoding="utf-8")))
    assert not set(numbers) - known


def test_citation_names_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    newest = re.search(r"^## (\S+?),? ", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert (citation["version"], citation["license"]) == (newest[1], project["license"])
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2506.10139"


@pytest.mark.parametrize(
    ("module", "page"),
    [
        ("icm_fast", "icm_fast"),
        ("icm_fast.evaluation", "evaluation"),
        ("icm_fast.labelling", "labelling"),
        ("icm_fast.training.sft", "sft"),
        ("icm_fast.training.reward", "reward"),
        ("icm_fast.training.rl", "rl"),
    ],
)
def test_public_names_are_in_the_reference(module: str, page: str) -> None:
    text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    rooms = {"__version__", "evaluate", "simulate"}
    assert not set(importlib.import_module(module).__all__) - shown - rooms


def test_settings_are_those_of_the_search() -> None:
    import dataclasses

    from icm_fast import SearchConfig
    from icm_fast.config import PRESETS

    page = REPOSITORY / "docs/settings.md"
    rows = re.findall(r"^\| (`[^|]*`) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    named = {re.split(r"[=\[]", name)[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    fields = {field.name for field in dataclasses.fields(SearchConfig)}
    assert not named - fields - set(PRESETS)
