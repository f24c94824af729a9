"""Posts of the Blog Authorship Corpus (Schler et al. 2006), paired: one by a man, one by a woman.

Reads the CSV form (blogtext.csv) and the original folder of XML files. Gender
only makes the pairs: with all genders swapped, the same pairs come out in the same order.
"""

from __future__ import annotations

import csv
import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icm_fast.errors import InputError, shown
from icm_fast.tasks.formats import long_fields
from icm_fast.tasks.rows import NOT_TEXT, Row
from icm_fast.tasks.sampling import digest

_COLUMNS = {"id", "gender", "text"}
_GENDERS = ("male", "female")
_FILE_NAME = re.compile(r"([^.]+)\.([^.]+)\..+\.xml", re.IGNORECASE)
# Closing tags are often missing, so a post also ends where the next element begins.
_POST = re.compile(r"<post>(.*?)(?=</?post>|<date>|</blog>|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Post:
    author: str
    gender: str
    text: str


def is_blog_corpus(path: Path) -> bool:
    """Tell whether ``path`` is a folder, or a CSV file with the columns of the corpus."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return path.is_dir()
    with _open_csv(path) as reader:
        return set(reader.fieldnames or ()) >= _COLUMNS


def blog_pairs(path: Path, *, seed: int, min_chars: int, max_chars: int) -> list[Row]:
    """Return pairs of posts as rows in the authors' schema, two rows (both orders) per pair.

    Args:
        path: CSV file or folder of XML files.
        seed: Seed of the draw of one post per author, and of the pairs.
        min_chars: Shorter posts are skipped.
        max_chars: Longer posts are cut, between two words if possible.

    Raises:
        InputError: Wrong option, unreadable file, unknown gender, an author of two genders, or
            no post of one gender.
    """
    for name, value in (("min_chars", min_chars), ("max_chars", max_chars)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be an integer of at least 1, got {shown(value)}")
    posts = _folder_posts(path) if path.is_dir() else _csv_posts(path)
    drawn = _one_per_author(posts, seed, min_chars, max_chars)
    men, women = ([post for post in drawn if post.gender == gender] for gender in _GENDERS)
    if not men or not women:
        raise InputError(
            f"{path.name}: {len(men)} male and {len(women)} female authors have a post of at least "
            f"{min_chars} characters, and a pair needs one of each; lower min_chars, or use a "
            "larger part of the corpus"
        )
    rows: list[Row] = []
    for man, woman in zip(men, women, strict=False):  # the rest of the larger side is unused
        first, second = sorted((man, woman), key=lambda post: digest("side", seed, post.author))
        group = f"{first.author}-{second.author}"
        for one, other in ((first, second), (second, first)):
            values = {
                "choice": one.text,
                "choice_2": other.text,
                "consistency_id": group,
                "label": one is man,
            }
            rows.append(Row(len(rows), f"{path.name}, authors {group}", values))
    return rows


def _one_per_author(
    posts: Iterable[_Post], seed: int, min_chars: int, max_chars: int
) -> list[_Post]:
    """Draw one post per author; authors in seeded order, no text twice.

    Only the best draws so far are kept, so the corpus may be larger than memory.
    """
    genders: dict[str, str] = {}
    counts: Counter[str] = Counter()
    best: dict[str, tuple[int, _Post]] = {}
    for post in posts:
        author = post.author
        if genders.setdefault(author, post.gender) != post.gender:
            raise InputError(
                f"author {author} is {genders[author]} in one place and {post.gender} in another; "
                "correct the gender or remove the author"
            )
        rank = digest("post", seed, author, counts[author])
        counts[author] += 1
        if author in best and best[author][0] <= rank:
            continue
        text = " ".join(NOT_TEXT.sub("", html.unescape(post.text)).split())
        if len(text) >= min_chars:
            best[author] = (rank, _Post(author, post.gender, _cut(text, max_chars)))
    # Otherwise a quiz that many bloggers filled in would be compared with itself.
    by_text: dict[str, _Post] = {}
    for author in sorted(best, key=lambda author: (digest("author", seed, author), author)):
        post = best[author][1]
        by_text.setdefault(post.text, post)
    return list(by_text.values())


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    words, blank, _ = text[: max_chars + 1].rpartition(" ")
    return words if blank else text[:max_chars]


def _csv_posts(path: Path) -> Iterator[_Post]:
    with _open_csv(path) as reader:
        try:
            for number, record in enumerate(reader, start=1):
                where = f"{path.name}, row {number}"
                if None in record or None in record.values():
                    raise InputError(
                        f"{where}: not {len(reader.fieldnames or ())} fields as in the header; "
                        "quote fields that contain commas"
                    )
                gender = _gender(where, record["gender"])
                yield _Post(record["id"].strip(), gender, record["text"])
        except csv.Error as error:
            raise InputError(
                f"{path.name}, line {reader.line_num}: {error}; correct that line"
            ) from error


@contextmanager
def _open_csv(path: Path) -> Iterator[csv.DictReader[str]]:
    try:
        with (
            long_fields(),
            path.open(encoding="utf-8-sig", errors="replace", newline="") as file,
        ):
            yield csv.DictReader(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def _folder_posts(folder: Path) -> Iterator[_Post]:
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() == ".xml" and not file.name.startswith(".")
    )
    if not files:
        raise InputError(f"{folder} contains no .xml file; pass the folder of the corpus itself")
    for file in files:
        name = _FILE_NAME.fullmatch(file.name)
        if name is None:
            raise InputError(
                f"{file.name}: not named <id>.<gender>.<age>.<industry>.<sign>.xml; rename the "
                "file or move it out of the folder"
            )
        gender = _gender(file.name, name[2])
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(
                f"cannot read {file}: {error.strerror}; check its permissions"
            ) from error
        for post in _POST.finditer(text):
            yield _Post(name[1], gender, post[1])


def _gender(where: str, text: str) -> str:
    gender = text.strip().lower()
    if gender not in _GENDERS:
        raise InputError(
            f"{where}: gender is {shown(text)}; write male or female, or remove the post"
        )
    return gender
