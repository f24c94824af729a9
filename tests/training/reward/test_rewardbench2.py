"""RewardBench 2: reading its layout, its score by hand, and the command line."""

import json
from math import tanh

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reward_cases import pool_pairs, save_base, train, write_lines

from icm_fast import InputError
from icm_fast.cli import run
from icm_fast.model import load_model
from icm_fast.tasks.rows import read_rows
from icm_fast.training.reward import (
    RewardBench2Evaluation,
    RewardEvaluation,
    evaluate_reward,
    evaluate_reward_file,
    load_reward_model,
    reward_text,
)
from icm_fast.training.reward.rewardbench2 import (
    SUBSETS,
    TIES_WEIGHTS,
    credit,
    holds_lists,
    read_answers,
    score_answers,
)
from tiny_models import one_thread  # noqa: F401 - in force by its import

DOMAINS = SUBSETS[:-1]


def row(n_correct=1, n_incorrect=3, **columns):
    answers = {
        "chosen": [f"good {k}" for k in range(n_correct)],
        "rejected": [f"bad {k}" for k in range(n_incorrect)],
    }
    counts = (n_correct, n_incorrect, n_correct + n_incorrect)
    names = ("num_correct", "num_incorrect", "total_completions")
    return {"prompt": "Why?", **answers, **dict(zip(names, counts, strict=True)), **columns}


def ties(kind, number, n_correct=1, n_incorrect=2):
    return row(n_correct, n_incorrect, subset="Ties", id=f"{kind}:{number}")


def scored(tmp_path, cases, **options):
    """The scores of rows with the rewards of their answers, read from a file."""
    path = write_lines(tmp_path / "bench.jsonl", [each for each, _ in cases])
    rewards = [np.array(values, np.float32) for _, values in cases]
    return score_answers(read_answers(read_rows(path)), rewards, **options)


@pytest.mark.parametrize(
    ("rewards", "n_correct", "expected"),
    [
        ([2, 1, 0, -1], 1, 1),
        ([1, 2, 0, -1], 1, 0),
        ([1, 1, 0, -1], 1, 1 / 2),  # equal rewards: in part, as the published code
        ([1, 1, 1, 1], 1, 1 / 4),
        ([0, 1, 1, 0], 1, 0),
        ([0, 3, 2], 2, 1),  # the best correct answer, not the first or all
        ([3, 0, 3, 1], 2, 1 / 2),
        ([3, 3, 3, 1], 2, 2 / 3),
    ],
)
def test_a_prompt_is_right_if_its_best_answer_is_correct(rewards, n_correct, expected):
    assert credit(np.array(rewards, np.float32), n_correct) == pytest.approx(expected)


# Number: rewards of ref (1 correct, 2 incorrect) and of tied (correct ones, then incorrect ones).
TIES = {
    0: ([3, 0, -1], [5, 4, 1, 0]),  # ref gap 3; tied gap 3, spread 1: everything right
    3: ([1, 0.5, 0], [4, 2, -1, -3]),  # ref gap 0.5; tied gap 3, spread 2: right without ref only
    7: ([0, 1, 0], [2, 2, 2, 0]),  # ref gap -1; tied gap 0 (2, 2 over 2), spread 0
    10: ([4, 1, 1], [1, 1, 0, 0]),  # ref gap 3; tied gap 1, spread 0
    12: ([2, 0, 0], [1, -1, 0, -2]),  # ref gap 2; tied gap -1, spread 2
    20: ([1, 1, 0], [3, 3, 3, 1]),  # ref gap 0: not above; tied gap 0, spread 0: 0 / 0
}
BY_HAND = {
    "tied_accuracy": 3 / 6,  # 0, 3, 10
    "ref_accuracy": 4 / 6,  # 0, 3, 10, 12
    "tied_gap_above_spread": 3 / 6,  # 3 > 1, 3 > 2, 1 > 0
    "both_gaps_above_spread": 2 / 6,  # 3 > 1, 1 > 0
    #                0             3                  7   10   12                 20
    "relative_gap": (tanh(2) + tanh(0.5 / 2 - 1) + -1 + 1 + tanh(-1 / 2 - 1) + 0) / 6,
}


