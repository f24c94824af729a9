"""Zero-shot prompts in other formats: after a long assistant dialogue, and in a chat template.

Both are baselines of the paper (section 3.2): a pretrained model may need a dialogue to see that
good answers are wanted, and a chat model needs its template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from icm_fast.errors import InputError
from icm_fast.model.chat_template import ChatTokenizer, render_messages, template_ids
from icm_fast.plan.pieces import TokenizedDataset, root_ids, tokenize_dataset
from icm_fast.plan.text_ids import Tokenizer, control_token_in, text_ids
from icm_fast.types import Dataset

_Encode = Callable[[Tokenizer, str], tuple[int, ...]]

ASSISTANT_DIALOGUE = """\
The following are conversations between people and an AI assistant. The assistant is helpful, honest
and careful. It reads the whole question before it answers, thinks about what is asked, and says
what is so even where something else would sound better. Where something is unclear, it picks the
most sensible reading, and it never makes anything up.

Person: My tomato seedlings are tall and thin. What can I do?
Assistant: They want more light. Put them into a brighter place, a little cooler at night, and plant
them deeper when you move them into larger pots: the buried part of the stem grows roots.

Person: I have half an hour and one pan. What could I cook for two?
Assistant: Fried rice would do. Cook onions and whatever vegetables you have, add cold rice from the
day before, push it aside, scramble two eggs beside it, and mix everything with some soy sauce.

Person: Please help me to tell my landlord that the heating has stopped.
Assistant: Here is a short note: "Good morning, the heating in flat 3 has not worked since yesterday
evening. Could you let me know today when someone can come? I am at home after four."

Person: Thank you. I have a few more things for you to look at, one at a time.
Assistant: Of course. I will look at each of them as carefully as I can."""
"""A dialogue of ours, not the HHH prompt of the paper; nothing in it answers a task."""

HHH_FILE = "hhh_prompt.txt"
"""Name of the file, in the folder of the data, from which the paper's HHH prompt is read."""


def assistant_pieces(
    dataset: Dataset, tokenizer: Tokenizer, dialogue: str = ASSISTANT_DIALOGUE
) -> TokenizedDataset:
    """Token pieces of zero-shot prompts after a dialogue.

    Raises:
        InputError: Prompts and labels do not meet at token boundaries.
    """
    plain = tokenize_dataset(dataset, tokenizer)
    before = dialogue + dataset.separator + dataset.opening
    texts = [before + e.prompt for e in dataset.examples]
    return _pieces(texts, list(dataset.label_space), tokenizer, plain, _text_ids)


def chat_pieces(dataset: Dataset, tokenizer: ChatTokenizer) -> TokenizedDataset:
    """Token pieces of zero-shot prompts in the tokenizer's chat template.

    The user's message is the prompt followed by the possible answers; the answer is scored.

    Raises:
        InputError: The tokenizer has no chat template, or one that merges with the answers.
    """
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; use a chat model")
    token = control_token_in(dataset.preamble, tokenizer)
    if token is not None:
        raise InputError(
            f"the preamble holds {token!r}, a control token that the chat template would not keep "
            "as text; remove it"
        )
    for row, example in enumerate(dataset.examples):
        token = control_token_in(example.prompt, tokenizer)
        if token is not None:
            raise InputError(
                f"example {example.id!r} (row {row}) holds {token!r}, a control token that the "
                "chat template would not keep as text; remove it"
            )
    answers = [label.strip() for label in dataset.label_space]
    question = f"Answer with one of: {', '.join(answers)}."
    texts = [
        render_messages(tokenizer, [{"role": "user", "content": f"{asked}\n\n{question}"}])
        for asked in (dataset.opening + example.prompt for example in dataset.examples)
    ]
    # The template already writes the token that begins a text.
    return _pieces(
        texts, answers, tokenizer, tokenize_dataset(dataset, tokenizer), template_ids, root=()
    )


def _pieces(
    texts: Sequence[str],
    labels: Sequence[str],
    tokenizer: Tokenizer,
    plain: TokenizedDataset,
    encode: _Encode,
    root: tuple[int, ...] | None = None,
) -> TokenizedDataset:
    """Pieces of whole texts; their common beginning becomes the root, which is forwarded once."""
    root = root_ids(tokenizer) if root is None else root
    ids = [root + encode(tokenizer, text) for text in texts]
    answers = [_answer_ids(texts[0], label, tokenizer, encode) for label in labels]
    shared = _shared_length(ids)
    prompts = tuple(sequence[shared:] for sequence in ids)
    return TokenizedDataset(
        root=ids[0][:shared],
        first_prompts=prompts,
        later_prompts=prompts,  # unused: there are no demonstrations
        labels=tuple(answers),
        terminator=plain.terminator,
    )


def _text_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(text_ids(tokenizer, [text])[0])


def _answer_ids(text: str, label: str, tokenizer: Tokenizer, encode: _Encode) -> tuple[int, ...]:
    before, whole = encode(tokenizer, text), encode(tokenizer, text + label)
    if whole[: len(before)] != before or len(whole) == len(before):
        raise InputError(
            f"the tokenizer merges the answer {label!r} with the prompt before it; choose another "
            "label"
        )
    return whole[len(before) :]


def _shared_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """Length of the longest common beginning that leaves at least one token of every sequence."""
    shared = min(len(sequence) for sequence in sequences) - 1
    for sequence in sequences[1:]:
        same = zip(sequences[0][:shared], sequence, strict=False)
        shared = next((k for k, (a, b) in enumerate(same) if a != b), shared)
    return shared
