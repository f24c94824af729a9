"""What mkdocs does beside turning pages into HTML; not part of the site.

Pages link to files of the repository as they do on any forge: `../kernels/__init__.py`. On the site
such a file becomes a page below `source/`, so that every link works there too, without a network.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
API_SOURCE = REPOSITORY / "build/docs/api/icm_fast"
"""The package as one folder, kernels included, for the reference; nothing is imported from it."""

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
"""A Markdown link or image, with its target."""

_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_IMAGES = (".png", ".svg")
_LANGUAGES = {
    ".py": "python",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".cu": "cpp",
    ".cuh": "cpp",
    ".yaml": "yaml",
    ".json": "json",
}


def on_startup(**_: Any) -> None:
    """Lay out the package for the reference, wherever its folders lie in the repository."""
    shutil.rmtree(API_SOURCE, ignore_errors=True)
    modules = shutil.ignore_patterns("__pycache__", "*.so", "kernels")
    shutil.copytree(REPOSITORY / "python/icm_fast", API_SOURCE, ignore=modules)
    shutil.copytree(REPOSITORY / "kernels", API_SOURCE / "kernels", ignore=modules)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file of the repository that a page links to."""
    pending = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(pending)
    while pending:
        page = pending.pop()
        if not page.endswith(".md"):
            continue
        for path in _linked(page, (REPOSITORY / page).read_text(encoding="utf-8")):
            if path not in seen and not _is_page(path):
                seen.add(path)
                pending.append(path)
                files.append(_generated(path, config))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links to files of the repository lead to their pages."""
    own = _repository_path(page.file.src_uri)
    for start, end in reversed(_targets(markdown)):
        markdown = markdown[:start] + _rewritten(own, markdown[start:end]) + markdown[end:]
    return markdown


def _linked(page: str, markdown: str) -> Iterable[str]:
    """Paths of existing files that a page of the repository links to."""
    for start, end in _targets(markdown):
        path = _target_path(page, markdown[start:end])
        if path is not None:
            yield path


def _targets(markdown: str) -> list[tuple[int, int]]:
    """Where the targets of links begin and end, outside code."""
    masked = _CODE.sub(lambda code: "." * len(code[0]), markdown)
    return [link.span(1) for link in LINK.finditer(masked)]


def _target_path(page: str, target: str) -> str | None:
    """The file in the repository that a link leads to; None where it leads elsewhere."""
    place = target.partition("#")[0]
    if not place or "://" in place or place.startswith("mailto:"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), place))
    return path if (REPOSITORY / path).exists() and not path.startswith("..") else None


def _rewritten(page: str, target: str) -> str:
    """The target as the site needs it."""
    path = _target_path(page, target)
    if path is None:
        return target
    anchor = target.partition("#")[1:]
    link = posixpath.relpath(_site_uri(path), posixpath.dirname(_site_uri(page)) or ".")
    return link + "".join(anchor)


def _site_uri(path: str) -> str:
    """Where a file of the repository is among the sources of the site."""
    if _is_page(path):
        return path.removeprefix("docs/")
    if path.endswith((".md", *_IMAGES)):
        return f"source/{path}"
    return f"source/{path}.md"


def _is_page(path: str) -> bool:
    """Whether a file of the repository is among the sources of the site as it is."""
    return path.startswith("docs/") and path.endswith((".md", *_IMAGES))


def _repository_path(uri: str) -> str:
    """The file of the repository that a page of the site shows."""
    if not uri.startswith("source/"):
        return f"docs/{uri}"
    path = uri.removeprefix("source/")
    return path if (REPOSITORY / path).exists() else path.removesuffix(".md")


def _generated(path: str, config: MkDocsConfig) -> File:
    source = REPOSITORY / path
    if path.endswith((".md", *_IMAGES)):
        return File.generated(config, _site_uri(path), abs_src_path=os.fspath(source))
    return File.generated(config, _site_uri(path), content=_listing(path, source))


def _listing(path: str, source: Path) -> str:
    """A page that shows a file of code, or names the files of a folder."""
    if source.is_dir():
        names = sorted(entry.name for entry in source.iterdir() if entry.name[0] not in "._")
        return f"# {path}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    language = _LANGUAGES.get(source.suffix, "text")
    text = source.read_text(encoding="utf-8")
    return f"# {path}\n\n````{language}\n{text}\n````\n"