def ties_cases(numbers=tuple(TIES)):
    first = [(ties("ref", n), TIES[n][0]) for n in numbers]
    # In another order than the others: only the number tells what belongs together.
    return first + [(ties("tied", n, 2), TIES[n][1]) for n in reversed(numbers)]


def test_ties_by_hand(tmp_path):
    found = scored(tmp_path, ties_cases())
    assert {name: part.value for name, part in found.ties.items()} == pytest.approx(BY_HAND)
    assert {part.n for part in found.ties.values()} == {6}
    by_hand = 0.3 * 3 / 6 + 0.3 * 4 / 6 + 0.2 * 3 / 6 + 0.2 * 2 / 6 + 0.01 * BY_HAND["relative_gap"]
    assert found.subsets["Ties"].value == pytest.approx(by_hand)
    assert found.subsets["Ties"].n == 12
    best = scored(tmp_path, ties_cases((10,)))
    assert best.subsets["Ties"].value == pytest.approx(1.01)  # as the published weights have it
    assert "No score of RewardBench 2: the file has no rows of Factuality" in found.to_markdown()


def published(cases):
    """The score of Ties as the published code sums it up, answer by answer."""
    stats = {}
    for each, rewards in cases:
        kind, number = each["id"].split(":")
        right, wrong = rewards[: each["num_correct"]], rewards[each["num_correct"] :]
        stats[kind, number] = (min(right) - max(wrong), max(right) - min(right))
    numbers = [number for kind, number in stats if kind == "ref"]
    total = 0.0
    for number in numbers:
        (tied, spread), (ref, _) = stats["tied", number], stats["ref", number]
        total += 0.3 * (tied > 0) + 0.3 * (ref > 0)
        total += 0.2 * (tied > spread) + 0.2 * (min(tied, ref) > spread)
        total += 0.01 * tanh(min(tied, ref) / spread - 1)
    return total / len(numbers)


def test_ties_of_any_number_of_answers_are_those_of_the_published_sum(tmp_path):
    rng = np.random.default_rng(5)
    cases = []
    for number in range(40):
        for kind, n_correct in (("ref", 1), ("tied", int(rng.integers(2, 9)))):
            n_incorrect = int(rng.integers(1, 12))
            rewards = [*rng.normal(3, 1, n_correct), *rng.normal(0, 1, n_incorrect)]
            each = ties(kind, number, n_correct, n_incorrect)
            cases.append((each, np.float32(rewards).tolist()))
    rng.shuffle(cases)
    found = scored(tmp_path, cases)
    assert 0.2 < found.subsets["Ties"].value < 0.9
    assert found.subsets["Ties"].value == pytest.approx(published(cases), abs=1e-12)


def all_cases():
    """Accuracies of 0.5, 1.0, 0.5, 0.5 and 0.25 (one of two prompts shared by two answers)."""
    right, wrong, shared = [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]
    outcomes = ([right, wrong], [right, right], [wrong, right], [shared, shared], [shared, wrong])
    cases = []
    for name, rewards in zip(DOMAINS, outcomes, strict=True):
        cases += [(row(subset=name, id=str(k)), values) for k, values in enumerate(rewards)]
    return cases + ties_cases()


def test_the_score_is_the_mean_of_the_six_subsets(tmp_path):
    found = scored(tmp_path, all_cases())
    values = {name: figure.value for name, figure in found.subsets.items()}
    own = values.pop("Ties")
    assert values == dict(zip(DOMAINS, (0.5, 1.0, 0.5, 0.5, 0.25), strict=True))
    assert found.score.value == pytest.approx((2.75 + own) / 6)
    assert (found.score.n, found.n_equal) == (22, 3)
    text = found.to_markdown()
    assert f"| **score** | {found.score.value:.3f} |" in text
    assert "| Precise IF | 1.000 | 1.000-1.000 | 2 |" in text
    assert "| tied_accuracy | 0.500 |" in text
    assert "3 prompts have a correct and an incorrect answer with the highest reward" in text
    spelled = [({**each, "subset": each["subset"].upper()}, values) for each, values in all_cases()]
    assert scored(tmp_path, spelled) == found
    mine = scored(tmp_path, [*all_cases(), (row(subset="mine"), [1, 0, 0, 0])])
    assert mine.score.value == found.score.value
    assert mine.subsets["mine"].value == 1.0
    part = scored(tmp_path, all_cases()[2:])
    assert part.score is None
    assert "the file has no rows of Factuality." in part.to_markdown()
    assert "No score" not in scored(tmp_path, [(row(), [1, 0, 0, 0])]).to_markdown()


