"""Generation against a plain loop over whole prompts; likelihoods against a plain forward pass."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from icm_fast.errors import InputError
from icm_fast.model import load_model
from icm_fast.model.adapters import foreign_code
from icm_fast.plan.pieces import root_ids
from icm_fast.training.rl import Continuation, generate, mean_nll, token_logprobs
from tiny_models import (  # noqa: F401 - one_thread is in force by its import
    REVIEWS,
    byte_tokenizer,
    metaspace_tokenizer,
    one_thread,
    tiny_loaded,
    tiny_model,
)

PROMPTS = [f"Review: {text}" for text in REVIEWS[:5]]


def ids_of(loaded, prompt):
    plain = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return [*root_ids(loaded.tokenizer), *plain]


def plain_greedy(loaded, prompt, n, end=2):
    """The likeliest tokens, each by a forward pass over the whole text, alone and unpadded."""
    ids, new = ids_of(loaded, prompt), []
    while len(new) < n and (not new or new[-1] != end):
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([ids + new]), use_cache=False).logits
        new.append(int(logits[0, -1].argmax()))
    return tuple(new)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt_neox", "gpt2"])
def test_greedy_batches_are_the_plain_loop(family):
    loaded = tiny_loaded(family, bos=family == "llama")
    made = generate(loaded, PROMPTS, max_new_tokens=7, temperature=0, batch_size=3)
    assert [c.token_ids for c in made] == [plain_greedy(loaded, p, 7) for p in PROMPTS]
    assert len({c.token_ids for c in made}) > 1


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), metaspace_tokenizer()])
def test_texts_join_to_their_prompts(tokenizer):
    loaded = load_model((tiny_model("llama"), tokenizer))
    made = generate(loaded, PROMPTS, max_new_tokens=12, seed=3)
    for prompt, c in zip(PROMPTS, made, strict=True):
        whole = ids_of(loaded, prompt) + list(c.token_ids)
        assert prompt + c.text == tokenizer.decode(whole, skip_special_tokens=True)
    assert any(c.text.startswith(" ") for c in made)


def test_draws_are_a_function_of_the_seed_alone():
    loaded = tiny_loaded("llama")

    def draw(seed):
        return generate(loaded, PROMPTS, max_new_tokens=6, seed=seed, batch_size=2)

    first = draw(5)
    torch.manual_seed(99)
    random.seed(99)
    before = torch.random.get_rng_state(), random.getstate()
    assert draw(5) == first
    assert draw(6) != first
    assert len(generate(loaded, PROMPTS, max_new_tokens=2, temperature=2)) == 5  # a whole number
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_tokens_come_with_their_probabilities_and_no_others():
    """A token in thousands; transformers' default of the 50 likeliest would show."""
    loaded = tiny_loaded("llama", initializer_range=0.1)
    loaded.model.generation_config.update(top_k=3, temperature=0.01, repetition_penalty=9.0)
    n = 3000
    ids = torch.tensor([ids_of(loaded, PROMPTS[0])])
    with torch.no_grad():
        exact = loaded.model(input_ids=ids).logits[0, -1].softmax(-1).numpy()

    def shares(**settings):
        made = generate(loaded, PROMPTS[:1] * n, max_new_tokens=1, batch_size=n, **settings)
        return np.bincount([c.token_ids[0] for c in made], minlength=len(exact)) / n

    drawn = shares(temperature=1.0)
    order = np.argsort(-exact)
    for part in (order[:20], order[20:80], order[80:]):
        p = float(exact[part].sum())
        assert p > 0.05
        assert drawn[part].sum() == pytest.approx(p, abs=4 * np.sqrt(p / n))
    nucleus = order[: int((exact[order].cumsum() < 0.3).sum()) + 1]
    assert set(np.flatnonzero(shares(temperature=1.0, top_p=0.3))) == set(nucleus)
    cold = exact**4 / (exact**4).sum()
    assert shares(temperature=0.25)[order[0]] == pytest.approx(float(cold[order[0]]), abs=0.04)
    assert loaded.model.generation_config.top_k == 3  # left as it was


