from dataclasses import replace

import numpy as np
import pytest
from transformers import AddedToken

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.leave_one_out import plan_pieces
from icm_fast.plan.pieces import tokenize_dataset, whole_text_ids
from icm_fast.plan.text_ids import lost_texts, marked_text, text_ids
from icm_fast.types import Dataset, Example, LabelSpace
from reference.leave_one_out import context_text
from tiny_models import (
    MULTI,
    PREFIX,
    SINGLE,
    byte_tokenizer,
    metaspace_tokenizer,
    mixed_labels,
    reviews,
)

TOKENIZERS = {
    "bytes": byte_tokenizer,
    "bytes with BOS": lambda: byte_tokenizer(bos=True),
    "metaspace": lambda: metaspace_tokenizer(bos=False),
    "metaspace with BOS": metaspace_tokenizer,
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


class PieceTokenizer:
    """Splits at the given pieces, else into characters; pieces may stand for nothing."""

    def __init__(self, **pieces):
        self.pieces = pieces

    def __call__(self, text, add_special_tokens=False, **_):
        texts = [text] if isinstance(text, str) else text
        ids = [self._encode(one) for one in texts]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}

    def _encode(self, text):
        ids = []
        while text:
            piece = next((p for p in self.pieces if text.startswith(p)), text[0])
            ids += self.pieces.get(piece, [ord(piece[0])])
            text = text[len(piece) :]
        return ids


def dataset_of(prompts, labels=SINGLE, separator="\n\n"):
    examples = tuple(Example(f"e{i}", prompt) for i, prompt in enumerate(prompts))
    return Dataset(examples, LabelSpace(labels), separator=separator)


def test_labels_are_what_the_tests_need():
    """One token each; several each; one that begins another."""
    for make in (byte_tokenizer, metaspace_tokenizer):
        single, multi, prefix = (
            tokenize_dataset(reviews(labels), make()).labels for labels in (SINGLE, MULTI, PREFIX)
        )
        assert {len(ids) for ids in single} == {1}
        assert all(len(ids) > 1 for ids in multi)
        assert multi[0][0] == multi[1][0]
        assert prefix[1][: len(prefix[0])] == prefix[0]


PREAMBLES = ("", "Good or bad?", "Judge the films.\n\nLabels:\n- good: worth a ticket")


@pytest.mark.parametrize("preamble", PREAMBLES)
@pytest.mark.parametrize("labels", [SINGLE, MULTI, PREFIX])
def test_pieces_in_any_order_are_the_tokens_of_the_whole_text(tokenizer, labels, preamble):
    dataset = replace(reviews(labels), preamble=preamble)
    pieces = tokenize_dataset(dataset, tokenizer)
    rng = np.random.default_rng(3)
    for _ in range(20):
        assignment = rng.integers(0, len(labels), len(dataset)).astype(np.int32)
        order = rng.permutation(len(dataset))[: rng.integers(0, len(dataset))].tolist()
        query = int(rng.integers(0, len(dataset)))
        text = context_text(dataset, assignment, order) + dataset.examples[query].prompt
        ids = pieces.context(order, assignment.tolist())
        ids += pieces.prompt(query, first=not order)
        assert ids == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("preamble", PREAMBLES)
@pytest.mark.parametrize("labels", [SINGLE, MULTI, PREFIX])
def test_prompt_ids_and_segments_are_the_tokens_of_the_whole_text(tokenizer, labels, preamble):
    dataset = replace(reviews(labels), preamble=preamble)
    pieces = tokenize_dataset(dataset, tokenizer)
    tree = label_tree(pieces)
    for state in (mixed_labels(dataset), np.full(len(dataset), -1, np.int32)):
        plan = plan_pieces(pieces, state, (tree.tail_tokens, tree.tail_parents), SearchConfig())
        for i, order in enumerate(plan.contexts):
            text = context_text(dataset, state, order) + dataset.examples[i].prompt
            assert plan.prompt_ids(i) == tokenizer(text)["input_ids"]
            assert _ids_on_the_path(plan, i) == plan.prompt_ids(i)