def test_intervals_are_those_of_prompts_drawn_again(tmp_path):
    rng = np.random.default_rng(1)
    cases = [(row(subset="Math"), rng.integers(0, 3, 4).tolist()) for _ in range(60)]
    cases += ties_cases()
    found = scored(tmp_path, cases, seed=1)
    assert found == scored(tmp_path, cases, seed=1) != scored(tmp_path, cases, seed=2)
    shares = [credit(np.float32(values), 1) for each, values in cases if each["subset"] == "Math"]
    drawn = {"Math": [rng.choice(shares, 60).mean() for _ in range(4000)], "Ties": []}
    of_number = [scored(tmp_path, ties_cases((n,))).subsets["Ties"].value for n in TIES]
    drawn["Ties"] = [rng.choice(of_number, 6).mean() for _ in range(4000)]
    for name, values in drawn.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert found.subsets[name].low == pytest.approx(low, abs=0.03)
        assert found.subsets[name].high == pytest.approx(high, abs=0.03)
    assert sum(TIES_WEIGHTS.values()) == pytest.approx(1.01)


def test_lists_of_texts_are_answers_and_lists_of_messages_are_not(tmp_path):
    def holds(*values):
        return holds_lists(read_rows(write_lines(tmp_path / "rows.jsonl", list(values))))

    said = [{"role": "assistant", "content": "good"}]
    asked = [{"role": "user", "content": "Why?"}]
    assert holds(row())
    assert holds({"chosen": "a", "rejected": ["b"]})
    assert not holds({"prompt": asked, "chosen": said, "rejected": said})
    assert not holds({"chosen": asked + said, "rejected": asked + said})
    assert not holds({"chosen": "[a]", "rejected": "b", "subset": "Math"})
    assert holds({"chosen": "['a']", "rejected": "['b']", "num_correct": 1, "total_completions": 2})
    pq.write_table(pa.Table.from_pylist([row(subset="Math", id="1")]), tmp_path / "rows.parquet")
    (found,) = read_answers(read_rows(tmp_path / "rows.parquet"))
    assert (found.prompt, found.correct, found.subset) == ("Why?", ("good 0",), "Math")
    assert found.incorrect == ("bad 0", "bad 1", "bad 2")
    # Messages before the answers, an answer of nothing, and a gap as pandas writes it.
    other = {"prompt": asked, "rejected": [""], "num_incorrect": None, "total_completions": 2.0}
    (found,) = read_answers(read_rows(write_lines(tmp_path / "rows.jsonl", [row() | other])))
    assert (found.prompt, found.incorrect, found.subset) == (tuple(asked), ("",), "all")


SAID = [{"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row(), row() | {"chosen": "a"}], "line 2: column 'chosen' is of type str, where a list"),
        (
            [row(), row() | {"rejected": SAID}],
            "line 2: column 'rejected', answer 1 is of type dict",
        ),
        ([row() | {"rejected": ["a", None]}], "line 1: .*answer 2 is of type NoneType"),
        ([row(), {"prompt": "a", "chosen": ["b"]}], "line 2: column 'rejected' is missing, where"),
        ([row(), row(0)], "line 2: column 'chosen' is an empty list; add an answer or remove"),
        ([row(n_incorrect=0)], "line 1: column 'rejected' is an empty list"),
        ([row() | {"prompt": None}], "line 1: column 'prompt' is empty"),
        ([row() | {"num_correct": 2}], "line 1: column 'num_correct' is '2', but the row has 1"),
        ([row() | {"total_completions": "many"}], "'total_completions' is 'many', but .* has 4"),
        ([row() | {"rejected": ["a", "b", "\ud800"]}], "answer 3 holds a lone surrogate"),
        ([row(2, subset="Ties")], "line 1: column 'id' is missing; a row of the subset Ties needs"),
        ([row(2, subset="ties", id="7")], "line 1: column 'id' is '7'; a row of the subset Ties"),
        ([ties("ref", 1), ties("tied", 2, 2)], "line 1: ref:1 has no row tied:1, with which"),
        ([ties("ref", 1), ties("tied", 1, 2), ties("tied", 4, 2)], "line 3: tied:4 has no row ref"),
        ([ties("ref", 1), ties("ref", 1)], "line 2: the id ref:1 is also that of rows.jsonl, line"),
        ([ties("ref", 1), ties("tied", 1)], "line 2: tied:1 has one correct answer, where two"),
    ],
)
def test_bad_rows_are_named(rows, text, tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=text) as raised:
        read_answers(read_rows(path))
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """The folder of a reward model that knows the toy preference."""
    home = tmp_path_factory.mktemp("judge")
    loaded = load_model(str(save_base(home / "tiny")), dtype="float32")
    train(home / "rm", pairs=pool_pairs(36), loaded=loaded, epochs=4)
    return home / "rm"


