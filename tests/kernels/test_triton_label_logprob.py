"""Triton's label log-probabilities in the interpreter, against the definition."""

import math
from types import SimpleNamespace

import pytest
import torch

from icm_fast.kernels import triton_devices
from icm_fast.kernels.label_logprob import Head, naive, select_label_logprob
from icm_fast.model import label_head as label_scores
from icm_fast.model.label_head import LabelHead, label_logprobs
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import TokenizedDataset

TRITON = "label_logprob.triton.label_logprob"
ROWS, VOCABULARY = 19, 203
TOKENS = torch.tensor([7, 0, 202, 7])


def embedded(tensor):
    """The same numbers between NaN."""
    buffer = torch.full((tensor.numel() + 128,), math.nan, dtype=tensor.dtype)
    view = buffer[64:-64].view(tensor.shape)
    view.copy_(tensor)
    return view


def case(
    width=72, *, states=torch.float32, weights=torch.float32, bias=False, norm=False, **options
):
    generator = torch.Generator().manual_seed(width)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    weight = embedded((random(VOCABULARY, width) / width**0.5).to(weights))
    head = Head(
        weight,
        bias=embedded(random(VOCABULARY).to(weights)) if bias else None,
        norm_weight=embedded(random(width).to(weights)) if norm else None,
        **options,
    )
    return embedded(random(ROWS, width).to(states)), head


def check(interpreter, hidden, head, *, normalize, atol=1e-5, **settings):
    out, _ = interpreter.call(TRITON, hidden, head, TOKENS, normalize=normalize, **settings)
    expected = naive.label_logprob(hidden, head, TOKENS, normalize=normalize)
    assert out.dtype == torch.float32
    assert out.shape == (len(hidden), len(TOKENS))
    torch.testing.assert_close(out, expected, atol=atol, rtol=0)


HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 1.5},
    "norm": {"norm": True, "norm_eps": 0.1},
    "all": {"bias": True, "scale": 2.0, "softcap": 3.0, "norm": True},
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_equals_the_definition(interpreter, head, normalize):
    check(interpreter, *case(**HEADS[head]), normalize=normalize)


@pytest.mark.parametrize("width", [1, 31, 32, 65])
def test_widths_around_a_step(interpreter, width):
    check(interpreter, *case(width, norm=True), normalize=True)


@pytest.mark.parametrize("parts", [1, 2, 5, 1000])
def test_any_number_of_parts(interpreter, parts):
    check(interpreter, *case(), normalize=True, parts=parts)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("states", [torch.bfloat16, torch.float16, torch.float32])
def test_float32_from_the_hidden_state_on(interpreter, states, weights, norm):
    """Not 2e-2: products of half-precision numbers are exact, and float32 states stay float32."""
    check(interpreter, *case(states=states, weights=weights, norm=norm), normalize=True, atol=2e-5)


def test_three_pieces_are_as_exact_as_float32(interpreter):
    """Large states: two pieces alone would be off by 1e-3 here."""
    hidden, head = case(states=torch.float32, weights=torch.bfloat16)
    out, _ = interpreter.call(TRITON, hidden * 100, head, TOKENS, normalize=True)
    logits = (hidden * 100).double() @ head.weight.double().T
    expected = logits.log_softmax(-1)[:, TOKENS]
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=0)


def test_large_logits_do_not_overflow(interpreter):
    hidden, head = case()
    check(interpreter, hidden * 1e3, head, normalize=True, atol=1e-2)


def test_a_row_does_not_depend_on_the_batch(interpreter):
    hidden, head = case(norm=True)
    together, _ = interpreter.call(TRITON, hidden, head, TOKENS, normalize=True)
    for row in (0, 18):
        alone, _ = interpreter.call(TRITON, hidden[row : row + 1], head, TOKENS, normalize=True)
        # The interpreter multiplies with numpy, whose last bits depend on a row's place on some
        # processors; what a row could take from others is far more than that.
        torch.testing.assert_close(alone[0], together[row], rtol=1e-6, atol=1e-6)


def test_no_rows(interpreter):
    hidden, head = case()
    out, _ = interpreter.call(TRITON, hidden[:0], head, TOKENS, normalize=True)
    assert out.shape == (0, 4)


def test_a_head_of_another_width(interpreter):
    hidden, head = case()
    with pytest.raises(ValueError, match="hidden states of 71 for a head of 72"):
        interpreter.call(TRITON, hidden[:, 1:], head, TOKENS, normalize=False)


def label_head(head):
    model_head = LabelHead.__new__(LabelHead)
    model_head._head = head
    return model_head


def tree_of(*labels):
    return label_tree(TokenizedDataset((), ((1,),), ((2,),), labels, 99))


@pytest.mark.parametrize("normalize", ["labels", "vocabulary"])
def test_the_definition_is_that_of_the_label_head(normalize):
    """Kernels and the scores of a search share one definition."""
    hidden, head = case(softcap=2.0, scale=0.5)
    tree = tree_of((7,), (0,), (202,))
    scores = label_logprobs(label_head(head), tree, hidden[:, None], normalize=normalize)
    expected = naive.label_logprob(hidden, head, TOKENS[:3], normalize=normalize == "vocabulary")
    if normalize == "labels":
        expected = expected.log_softmax(-1)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", ["labels", "vocabulary"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_the_same_through_the_kernel(interpreter, monkeypatch, dtype, normalize):
    """Labels of several tokens: some steps are normalised over the vocabulary, some are not."""
    hidden, head = case(states=dtype, weights=dtype, bias=True, softcap=2.0, scale=0.5)
    tree = tree_of((7, 3), (7, 202), (0,))
    states = hidden[:18].view(9, 2, -1)
    expected = label_logprobs(label_head(head), tree, states, normalize=normalize)
    normalized = []

    def kernel(*args, normalize):
        normalized.append(normalize)
        return interpreter.call(TRITON, *args, normalize=normalize)[0]

    monkeypatch.setattr(label_scores, "select_label_logprob", lambda hidden, head: kernel)
    scores = label_logprobs(label_head(head), tree, states, normalize=normalize)
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=0)
    assert normalized == [normalize == "vocabulary", True]


def test_a_device_takes_the_kernel(ampere):
    """Stand-ins for tensors, since there is no device."""
    from icm_fast.kernels.label_logprob import triton

    def tensor(device, dtype):
        return SimpleNamespace(device=torch.device(device), dtype=dtype)

    half, double = tensor("cuda:0", torch.bfloat16), tensor("cuda:0", torch.float64)
    assert select_label_logprob(half, Head(half)) is triton.label_logprob
    assert select_label_logprob(tensor("cuda:0", torch.float32), Head(half)) is triton.label_logprob
    assert select_label_logprob(half, Head(double)) is None
    assert select_label_logprob(double, Head(half)) is None
    assert select_label_logprob(half, Head(tensor("cuda:1", torch.bfloat16))) is None
    ampere.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    triton_devices.has_triton_kernels.cache_clear()
    assert select_label_logprob(half, Head(half)) is None


def test_the_processor_has_no_kernel():
    hidden, head = case()
    assert select_label_logprob(hidden, head) is None