def _ids_on_the_path(plan, example):
    segment, ids = plan.tree.query_segment(example), []
    while segment >= 0:
        ids = plan.segment_ids(segment) + ids
        segment = int(plan.tree.parent[segment])
    return ids


def test_lengths_count_the_pieces(tokenizer):
    dataset = reviews(MULTI)
    pieces = tokenize_dataset(dataset, tokenizer)
    labels = mixed_labels(dataset).tolist()
    later, extra = pieces.demonstration_lengths(labels)
    for i, y in enumerate(labels):
        for first in (False, True):
            expected = pieces.prompt(i, first=first) + (() if y < 0 else pieces.labels[y])
            assert later[i] + first * extra[i] == len(expected)
    assert pieces.query_lengths()[0].tolist() == [len(p) for p in pieces.later_prompts]


def test_metaspace_opens_the_text_with_a_piece_of_its_own():
    pieces = tokenize_dataset(reviews(), metaspace_tokenizer())
    first, later = pieces.first_prompts[0], pieces.later_prompts[0]
    assert first != later[2:]
    assert pieces.root == (1,)


def test_no_bos_no_root():
    assert tokenize_dataset(reviews(), byte_tokenizer()).root == ()


def test_a_preamble_is_in_the_root_and_none_changes_nothing():
    dataset, tokenizer = reviews(), byte_tokenizer(bos=True)
    plain = tokenize_dataset(dataset, tokenizer)
    pieces = tokenize_dataset(replace(dataset, preamble="Good or bad"), tokenizer)
    assert pieces.root == tuple(tokenizer("Good or bad")["input_ids"])
    assert pieces.first_prompts == pieces.later_prompts == plain.later_prompts
    assert tokenize_dataset(replace(dataset, preamble=""), tokenizer) == plain


def test_the_root_ends_before_what_the_separator_changes():
    """Full stop and line feeds are one token, as in the vocabularies of Llama 3 and Qwen."""
    tokenizer = PieceTokenizer(**{".\n": [500]})
    dataset = dataset_of(["q:", "r:"], (" yes", " no"), separator="\n")
    pieces = tokenize_dataset(replace(dataset, preamble="Do."), tokenizer)
    assert pieces.root == (ord("D"), ord("o"))
    assert pieces.first_prompts[0] == (500, ord("q"), ord(":"))
    assert pieces.later_prompts[0] == (ord("\n"), ord("q"), ord(":"))
    ids = pieces.context([1], [0, 0]) + list(pieces.prompt(0, first=False))
    assert ids == tokenizer("Do.\nr: yes\nq:")["input_ids"]


def test_a_preamble_that_changes_a_prompt_is_refused():
    tokenizer = PieceTokenizer(**{"do.\nq": [500], "o.\n": [501]})
    dataset = dataset_of(["r:", "q:"], (" yes", " no"), separator="\n")
    with pytest.raises(InputError, match=r"example 'e1' \(row 1\).*differently after the preamble"):
        tokenize_dataset(replace(dataset, preamble="Do it, do."), tokenizer)


def test_special_tokens_behind_the_text_are_no_root():
    class Closing(PieceTokenizer):
        def __call__(self, text, add_special_tokens=False, **_):
            ids = super().__call__(text)["input_ids"]
            return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}

    assert tokenize_dataset(dataset_of(["q:"]), Closing()).root == (1,)


def test_label_that_tokenizes_to_nothing():
    tokenizer = PieceTokenizer(**{" no": []})
    with pytest.raises(InputError, match=r"label ' no' \(number 1\) tokenizes to nothing"):
        tokenize_dataset(dataset_of(["q:", "r:"], (" yes", " no")), tokenizer)


def test_two_labels_with_the_same_tokens():
    tokenizer = PieceTokenizer(**{" yes": [7], " YES": [7]})
    with pytest.raises(InputError, match=r"labels ' yes' and ' YES' have the same tokens \[7\]"):
        tokenize_dataset(dataset_of(["q:", "r:"], (" yes", " YES")), tokenizer)


def test_prompt_and_label_that_merge_name_the_row():
    tokenizer = PieceTokenizer(**{": yes": [7]})
    with pytest.raises(InputError, match=r"'e1' \(row 1\), label ' yes': .* merges prompt and"):
        tokenize_dataset(dataset_of(["q?", "r:"], (" no", " yes")), tokenizer)