def test_a_text_ends_with_any_of_the_models_end_tokens():
    loaded = tiny_loaded("llama")
    ends = list(range(100, 300))
    loaded.model.generation_config.eos_token_id = ends
    made = generate(loaded, PROMPTS * 4, max_new_tokens=8, min_new_tokens=3, seed=1)
    lengths = {len(c.token_ids) for c in made}
    assert min(lengths) > 3
    assert len(lengths) > 2
    for c in made:
        assert c.finished == (c.token_ids[-1] in {2, *ends})
        assert c.finished or len(c.token_ids) == 8
        assert not set(c.token_ids[:-1]) & {2, *ends}
    loaded.model.generation_config.eos_token_id = None
    ending = next(c for c in made if c.finished)
    row = made.index(ending)
    text = byte_tokenizer().decode(ids_of(loaded, (PROMPTS * 4)[row]) + list(ending.token_ids[:-1]))
    assert (PROMPTS * 4)[row] + ending.text == text  # the end token is no part of the text


def plain_logprobs(loaded, prompt, c):
    """By a forward pass over the whole text, alone and unpadded."""
    ids = ids_of(loaded, prompt)
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([[*ids, *c.token_ids]])).logits[0]
    rows = logits.log_softmax(-1)[len(ids) - 1 : -1]
    return rows[range(len(c.token_ids)), c.token_ids].numpy()


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_logprobs_are_those_of_a_plain_pass(family):
    loaded, other = tiny_loaded(family), tiny_loaded(family, initializer_range=0.2)
    made = generate(loaded, PROMPTS, max_new_tokens=9, seed=2, batch_size=4, with_logprob=True)
    sums = [plain_logprobs(loaded, *pair).sum() for pair in zip(PROMPTS, made, strict=True)]
    np.testing.assert_allclose([c.logprob for c in made], sums, rtol=1e-4)
    # Of different lengths, so that rows of a batch end elsewhere than they begin.
    cut = [replace(c, token_ids=c.token_ids[: 9 - 2 * k]) for k, c in enumerate(made)]
    for model in (loaded, other):
        expected = [plain_logprobs(model, *pair) for pair in zip(PROMPTS, cut, strict=True)]
        for a, b in zip(token_logprobs(model, PROMPTS, cut, batch_size=3), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        nll = mean_nll(model, PROMPTS, cut)
        np.testing.assert_allclose(nll, [-e.mean() for e in expected], atol=1e-4)


def test_adapters_live_and_merged_generate_the_same():
    peft = pytest.importorskip("peft")
    loaded = tiny_loaded("llama")
    plain = generate(loaded, PROMPTS, max_new_tokens=6, temperature=0)
    torch.manual_seed(0)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False
    )
    with foreign_code():
        live = replace(loaded, model=peft.get_peft_model(tiny_model("llama"), config).eval())
    made = generate(live, PROMPTS, max_new_tokens=6, temperature=0)
    nll = mean_nll(live, PROMPTS, made)
    with foreign_code():
        merged = replace(loaded, model=live.model.merge_and_unload())
    assert made == generate(merged, PROMPTS, max_new_tokens=6, temperature=0)
    np.testing.assert_allclose(nll, mean_nll(merged, PROMPTS, made), atol=1e-4)
    assert made != plain


def test_what_cannot_be_generated_is_refused():
    loaded = tiny_loaded("llama", max_position_embeddings=40)
    with pytest.raises(InputError, match=r"'Review: .* 36 new ones exceeds the 40"):
        generate(loaded, PROMPTS, max_new_tokens=36)
    with pytest.raises(InputError, match="no tokens"):
        generate(loaded, [""], max_new_tokens=1)
    for settings, words in (
        ({"max_new_tokens": 0}, "max_new_tokens = 0 is outside 1"),
        ({"max_new_tokens": 2, "temperature": -1}, "temperature = -1"),
        ({"max_new_tokens": 2, "min_new_tokens": 3}, "min_new_tokens = 3"),
        ({"max_new_tokens": 2, "top_p": 0}, "top_p = 0"),
    ):
        with pytest.raises(InputError, match=words):
            generate(loaded, PROMPTS, **settings)
    with pytest.raises(InputError, match="exceeds the"):
        token_logprobs(loaded, PROMPTS[:1], [Continuation("", (5,) * 50, False)])
