"""A chat template and conversations, for tokenizers of the tests."""

import copy
import dataclasses

from tiny_models import byte_tokenizer, tiny_loaded

TEMPLATE = (
    "<s>{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}<pad>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{{ '\\n' }}{% endif %}"
)
TURNS = (
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
)


def chat_tokenizer(template=TEMPLATE, made=byte_tokenizer):
    """A tokenizer with a template whose turns end with ``<pad>``."""
    tokenizer = copy.deepcopy(made())
    tokenizer.chat_template = template
    return tokenizer


def chatting(family="llama", **changes):
    """A tiny model with such a tokenizer."""
    return dataclasses.replace(tiny_loaded(family, **changes), tokenizer=chat_tokenizer())
