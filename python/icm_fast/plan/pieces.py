r"""Token pieces of a data set, cut so that demonstrations in any order read like whole text.

A context is ``prompt label separator prompt label separator ... prompt``. How a
tokenizer splits the separator depends on the text *after* it ("\n\nReview" is two
tokens in GPT-2's vocabulary, "\n\n" alone is one), so a piece begins with the
separator: the first demonstration of a context has none, every later piece is
``separator + prompt``. Concatenated pieces then equal the tokens of the whole text,
which :func:`tokenize_dataset` verifies example by example.

A preamble is a part of the root, which is forwarded once for all contexts. Where the separator
after it changes its last tokens (a full stop and blank lines are one token in some vocabularies),
the root ends before these, and they begin the first prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icm_fast.errors import InputError
from icm_fast.plan.text_ids import Tokenizer, common_length, text_ids
from icm_fast.types import Dataset

_ENDING = 16
"""Characters at the end of a prompt on which the cut between it and a label depends."""

_PUNCTUATION = ".,:;?!"
_SEPARATORS = ("\n\n", "\n", " \n", "\n---\n", "\n###\n")


@dataclass(frozen=True, slots=True)
class TokenizedDataset:
    """Token ids of the pieces of a data set under one tokenizer.

    Attributes:
        root: Ids at the very start of every context: the BOS token, or nothing, and the preamble.
        first_prompts: Ids of each prompt at the start of the text, or after the preamble.
        later_prompts: Ids of ``separator + prompt`` after another demonstration.
        labels: Ids of each label; all different, none empty.
        terminator: First id of the separator after a label; scored as the end of
            every label if the ids of one are a prefix of another's.
    """

    root: tuple[int, ...]
    first_prompts: tuple[tuple[int, ...], ...]
    later_prompts: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[int, ...], ...]
    terminator: int

    def __len__(self) -> int:
        return len(self.first_prompts)

    def prompt(self, example: int, *, first: bool) -> tuple[int, ...]:
        """Ids of the prompt of ``example``, with the separator before it unless ``first``."""
        return (self.first_prompts if first else self.later_prompts)[example]

    def demonstration(self, example: int, label: int, *, first: bool) -> tuple[int, ...]:
        """Ids of a demonstration: its prompt piece and its label."""
        return self.prompt(example, first=first) + self.labels[label]

    def context(self, order: Sequence[int], labels: Sequence[int]) -> list[int]:
        """Ids of the demonstrations ``order`` (with ``labels[i]`` each) after the root."""
        ids = list(self.root)
        for rank, i in enumerate(order):
            ids += self.demonstration(int(i), int(labels[int(i)]), first=rank == 0)
        return ids

    def demonstration_lengths(
        self, labels: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens of each demonstration, and its extra ones at the start of the text, ``[n]`` each.

        An unlabelled example counts without a label.
        """
        label_tokens = np.array([0 if y < 0 else len(self.labels[y]) for y in labels], np.int64)
        later, extra = self.query_lengths()
        return later + label_tokens, extra

    def demonstration_bounds(self) -> npt.NDArray[np.int64]:
        """Maximum tokens of each demonstration after another one, with any label, ``[n]``."""
        prompts, _ = self.query_lengths()
        bounds: npt.NDArray[np.int64] = prompts + max(len(ids) for ids in self.labels)
        return bounds

    def query_lengths(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens of each query, and its extra ones at the start of the text, ``[n]`` each."""
        later = np.array([len(p) for p in self.later_prompts], dtype=np.int64)
        first = np.array([len(p) for p in self.first_prompts], dtype=np.int64)
        return later, first - later


def tokenize_dataset(dataset: Dataset, tokenizer: Tokenizer) -> TokenizedDataset:
    """Cut a data set into token pieces and verify them against whole-text tokenization.

    Raises:
        InputError: A label has no tokens or the same tokens as another one, or prompt, label
            and separator do not meet at token boundaries.
    """
    n, n_labels = len(dataset), len(dataset.label_space)
    # Every example is cut with one label, in rotation, and one of each ending with all of them.
    endings = {e.prompt[-_ENDING:]: i for i, e in reversed(list(enumerate(dataset.examples)))}
    cases = [(i, i % n_labels) for i in range(n)]
    cases += [(i, y) for i in endings.values() for y in range(n_labels) if y != i % n_labels]
    cuts = _cut(dataset, tokenizer, cases)
    labels: dict[int, tuple[int, ...]] = {}
    first: dict[int, tuple[int, ...]] = {}
    later: dict[int, tuple[int, ...]] = {}
    for (i, y), (head, label, tail) in zip(cases, cuts, strict=True):
        _check_same(dataset, i, y, labels.setdefault(y, label), label, "label")
        _check_same(dataset, i, y, later.setdefault(i, tail), tail, "separator and prompt")
        first.setdefault(i, head)
    label_ids = tuple(labels[y] for y in range(n_labels))
    _check_labels(dataset, label_ids)
    opening = preamble_ids(dataset, tokenizer)
    if dataset.preamble:
        ends = [labels[y] + later[i] for i, y in cases]
        first = _after_preamble(dataset, tokenizer, opening, cases, ends)
    return TokenizedDataset(
        root=root_ids(tokenizer) + opening,
        first_prompts=tuple(first[i] for i in range(n)),
        later_prompts=tuple(later[i] for i in range(n)),
        labels=label_ids,
        terminator=later[0][0],
    )


def root_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that the tokenizer itself puts before any text (BOS)."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start])
    return ()


def preamble_ids(dataset: Dataset, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the preamble that do not depend on what follows it; none without a preamble."""
    if not dataset.preamble:
        return ()
    alone, opening = text_ids(tokenizer, [dataset.preamble, dataset.opening])
    return tuple(alone[: common_length(alone, opening)])


def whole_text_ids(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of a text with BOS and EOS, if the tokenizer has them."""
    ids = root_ids(tokenizer) + tuple(text_ids(tokenizer, [text])[0])
    end = tokenizer.eos_token_id
    return ids if end is None else (*ids, int(end))


def _cut(
    dataset: Dataset, tokenizer: Tokenizer, cases: list[tuple[int, int]]
) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Ids of (prompt at the start, label, separator + prompt) for each (example, label)."""
    texts: list[str] = []
    for i, y in cases:
        prompt, label = dataset.examples[i].prompt, dataset.label_space[y]
        demonstration = prompt + label
        again = demonstration + dataset.separator + prompt
        texts += [prompt, demonstration, again, again + label]
    encoded = _encoded(dataset, tokenizer, texts, cases)
    pieces = []
    for k, (i, y) in enumerate(cases):
        prompt_ids, demo_ids, again_ids, whole_ids = encoded[4 * k : 4 * k + 4]
        for shorter, longer, where in (
            (prompt_ids, demo_ids, "prompt and label"),
            (demo_ids, again_ids, "label and separator"),
            (again_ids, whole_ids, "prompt and label"),
        ):
            if longer[: len(shorter)] != shorter:
                raise InputError(
                    f"example {dataset.examples[i].id!r} (row {i}), label "
                    f"{dataset.label_space[y]!r}: the tokenizer merges {where} into one token; "
                    + _remedy(dataset, tokenizer, i, y, where)
                )
        pieces.append(
            (
                tuple(prompt_ids),
                tuple(demo_ids[len(prompt_ids) :]),
                tuple(again_ids[len(demo_ids) :]),
            )
        )
    return pieces


def _after_preamble(
    dataset: Dataset,
    tokenizer: Tokenizer,
    opening: tuple[int, ...],
    cases: list[tuple[int, int]],
    ends: Sequence[tuple[int, ...]],
) -> dict[int, tuple[int, ...]]:
    """Ids of each prompt between the preamble and a label, for each example.

    Args:
        dataset: The data set.
        tokenizer: The tokenizer.
        opening: Ids of the preamble.
        cases: Pairs of example and label.
        ends: Of each pair: ids of the label, the separator and the same prompt again.
    """
    texts = []
    for i, y in cases:
        prompt, label = dataset.examples[i].prompt, dataset.label_space[y]
        texts.append(dataset.opening + prompt + label + dataset.separator + prompt)
    first: dict[int, tuple[int, ...]] = {}
    for (i, y), end, ids in zip(cases, ends, text_ids(tokenizer, texts), strict=True):
        prompt_end = len(ids) - len(end)
        whole = tuple(ids)
        if whole[: len(opening)] != opening or whole[prompt_end:] != end:
            raise InputError(
                f"example {dataset.examples[i].id!r} (row {i}), label {dataset.label_space[y]!r}: "
                "the tokenizer reads its prompt differently after the preamble; end the preamble "
                "with a letter, or choose another separator"
            )
        prompt_ids = whole[len(opening) : prompt_end]
        _check_same(dataset, i, y, first.setdefault(i, prompt_ids), prompt_ids, "prompt")
    return first


def _remedy(dataset: Dataset, tokenizer: Tokenizer, i: int, y: int, where: str) -> str:
    """What to change where two parts merge, tried with the tokenizer."""
    prompt, label = dataset.examples[i].prompt, dataset.label_space[y]
    if where == "prompt and label":
        better = f" {label.lstrip()}"
        if better != label and _keeps(tokenizer, prompt, better):
            return f"write the label as {better!r}"
        return "end the prompt without whitespace and begin the label with a space"
    bare = label.rstrip(_PUNCTUATION)
    if bare.strip() and bare != label and _keeps(tokenizer, bare, dataset.separator + prompt):
        return f"write the label as {bare!r}"
    for separator in _SEPARATORS:
        if _keeps(tokenizer, label, separator + prompt):
            return (
                f"separator={separator!r} keeps them apart, as does a label that ends in a letter"
            )
    return "end the label with a letter, or choose another separator"


def _keeps(tokenizer: Tokenizer, text: str, more: str) -> bool:
    """Whether the tokens of a text stay what they are when more follows."""
    alone, together = text_ids(tokenizer, [text, text + more])
    return len(together) > len(alone) and together[: len(alone)] == alone


def _encoded(
    dataset: Dataset, tokenizer: Tokenizer, texts: list[str], cases: list[tuple[int, int]]
) -> list[list[int]]:
    """Ids of the texts, of which each case has equally many."""
    try:
        return text_ids(tokenizer, texts)
    except InputError:
        for i, _ in cases:
            try:
                text_ids(tokenizer, [dataset.examples[i].prompt])
            except InputError as error:
                name = dataset.examples[i].id
                raise InputError(f"example {name!r} (row {i}): {error}") from error
        raise


def _check_same(
    dataset: Dataset, i: int, y: int, known: tuple[int, ...], ids: tuple[int, ...], what: str
) -> None:
    if known != ids:
        raise InputError(
            f"the {what} of example {dataset.examples[i].id!r} (row {i}) with label "
            f"{dataset.label_space[y]!r} tokenizes differently in different contexts "
            f"({list(known)} and {list(ids)}); begin labels with a space and end them with a letter"
        )


def _check_labels(dataset: Dataset, labels: tuple[tuple[int, ...], ...]) -> None:
    seen: dict[tuple[int, ...], int] = {}
    for y, ids in enumerate(labels):
        name = dataset.label_space[y]
        if not ids:
            raise InputError(
                f"label {name!r} (number {y}) tokenizes to nothing; choose visible label text"
            )
        if ids in seen:
            raise InputError(
                f"labels {dataset.label_space[seen[ids]]!r} and {name!r} have the same tokens "
                f"{list(ids)}; choose labels that this tokenizer tells apart"
            )
        seen[ids] = y
