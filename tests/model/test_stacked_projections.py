"""Query, key and value as one product, gate and up as another; the model stays what it is."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from forward_cases import plan_of, states
from icm_fast.model import ModelRunner
from icm_fast.model.forward import device as device_forward
from icm_fast.model.forward.decoder_layers import decoder_of
from icm_fast.model.forward.device import DeviceForward
from icm_fast.model.forward.stacked import StackedProjections, _one_tensor
from tiny_models import NATIVE, one_thread, tiny_loaded, tiny_model  # noqa: F401


def layers_of(model):
    """All projections of a model, in order."""
    return [part for layer in decoder_of(model).layers for part in (layer.heads, layer.units)]


@pytest.mark.parametrize("family", NATIVE)
def test_one_product_gives_what_each_layer_gives(family):
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(7, model.config.hidden_size)
    for parts in layers_of(model):
        wanted = [torch.nn.functional.linear(x, weight, bias) for weight, bias in parts.parts()]
        found = StackedProjections(parts)(x)
        assert [part.shape for part in found] == [part.shape for part in wanted]
        for own, one in zip(wanted, found, strict=True):
            torch.testing.assert_close(one, own, atol=1e-6, rtol=1e-5)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_biases_are_stacked_too():
    parts = layers_of(tiny_model("qwen2"))[0]
    with torch.no_grad():
        for k, linear in enumerate(parts.linears):
            linear.bias.fill_(float(k + 1))
    found = StackedProjections(parts)(torch.zeros(1, parts.linears[0].in_features))
    assert [set(part.flatten().tolist()) for part in found] == [{1.0}, {2.0}, {3.0}]


def test_nothing_is_held_twice_and_changes_are_seen():
    parts = layers_of(tiny_model("llama"))[0]
    stacked = StackedProjections(parts)
    storages = {linear.weight.untyped_storage().data_ptr() for linear in parts.linears}
    assert len(storages) == 1
    x = torch.randn(3, parts.linears[0].in_features)
    with torch.no_grad():
        parts.linears[1].weight.mul_(2)
    torch.testing.assert_close(stacked(x)[1], parts.linears[1](x))


@pytest.mark.parametrize("cut", ["apart", "reversed", "columns"])
def test_tensors_that_are_not_rows_in_order_are_joined(cut):
    base = torch.arange(24.0).view(6, 4)
    parts = [base[:2], base[2:6]]
    if cut == "apart":
        parts = [base[:2], base[3:6]]
    if cut == "reversed":
        parts.reverse()
    if cut == "columns":
        parts = [base[:2], torch.arange(16.0).view(4, 4).T]
    wanted = torch.cat([part.clone() for part in parts])
    whole = _one_tensor(parts)
    assert torch.equal(whole, wanted)
    assert whole.data_ptr() != base.data_ptr()
    assert _one_tensor([base[:2], base[2:6]]).data_ptr() == base.data_ptr()


def test_other_tensors_are_stacked_again():
    """As after ``model.to`` or a new weight."""
    parts = layers_of(tiny_model("qwen2"))[0]
    stacked = StackedProjections(parts)
    place = stacked._weight.data_ptr()
    stacked.refresh()
    assert stacked._weight.data_ptr() == place
    x = torch.randn(3, parts.linears[0].in_features)
    for name in ("weight", "bias"):
        old = getattr(parts.linears[2], name)
        setattr(parts.linears[2], name, torch.nn.Parameter(3 * old.detach().clone()))
        stacked.refresh()
        torch.testing.assert_close(stacked(x)[2], parts.linears[2](x))
    for linear in parts.linears:
        linear.to(torch.float64)
    stacked.refresh()
    assert stacked(x.double())[0].dtype == torch.float64


def test_two_forward_passes_of_one_model_share_the_matrix():
    """Two scorers of a model."""
    loaded = tiny_loaded("llama", generic=True)
    plan = plan_of(loaded)
    first, second = DeviceForward(loaded), DeviceForward(loaded)
    runners = [ModelRunner(loaded, generic=True) for _ in range(2)]
    for runner, forward in zip(runners, (first, second), strict=True):
        runner._forward = forward
    assert torch.equal(*(states(runner, plan) for runner in runners))
    assert first._heads[0]._weight.data_ptr() == second._heads[0]._weight.data_ptr()


def test_a_stacked_model_is_saved_copied_and_trained(tmp_path):
    model = tiny_model("qwen2")
    stacked = [StackedProjections(parts) for parts in layers_of(model)]
    ids = torch.arange(5)[None]
    with torch.no_grad():
        wanted = model(ids).logits
        model.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(again(ids).logits, wanted)
        assert torch.equal(copy.deepcopy(model)(ids).logits, wanted)
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    for parts, one in zip(layers_of(model), stacked, strict=True):
        x = torch.randn(2, parts.linears[0].in_features)
        with torch.no_grad():
            torch.testing.assert_close(one(x)[0], parts.linears[0](x), atol=1e-6, rtol=1e-5)


def test_the_attention_is_chosen_once_for_each_plan(monkeypatch):
    """The choice looks at files and the environment."""
    loaded = tiny_loaded("llama", generic=True)
    plan = plan_of(loaded, batch_tokens=60)
    chosen = []
    real = device_forward.select_tree_attention

    def select(query, values, *, softcap):
        chosen.append(1)
        return real(query, values, softcap=softcap)

    monkeypatch.setattr(device_forward, "select_tree_attention", select)
    runner = ModelRunner(loaded, generic=True)
    runner._forward = DeviceForward(loaded)
    for times in (1, 2):
        states(runner, plan)
        assert len(chosen) == times
    assert plan.tree.n_batches > 2
