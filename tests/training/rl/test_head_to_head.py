"""Two policies against each other: outcomes, swaps, intervals, files and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest

from icm_fast.cli import run
from icm_fast.errors import InputError
from icm_fast.evaluation.compare import accuracy, bootstrap_interval
from icm_fast.evaluation.many_shot import Predictions, calibrate
from icm_fast.evaluation.metrics import mean_interval
from icm_fast.model import load_model
from icm_fast.tasks.registry import load_task
from icm_fast.training.reward import Pair, RewardConfig, train_reward
from icm_fast.training.rl import (
    evaluate_policies,
    generate,
    head_to_head,
    judged_text,
    judges,
    write_head_to_head,
)
from icm_fast.training.rl.judges import Bout, judge_by_claims, judge_by_rewards
from policy_cases import PROMPTS, judge_of, policy, random_judge
from tiny_models import (  # noqa: F401 - one_thread is in force by its import
    REVIEWS,
    byte_tokenizer,
    one_thread,
    tiny_loaded,
    tiny_model,
)

QUICK = {"max_new_tokens": 6, "seed": 4}


@pytest.fixture(scope="module")
def pair():
    return policy(0.4), policy(0.2)


def lengths(texts):
    return [len(text) for text in texts]


@pytest.mark.parametrize("kind", ["dialogue", "continuation"])
def test_the_judge_decides_each_bout(pair, kind):
    judge = random_judge()
    found = evaluate_policies(
        *pair, judge=judge, prompts=[*PROMPTS, PROMPTS[0]], kind=kind, samples=3, **QUICK
    )
    assert (found.n_prompts, found.n_repeated, len(found.samples)) == (4, 1, 12)
    assert [row["prompt"] for row in found.samples] == [p for p in PROMPTS for _ in range(3)]
    assert len({row["a"] for row in found.samples}) > 8  # samples of a prompt differ
    points = []
    for row in found.samples:
        blank = " " if kind == "dialogue" else ""
        texts = [judged_text(kind, row["prompt"], blank + row[side]) for side in "ab"]
        scores = judge.score(texts)
        assert [row["score_a"], row["score_b"]] == pytest.approx(scores.tolist(), abs=1e-4)
        assert row["outcome"] == ("a" if scores[0] > scores[1] else "b")
        points.append(float(scores[0] > scores[1]))
    assert found.win_rate.value == np.mean(points)
    assert (found.a.wins, found.b.wins) == (sum(points), 12 - sum(points))
    assert found.n_ties == 0
    difference = [row["score_a"] - row["score_b"] for row in found.samples]
    assert found.mean_difference.value == pytest.approx(np.mean(difference))
    prompts = [row["prompt"] for row in found.samples]
    interval = (found.win_rate.low, found.win_rate.high)
    assert interval == mean_interval(np.array(points), prompts, seed=QUICK["seed"])
    assert found.a.mean_tokens == np.mean([row["tokens_a"] for row in found.samples])
    assert found.order_gap < 1e-4


def test_swapped_policies_mirror_every_bout(pair):
    judge = random_judge()
    a, b = pair
    one = evaluate_policies(a, b, judge=judge, prompts=PROMPTS, samples=2, **QUICK)
    other = evaluate_policies(b, a, judge=judge, prompts=PROMPTS, samples=2, **QUICK)
    assert other.win_rate.value == 1 - one.win_rate.value
    assert other.mean_difference.value == -one.mean_difference.value
    for x, y in zip(one.samples, other.samples, strict=True):
        assert (x["a"], x["score_a"], x["score_b"]) == (y["b"], y["score_b"], y["score_a"])
    again = evaluate_policies(a, b, judge=judge, prompts=PROMPTS, samples=2, **QUICK)
    assert again == one
    same = evaluate_policies(a, a, judge=judge, prompts=PROMPTS, **QUICK)
    assert (same.win_rate.value, same.n_ties) == (0.5, 4)


def test_what_a_policy_wrote_is_not_written_again(pair, monkeypatch):
    (a, b), c = pair, policy(0.3)
    given = {"judge": random_judge(), "prompts": PROMPTS, "samples": 2}
    alone = [evaluate_policies(*two, **given, **QUICK) for two in ((a, b), (c, a), (b, c))]
    calls = []

    def counted(model, *arguments, **named):
        calls.append(model.fingerprint)
        return generate(model, *arguments, **named)

    monkeypatch.setattr(head_to_head, "generate", counted)
    written = {}
    shared = [
        evaluate_policies(*two, **given, **QUICK, written=written)
        for two in ((a, b), (c, a), (b, c))
    ]
    assert shared == alone
    assert sorted(calls) == sorted(one.fingerprint for one in (a, b, c))
    other = {**QUICK, "seed": 5}  # other draws are written anew
    evaluate_policies(a, b, **given, **other, written=written)
    assert len(calls) == 5


def test_policies_draw_independently():
    """Two policies that differ in nothing but a weight that is never read."""
    one, other = tiny_model("llama"), tiny_model("llama")
    other.get_input_embeddings().weight.data[0] += 1  # of the token that pads
    loaded = [load_model((model, byte_tokenizer())) for model in (one, other)]
    found = evaluate_policies(*loaded, judge=random_judge(), prompts=PROMPTS, samples=4, **QUICK)
    assert found.n_ties < 4


def test_the_policy_that_writes_what_is_liked_wins():
    long, short = policy(0.4), policy(0.4, ends=range(3, 300))
    found = evaluate_policies(
        long, short, judge=judge_of(lengths), prompts=PROMPTS, samples=4, max_new_tokens=20
    )
    assert found.win_rate.value > 0.8
    assert found.win_rate.low > 0.5
    assert found.mean_difference.low > 0
    assert found.a.mean_tokens > found.b.mean_tokens
    assert (found.b.finished, found.a.finished < 1) == (1, True)
    wide = evaluate_policies(
        long, short, judge=judge_of(lengths), prompts=PROMPTS, tie_margin=1e6, **QUICK
    )
    assert (wide.win_rate.value, wide.n_ties) == (0.5, 4)


BOUTS = [Bout("p", " good", " bad"), Bout("p", " bad", " good"), Bout("q", " so", " so")]


def test_equal_texts_and_rounding_are_ties():
    def liking(shift):
        return judge_of(lambda texts: [("good" in t) + shift * i for i, t in enumerate(texts)])

    clear = judge_by_rewards(liking(0), "dialogue", BOUTS)
    assert clear.points.tolist() == [1, 0, 0.5]
    assert clear.order_gap == 0
    # Rewards that move with their place in the list: noise ties, more than noise is refused.
    near = judge_of(lambda texts: [1e-4 * ("good" in t) + 2e-4 * i for i, t in enumerate(texts)])
    noisy = judge_by_rewards(near, "dialogue", BOUTS)
    assert noisy.order_gap == pytest.approx(4e-4, rel=1e-3)
    assert noisy.points.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(InputError, match=r"change by up to .* with the order of the texts"):
        judge_by_rewards(liking(0.5), "dialogue", BOUTS)


@pytest.mark.parametrize(
    ("log_odds", "point", "turned"),
    [
        ((2.0, -1.0), 1.0, False),
        ((-2.0, 1.0), 0.0, False),
        ((2.0, 1.0), 0.5, True),  # whoever is named first
        ((-2.0, -1.0), 0.5, True),
        ((0.4, -2.0), 0.5, False),  # within the margin
    ],
)
def test_a_language_model_has_to_say_the_same_in_both_orders(log_odds, point, turned, monkeypatch):
    # The third bout and its mirror keep the calibration from moving anything.
    said = np.array([[0, log_odds[0]], [0, log_odds[1]], [0, -log_odds[0]], [0, -log_odds[1]]])
    scores = (said - np.logaddexp.reduce(said, axis=1, keepdims=True)).astype(np.float32)
    asked = []

    def scripted(demonstrations, labels, test, *, model):
        asked.extend(e.prompt for e in test.examples)
        return Predictions(scores.argmax(1).astype(np.int32), scores, 0, 0)

    monkeypatch.setattr(judges, "many_shot", scripted)
    found = judge_by_claims(tiny_loaded("llama"), "dialogue", BOUTS[:2], tie_margin=0.5)
    assert found.scores[0] == pytest.approx(log_odds, abs=1e-5)
    assert found.points[0] == point
    assert found.order_disagreement == turned
    same = [Bout("p", " so", " so")] * 2  # equal texts are a tie, whatever is said of them
    equal = judge_by_claims(tiny_loaded("llama"), "dialogue", same)
    assert (equal.points.tolist(), equal.order_disagreement) == ([0.5, 0.5], 0)
    assert [prompt.split("\n")[1:3] for prompt in asked[:2]] == [
        ["Response 1: good", "Response 2: bad"],
        ["Response 1: bad", "Response 2: good"],
    ]


def test_claims_are_those_of_the_task_and_swapping_mirrors_them(tmp_path):
    judge = tiny_loaded("llama")
    bouts = [Bout(p, f" {REVIEWS[k]}", f" {REVIEWS[k + 2]}") for k, p in enumerate(PROMPTS)]
    found = judge_by_claims(judge, "dialogue", bouts)
    mirrored = judge_by_claims(judge, "dialogue", [Bout(x.prompt, x.b, x.a) for x in bouts])
    assert mirrored.points.tolist() == (1 - found.points).tolist()
    np.testing.assert_allclose(mirrored.scores, found.scores[:, ::-1], atol=1e-4)
    rows = [
        {"question": x.prompt, "choice": one[1:], "choice_2": other[1:], "consistency_id": x.prompt}
        for x in bouts
        for one, other in ((x.a, x.b), (x.b, x.a))
    ]
    path = tmp_path / "claims.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset, _ = load_task("alpaca-preference", path)
    said = calibrate(judges.many_shot(None, None, dataset, model=judge).scores)
    np.testing.assert_allclose(found.scores.ravel(), said[:, 1] - said[:, 0], atol=1e-4)
    with pytest.raises(InputError, match="of kind dialogue, not continuation"):
        judge_by_claims(judge, "continuation", bouts)


def test_a_language_model_may_judge_policies(pair):
    found = evaluate_policies(*pair, judge=tiny_loaded("llama"), prompts=PROMPTS, **QUICK)
    assert found.order_gap is None
    assert 0 <= found.order_disagreement <= 1
    assert "turned with the order" in found.to_markdown()


def test_the_interval_is_that_of_a_bootstrap_over_groups():
    right = np.array([1, 0, 1, 1, 0, 1, 1, 1], np.int32)
    groups = ["a", "a", "b", None, None, "b", "c", "d"]
    expected = bootstrap_interval(right, np.ones_like(right), groups, metric=accuracy, seed=3)
    assert mean_interval(right.astype(float), groups, seed=3) == expected
    # Eight equal samples of one prompt tell no more than one.
    values = np.repeat([0.0, 1.0, 1.0, 0.0], 8)
    alone = mean_interval(values[::8], list("abcd"), seed=3)
    assert mean_interval(values, [g for g in "abcd" for _ in range(8)], seed=3) == alone


def test_files_are_whole_and_say_the_same(pair, tmp_path):
    judge = random_judge()
    found = evaluate_policies(*pair, judge=judge, prompts=PROMPTS, **QUICK)
    markdown, samples = write_head_to_head(found, tmp_path / "new" / "x.json")
    assert markdown.read_text() == found.to_markdown()
    assert f"| win rate of A | {found.win_rate.value:.3f} |" in markdown.read_text()
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert rows == list(found.samples)
    content = json.loads((tmp_path / "new" / "x.json").read_text())
    assert content["win_rate"] == {
        "value": found.win_rate.value,
        "low": found.win_rate.low,
        "high": found.win_rate.high,
        "n": 4,
    }
    assert content["settings"]["max_new_tokens"] == 6
    assert content["a"]["fingerprint"] == pair[0].fingerprint
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"x.json", "x.md", "x.samples.jsonl"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 2, "temperature": 0}, "samples = 2 at temperature 0"),
        ({"samples": 0}, "samples = 0"),
        ({"tie_margin": -1}, "tie_margin = -1"),
        ({"kind": "talk"}, "unknown kind"),
        ({"prompts": []}, "there are no prompts"),
        ({"prompts": ["x" * 600]}, "exceeds the 512"),
        ({"prompts": ["fine", " "]}, "a prompt is blank"),
        ({"judge": "nowhere"}, "holds no reward model"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(pair, settings, words, monkeypatch):
    def must_not_run(*_, **__):
        pytest.fail("something was written")

    monkeypatch.setattr("icm_fast.training.rl.head_to_head.generate", must_not_run)
    given = {"judge": judge_of(lengths), "prompts": PROMPTS, **QUICK, **settings}
    with pytest.raises(InputError, match=words):
        evaluate_policies(*pair, **given)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two policies, one of them an adapter, and a judge, as folders."""
    pytest.importorskip("peft")
    from icm_fast.training.sft import TuningConfig, fine_tune
    from tiny_models import mixed_labels, reviews

    home = tmp_path_factory.mktemp("models")
    base = tiny_loaded("llama")
    base.model.save_pretrained(home / "base")
    base.tokenizer.save_pretrained(home / "base")
    loaded = load_model(str(home / "base"), dtype="float32")
    data = reviews()
    tuning = TuningConfig(epochs=1, learning_rate=0.05, dtype="float32")
    fine_tune(data, mixed_labels(data), model=loaded, config=tuning, output_dir=home / "tuned")
    pairs = [Pair("Why?", f"good {k}", f"bad {k}") for k in range(4)]
    config = RewardConfig(epochs=1, learning_rate=0.05, dtype="float32")
    train_reward(pairs, model=loaded, config=config, output_dir=home / "judge")
    (home / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return home


def test_command_line(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b, judge, prompts = (str(folders / n) for n in ("base", "tuned", "judge", "prompts.txt"))
    arguments = ["evaluate", "policy", a, b, "--prompts", prompts, "--tokens", "5"]
    out = tmp_path / "new" / "out.json"
    assert run([*arguments, "--judge", judge, "--samples", "2", "--seed", "1", "-o", str(out)]) == 0
    told = capsys.readouterr()
    content = json.loads(out.read_text())
    assert content["win_rate"]["n"] == 8
    assert content["a"]["fingerprint"] != content["b"]["fingerprint"]
    assert out.with_suffix(".md").read_text().rstrip() in told.out
    assert f"{b} writes 8 texts" in told.err
    assert run([*arguments, "--judge", a, "--pairwise", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["order_disagreement"] is not None
    name = f"{folders.name}-base-against-{folders.name}-tuned.json"
    assert json.loads((tmp_path / "runs" / name).read_text())["order_disagreement"] is not None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"judge": "base"}, "holds no reward model"),
        ({"judge": "judge", "prompts": "absent.txt"}, "no file at"),
        ({"judge": "judge", "output": "x.txt"}, "must end in .json"),
        ({"judge": "judge", "output": "prompts.txt/x.json"}, "cannot write"),
        ({"judge": "judge", "kind": "talk"}, "unknown kind of prompts 'talk'"),
        ({"judge": "judge", "tokens": "600"}, "exceeds the 512"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(folders, changes, text, capsys, monkeypatch):
    monkeypatch.chdir(folders)
    given = {"prompts": "prompts.txt", "output": "out.json", **changes}
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert run(["evaluate", "policy", "./base", "./tuned", *flags]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not (folders / "out.json").exists()


def test_settings_of_a_result_are_all_it_takes_to_repeat_it(pair):
    found = evaluate_policies(
        *pair, judge=random_judge(), prompts=PROMPTS, temperature=0.7, top_p=0.9, **QUICK
    )
    again = evaluate_policies(*pair, judge=random_judge(), prompts=PROMPTS, **found.settings)
    assert again == replace(found)