def test_label_and_separator_that_merge():
    tokenizer = PieceTokenizer(**{"s\n": [7]})
    with pytest.raises(InputError, match="merges label and separator"):
        tokenize_dataset(dataset_of(["q:"], (" yes", " no")), tokenizer)


def test_label_that_depends_on_its_prompt():
    tokenizer = PieceTokenizer(**{"!": [33], "? yes": [63, 7], ": yes": [58, 8]})
    with pytest.raises(InputError, match=r"label of example 'e2' \(row 2\).*differently"):
        tokenize_dataset(dataset_of(["q?", "r!", "s:"], (" yes", " no")), tokenizer)


def test_prompt_that_ends_in_white_space():
    with pytest.raises(ValueError, match=r"'e1' \(row 1\) ends in whitespace.*strip it"):
        dataset_of(["q:", "r: "])


def test_a_merge_names_what_the_tokenizer_keeps_whole():
    tokenizer = PieceTokenizer(**{".\n": [7], ":y": [8]})
    with pytest.raises(InputError, match=r"label and separator .* write the label as ' yes'"):
        tokenize_dataset(dataset_of(["q:"], (" yes.", " no.")), tokenizer)
    with pytest.raises(InputError, match=r"prompt and label .* write the label as ' yes'"):
        tokenize_dataset(dataset_of(["q:"], ("yes", " no")), tokenizer)
    tokenizer = PieceTokenizer(**{"s\n\n": [7]})
    with pytest.raises(InputError, match=r"separator='\\n' keeps them apart"):
        tokenize_dataset(dataset_of(["q:"], (" yes", " no")), tokenizer)


def test_every_label_is_joined_with_every_ending():
    tokenizer = PieceTokenizer(**{"! no": [7]})
    with pytest.raises(InputError, match=r"'e0' \(row 0\), label ' no': .* merges prompt and"):
        tokenize_dataset(dataset_of(["q!", "r?"], (" yes", " no")), tokenizer)


@pytest.mark.parametrize("text", ["a </s> b", "<s>", "<pad>film"])
def test_data_that_spell_control_tokens_stay_text(tokenizer, text):
    plain = text_ids(tokenizer, [text, "a warm film"])
    assert not {0, 1, 2} & set(plain[0])
    assert plain[1] == tokenizer("a warm film", add_special_tokens=False)["input_ids"]
    assert (
        marked_text(byte_tokenizer(), text_ids(byte_tokenizer(), [text])[0]).replace("|", "")
        == text
    )
    pieces = tokenize_dataset(dataset_of([f"Review: {text}:", "Review: dull:"]), tokenizer)
    assert not {0, 1, 2} & {i for p in (*pieces.first_prompts, *pieces.later_prompts) for i in p}
    assert not {0, 1} & set(whole_text_ids(text, tokenizer)[len(pieces.root) : -1])


def test_control_tokens_that_cannot_be_text_name_the_row():
    tokenizer = PieceTokenizer(**{"</s>": [7]})
    tokenizer.added_tokens_decoder = {7: AddedToken("</s>", special=True)}
    with pytest.raises(InputError, match=r"'e1' \(row 1\): .* holds '</s>', a control token"):
        tokenize_dataset(dataset_of(["q:", "r</s>:"]), tokenizer)


def test_texts_that_tokens_lose_are_found():
    known, unknown = "a warm film", "a w\u00e4rm film \u4e2d"
    assert lost_texts(byte_tokenizer(), byte_tokenizer(), [known, unknown]) == []
    small = metaspace_tokenizer()
    assert lost_texts(small, small, [known, unknown, "A  warm\nfilm"[2:]]) == [1]


def test_the_boundaries_of_tokens_are_shown():
    ids = byte_tokenizer()("Review: dull\nSentiment: \u4e2d")["input_ids"]
    text = marked_text(byte_tokenizer(), ids)
    assert text.replace("|", "") == "Review: dull\\nSentiment: \u4e2d"
    assert text.count("|") < len(ids)
    assert "\ufffd" not in text
