import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from icm_fast import evaluate
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.report import comparison_text
from icm_fast.model.lazy import LazyModel
from icm_fast.tasks.source import TaskSource
from run_fakes import FakeLoaded, FakeScored, FakeScorer, toy_dataset, write_claims


def ints(*values):
    return np.array(values, dtype=np.int32)


def test_agreement_counts_only_examples_with_both():
    assert evaluate.agreement(ints(0, 1, 1, -1, 0), ints(0, 1, 0, 1, -1)) == pytest.approx(2 / 3)
    assert np.isnan(evaluate.agreement(ints(-1), ints(1)))


@pytest.mark.parametrize("n_labels", [2, 3, 4])
def test_permuted_agreement_equals_brute_force(n_labels):
    rng = np.random.default_rng(n_labels)
    for _ in range(20):
        labels = rng.integers(-1, n_labels, 12).astype(np.int32)
        gold = rng.integers(-1, n_labels, 12).astype(np.int32)
        best = max(
            evaluate.agreement(np.append(permuted, -1)[labels].astype(np.int32), gold)
            for permuted in itertools.permutations(range(n_labels))
        )
        found = evaluate.agreement_up_to_permutation(labels, gold, n_labels)
        assert found == pytest.approx(best)


def test_permuted_agreement_of_nothing():
    assert np.isnan(evaluate.agreement_up_to_permutation(ints(-1), ints(0), 2))


@pytest.mark.parametrize("n_labels", [17, 120])
def test_permuted_agreement_of_many_labels(n_labels):
    """A renaming of all, and two rows of which one is of another label in each."""
    rng = np.random.default_rng(0)
    gold = np.tile(np.arange(n_labels, dtype=np.int32), 4)
    labels = rng.permutation(n_labels).astype(np.int32)[gold]
    labels[:n_labels] = rng.integers(0, n_labels, n_labels)
    wrong = int((labels[:n_labels] != labels[n_labels : 2 * n_labels]).sum())
    found = evaluate.agreement_up_to_permutation(labels, gold, n_labels)
    assert found == pytest.approx(1 - wrong / len(gold))


def test_accuracy_counts_a_missing_prediction_as_wrong():
    assert evaluate.accuracy(ints(0, -1, 1, 1), ints(0, 1, 1, -1)) == pytest.approx(2 / 3)
    assert np.isnan(evaluate.accuracy(ints(0), ints(-1)))


def test_balanced_accuracy_weighs_labels_equally():
    assert evaluate.balanced_accuracy(ints(0, 0, 0, 0), ints(0, 0, 0, 1)) == pytest.approx(0.5)
    assert np.isnan(evaluate.balanced_accuracy(ints(0), ints(-1)))


def test_auc_equals_pair_counting_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        margin = rng.integers(0, 4, 15).astype(np.float32)
        scores = np.stack([np.zeros(15, np.float32), margin], axis=1)
        gold = rng.integers(-1, 2, 15).astype(np.int32)
        pairs = [(a > b) + 0.5 * (a == b) for a in margin[gold == 1] for b in margin[gold == 0]]
        assert evaluate.auc(scores, gold) == pytest.approx(np.mean(pairs))


def test_auc_needs_two_labels_and_both_kinds():
    assert np.isnan(evaluate.auc(np.zeros((2, 2), np.float32), ints(1, 1)))
    with pytest.raises(InputError, match="AUC needs scores of 2 labels"):
        evaluate.auc(np.zeros((2, 3), np.float32), ints(0, 1))


