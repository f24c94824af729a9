import pytest
import torch

from icm_fast.model import label_head
from icm_fast.model.label_head import LabelHead
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import TokenizedDataset
from tiny_models import UNLISTED, one_thread, tiny_model  # noqa: F401


def pieces(*labels, terminator=99):
    return TokenizedDataset((), ((1,),), ((2,),), labels, terminator)


def test_single_tokens_need_no_tail():
    tree = label_tree(pieces((5,), (7,)))
    assert tree.single_token
    assert tree.steps == (((-1, 5),), ((-1, 7),))


def test_shared_beginnings_are_one_node():
    tree = label_tree(pieces((5, 6, 8), (5, 6, 9), (5, 7), (4,)))
    assert tree.tail_tokens == (5, 6)
    assert tree.tail_parents == (-1, 0)
    assert tree.steps == (
        ((-1, 5), (0, 6), (1, 8)),
        ((-1, 5), (0, 6), (1, 9)),
        ((-1, 5), (0, 7)),
        ((-1, 4),),
    )


def test_label_that_begins_another_is_closed():
    tree = label_tree(pieces((5,), (5, 6)))
    assert tree.steps == (((-1, 5), (0, 99)), ((-1, 5), (0, 6), (1, 99)))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", *UNLISTED])
def test_head_gives_the_logits_of_the_model(family, monkeypatch):
    monkeypatch.setattr(label_head, "_VOCABULARY_CHUNK", 100)  # 420 entries: a rest of 20
    model = tiny_model(family)
    ids = torch.tensor([[5, 9, 300, 41]])
    with torch.inference_mode():
        expected = model(input_ids=ids).logits[0]
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        head = LabelHead(model)
        got = head.logits(hidden, [3, 419, 7])
        normalizer = head.log_normalizer(hidden)
    torch.testing.assert_close(got, expected[:, [3, 419, 7]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normalizer, expected.logsumexp(-1), atol=1e-4, rtol=1e-5)


def test_head_with_a_bias():
    model = tiny_model("llama")
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-3, 3, 420))
    ids = torch.tensor([[5, 9]])
    with torch.inference_mode():
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        expected = model(input_ids=ids).logits[0]
        head = LabelHead(model)
        torch.testing.assert_close(head.logits(hidden, [0, 1, 419]), expected[:, [0, 1, 419]])
        torch.testing.assert_close(head.log_normalizer(hidden), expected.logsumexp(-1))


def test_model_without_a_head():
    from icm_fast.errors import InputError

    with pytest.raises(InputError, match="LlamaModel has no language-model head"):
        LabelHead(tiny_model("llama").base_model)