def bench_rows():
    """Answers of the toy preference; every fourth prompt the wrong way round."""
    pairs = pool_pairs(48)
    good, bad = ([getattr(p, side) for p in pairs] for side in ("chosen", "rejected"))
    rows = []
    for k in range(20):
        chosen, rejected = ([good[k]], bad[k : k + 3]) if k % 4 else ([bad[k]], good[k : k + 3])
        rows.append({"prompt": pairs[k].prompt, "chosen": chosen, "rejected": rejected})
        rows[-1] |= {"subset": DOMAINS[k % 5], "id": str(k)}
    for k in range(4):
        pair = {"prompt": pairs[k].prompt, "rejected": bad[k : k + 2], "subset": "Ties"}
        rows.append(pair | {"chosen": good[k : k + 1], "id": f"ref:{k}"})
        rows.append(pair | {"chosen": good[k : k + 3], "id": f"tied:{k}"})
    return rows


def test_command_line_from_a_file_to_a_score(judge, tmp_path, capsys):
    rows = bench_rows()
    data = write_lines(tmp_path / "bench2.jsonl", rows)
    assert run(["evaluate", "reward", str(judge), str(data)]) == 0
    shown = capsys.readouterr().out
    result = json.loads((judge / "evaluation-bench2.json").read_text())
    assert (judge / "evaluation-bench2.md").read_text().rstrip() in shown
    assert result["benchmark"] == "RewardBench 2"
    assert result["ties"].keys() == TIES_WEIGHTS.keys()
    model = load_reward_model(judge, dtype="float32")
    for name in DOMAINS:
        right = []
        for each in rows:
            if each["subset"] == name:
                texts = [reward_text(each["prompt"], a) for a in each["chosen"] + each["rejected"]]
                right.append(int(np.argmax(model.score(texts))) == 0)
        assert result["subsets"][name]["value"] == np.mean(right)
    assert result["subsets"]["Ties"]["value"] > 0.5  # it knows the preference
    mean = np.mean([figure["value"] for figure in result["subsets"].values()])
    assert result["score"]["value"] == pytest.approx(mean)
    assert run(["evaluate", "reward", str(judge), str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert run(["evaluate", "reward", str(judge), str(data), "--prior-sets"]) == 2
    error = capsys.readouterr().err
    assert "which has no prior sets; leave out --prior-sets" in error
    assert error.count("\n") == 1
    with pytest.raises(InputError, match="use evaluate_reward_file, which scores both"):
        evaluate_reward(model, data)


def test_long_answers_are_cut_and_counted_or_refused_and_pairs_stay_pairs(judge, tmp_path):
    model = load_reward_model(judge, dtype="float32")
    long = "so much text " * model.max_context
    data = write_lines(tmp_path / "long.jsonl", [row() | {"rejected": ["a", long, "b"]}])
    found = evaluate_reward_file(model, data)
    assert isinstance(found, RewardBench2Evaluation)
    assert found.n_truncated == 1
    assert "1 texts are longer than the model's context" in found.to_markdown()
    with pytest.raises(InputError, match="tokens, but the maximum of the reward model"):
        evaluate_reward_file(model, data, refuse_long=True)
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"chosen": "a", "rejected": "b"}])
    found = evaluate_reward_file(model, pairs)
    assert isinstance(found, RewardEvaluation)
    assert found == evaluate_reward(model, pairs)