def test_bootstrap_is_seeded_and_wider_over_groups():
    predictions, gold = ints(*([1] * 30 + [0] * 30)), ints(*([1] * 60))
    alone = evaluate.bootstrap_interval(predictions, gold)
    assert alone == evaluate.bootstrap_interval(predictions, gold)
    assert alone != evaluate.bootstrap_interval(predictions, gold, seed=1)
    assert alone[0] < 0.5 < alone[1]
    grouped = evaluate.bootstrap_interval(predictions, gold, [str(i // 15) for i in range(60)])
    assert grouped[1] - grouped[0] > alone[1] - alone[0]
    single = evaluate.bootstrap_interval(predictions, gold, [None] * 60)
    assert single == alone


def test_calibrated_prediction_removes_a_common_preference():
    scores = np.log(np.array([[0.9, 0.1], [0.7, 0.3], [0.95, 0.05]], np.float32))
    assert evaluate.predict(scores).tolist() == [0, 0, 0]
    assert evaluate.predict(scores, calibrated=True).tolist() == [0, 1, 0]
    shifted = scores - np.array([[1.0], [2.0], [3.0]], np.float32)  # over the vocabulary
    assert evaluate.predict(shifted, calibrated=True).tolist() == [0, 1, 0]


class Recording:
    def __init__(self):
        self.made = []

    def __call__(self, loaded, dataset, config):
        recorder, scorer = self, FakeScorer(len(dataset), len(dataset.label_space))

        class Spy:
            def score(self, labels, queries=None) -> FakeScored:
                recorder.labels, recorder.queries = labels, queries
                return scorer.score(labels, queries)

        self.made.append((dataset, config))
        return Spy()


def test_many_shot_queries_only_the_test_examples():
    shots, test = toy_dataset(5), toy_dataset(3)
    make = Recording()
    found = evaluate.many_shot(
        shots, ints(0, 1, -1, 1, 0), test, model=FakeLoaded(), make_scorer=make
    )
    dataset, _ = make.made[-1]
    assert make.labels.tolist() == [0, 1, 1, 0, -1, -1, -1]
    assert make.queries.tolist() == [False] * 4 + [True] * 3
    assert [e.id for e in dataset.examples][3:5] == ["demonstration:e4", "test:e0"]
    assert found.labels.shape == (3,)
    assert found.scores.shape == (3, 2)
    assert found.n_tokens == 74


def test_many_shot_is_calibrated_unless_told_otherwise():
    class Leaning:
        def score(self, labels, queries=None):
            scores = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]))
            return FakeScored(scores.astype(np.float32), 1)

    def found(**how):
        return evaluate.many_shot(
            None,
            None,
            toy_dataset(4),
            model=FakeLoaded(),
            make_scorer=lambda *_: Leaning(),
            **how,
        )

    assert found(calibrated=False).labels.tolist() == [0, 0, 0, 0]
    assert found().labels.tolist() == [0, 1, 1, 0]
    assert (found().scores == found(calibrated=False).scores).all()


def test_many_shot_keeps_the_preamble_and_refuses_two():
    shots, test = (dataclasses.replace(toy_dataset(n), preamble="Answer.") for n in (5, 3))
    make = Recording()
    evaluate.many_shot(shots, ints(0, 1, -1, 1, 0), test, model=FakeLoaded(), make_scorer=make)
    assert {dataset.preamble for dataset, _ in make.made} == {"Answer."}
    with pytest.raises(InputError, match=r"the preamble 'Answer\.', but the test data have ''"):
        evaluate.many_shot(
            shots, ints(0, 1, 0, 1, 0), toy_dataset(3), model=FakeLoaded(), make_scorer=make
        )


def test_a_bounded_search_shows_as_many_demonstrations_in_evaluation():
    seen = []

    class Looking(FakeScorer):
        def __init__(self, dataset, config):
            super().__init__(len(dataset))
            self.config = config

        def score(self, labels, queries=None):
            seen.append((int((labels >= 0).sum()), self.config))
            return super().score(labels, queries)

    config = SearchConfig(context_demonstrations=3, seed=5)
    shots = toy_dataset(8)
    for _ in range(2):
        evaluate.many_shot(
            shots,
            np.zeros(8, np.int32),
            toy_dataset(4),
            model=FakeLoaded(),
            config=config,
            make_scorer=lambda model, dataset, config: Looking(dataset, config),
        )
    assert [n for n, _ in seen] == [3, 3]
    assert {(c.context_demonstrations, c.context_order) for _, c in seen} == {(0, "tree")}


def test_many_shot_checks_the_context_for_one_test_example_only():
    make = Recording()
    config = SearchConfig(context_limit=500)
    evaluate.many_shot(
        toy_dataset(5),
        ints(0, 1, 0, 1, 0),
        toy_dataset(30),
        model=FakeLoaded(),
        config=config,
        make_scorer=make,
    )
    (probe, probe_config), (joined, joined_config) = make.made
    assert len(probe) == 6
    assert probe_config.context_limit == 500
    assert len(joined) == 35
    assert joined_config.context_limit > 10**6


def test_zero_shot_has_no_demonstrations():
    make = Recording()
    evaluate.many_shot(None, None, toy_dataset(3), model=FakeLoaded(), make_scorer=make)
    assert make.labels.tolist() == [-1, -1, -1]
    assert make.queries.all()


def test_many_shot_refuses_other_labels_and_nan():
    with pytest.raises(InputError, match="use one label space"):
        evaluate.many_shot(
            toy_dataset(2, (" a", " b")),
            ints(0, 1),
            toy_dataset(2),
            model=FakeLoaded(),
            make_scorer=Recording(),
        )

    class Nan(FakeScorer):
        def score(self, labels, queries=None):
            return FakeScored(np.full(self.shape, np.nan, np.float32), 1)

    with pytest.raises(InputError, match="NaN"):
        evaluate.many_shot(
            None,
            None,
            toy_dataset(2),
            model=FakeLoaded(),
            make_scorer=lambda loaded, dataset, config: Nan(len(dataset)),
        )


@pytest.fixture
def claims(tmp_path):
    path = tmp_path / "claims.jsonl"
    write_claims(path)
    return TaskSource("truthfulqa", str(path), limit=8, seed=3)


def test_held_out_examples_share_no_group_with_the_searched(claims):
    dataset = claims.load_dataset()
    test, gold = evaluate.held_out(claims, dataset, 6)
    assert len(test) == 6
    assert set(gold.tolist()) <= {0, 1}
    groups = {e.group for e in dataset.examples}
    assert groups.isdisjoint({e.group for e in test.examples})


def test_load_gold_matches_by_id_and_names_a_lost_example(claims, tmp_path):
    dataset, gold = claims.load()
    assert evaluate.load_gold(claims, dataset).tolist() == gold.tolist()
    write_claims(tmp_path / "claims.jsonl", 2)
    with pytest.raises(InputError, match="is no longer in task 'truthfulqa'"):
        evaluate.load_gold(claims, dataset)


def test_gold_of_a_file_whose_rows_were_moved_is_refused(claims):
    """Ids are numbers of rows: another row has the id of the one that was labelled."""
    dataset = claims.load_dataset()
    path = Path(claims.data)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[-1], *lines[:-1]]))
    whole = dataclasses.replace(claims, limit=None)
    with pytest.raises(InputError, match=r"in all\) has a different text now in task 'truthfulqa'"):
        evaluate.load_gold(whole, dataset)


@pytest.mark.parametrize(
    ("n", "message"),
    [(0, "must be 1 or more, got 0"), (1, "number of test examples 1 is smaller than group")],
)
def test_too_few_test_examples_are_named(tmp_path, n, message):
    source = TaskSource("larger-than", limit=4, options={"n_groups": 6})
    with pytest.raises(InputError, match=message):
        evaluate.held_out(source, source.load_dataset(), n)


def test_a_custom_tasks_own_limit_is_one_of_the_search(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"t": "x{k}", "y": "a"}}\n' for k in range(9)))
    (tmp_path / "task.yaml").write_text(
        'data: rows.jsonl\ntemplate: "{t}:"\nlabels: [" a", " b"]\ngold: y\n'
        'gold_map: {"a": " a"}\nlimit: 4\n'
    )
    source = TaskSource("custom", str(tmp_path / "task.yaml"))
    dataset = source.load_dataset()
    assert len(dataset) == 4
    test, _ = evaluate.held_out(source, dataset, 9)
    assert len(test) == 5


def test_shots_are_those_that_are_shown(claims):
    dataset, gold = claims.load()
    config = SearchConfig(context_demonstrations=3)
    found = evaluate.many_shot(
        dataset,
        gold,
        toy_dataset(2, dataset.label_space.labels),
        model=FakeLoaded(),
        config=config,
        make_scorer=lambda loaded, dataset, config: FakeScorer(len(dataset)),
    )
    assert found.n_shots == 3


def test_compare_has_three_rows(claims):
    dataset, gold = claims.load()
    found = evaluate.compare(
        claims,
        dataset,
        gold,
        model=FakeLoaded(),
        config=SearchConfig(),
        n_test=10,
        make_scorer=Recording(),
    )
    assert found.agreement == 1.0
    assert found.n_gold == 8
    assert [row.method for row in found.methods] == [
        "zero-shot",
        "ICM many-shot",
        "golden many-shot",
    ]
    assert [row.n_shots for row in found.methods] == [0, 8, 8]
    assert found.methods[1].accuracy == found.methods[2].accuracy
    assert found.to_dict()["methods"][0]["method"] == "zero-shot"


def test_compare_without_gold_or_without_held_out_data(tmp_path):
    path = tmp_path / "claims.jsonl"
    write_claims(path, gold=None)
    source = TaskSource("truthfulqa", str(path))
    dataset = source.load_dataset()
    with pytest.raises(InputError, match="no gold labels to evaluate against"):
        evaluate.compare(
            source, dataset, np.zeros(24, np.int32), model=FakeLoaded(), config=SearchConfig()
        )
    with pytest.raises(InputError, match="no example with gold besides"):
        evaluate.held_out(source, dataset, 5)


def test_agreement_is_told_where_everything_was_searched(tmp_path):
    """Without held-out data no model is loaded, and no prediction is compared."""
    path = tmp_path / "claims.jsonl"
    write_claims(path)
    source = TaskSource("truthfulqa", str(path))
    dataset, gold = source.load()

    class Unloadable(LazyModel):
        def load(self):
            raise AssertionError("nothing is to be predicted")

    found = evaluate.compare(source, dataset, gold, model=Unloadable("none"), config=SearchConfig())
    assert (found.agreement, found.n_gold, found.n_test, found.methods) == (1.0, 24, 0, ())
    text = comparison_text(found.to_dict())
    assert "agree with gold on 1.00 of 24 examples" in text
    assert "Nothing is held out" in text
    assert "|" not in text


def test_a_model_that_was_trained_again_is_another_one(tmp_path):
    from icm_fast.evaluation.run import _model_digest

    (tmp_path / "adapter").mkdir()
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"one")
    model = LazyModel(str(tmp_path))
    before = _model_digest(model)
    weights.touch()  # a later time alone is no other model
    assert before == _model_digest(model) != ""
    weights.write_bytes(b"two")
    assert _model_digest(model) != before
    assert _model_digest(LazyModel("owner/never-downloaded")) == ""


def test_labels_that_were_given_are_not_found(tmp_path):
    path = tmp_path / "claims.jsonl"
    write_claims(path)
    source = TaskSource("truthfulqa", str(path))
    dataset, gold = source.load()
    fixed = np.where(np.arange(24) < 16, gold, -1)
    labels = gold.copy()
    labels[16:18] = 1 - labels[16:18]
    found = evaluate.compare(
        source,
        dataset,
        labels,
        model=LazyModel("none"),
        config=SearchConfig(fixed_labels=fixed),
    )
    assert (found.agreement, found.n_gold) == (0.75, 8)
    for config, message in (
        (SearchConfig(fixed_labels=gold), "all 24 examples with gold have fixed_labels"),
        (SearchConfig(fixed_labels=gold[:5]), "fixed_labels has 5 entries"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate.compare(source, dataset, gold, model=LazyModel("none"), config=config)


def test_other_weights_in_memory_are_another_model():
    from icm_fast.evaluation.run import _model_digest

    one, same, other = (
        SimpleNamespace(fingerprint=f, dtype_name="float32", computation="c")
        for f in ("a", "a", "b")
    )
    digests = []
    for loaded in (one, same, other):
        lazy = LazyModel(object())
        lazy._loaded = loaded
        digests.append(_model_digest(lazy))
    assert digests[0] == digests[1] != digests[2]
    assert "" not in digests
