"""lm-eval itself on an exported task: `make test-lm-eval` installs it, else this is skipped."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from lm_eval_cases import CHOICES, finished_run

from icm_fast import evaluate
from icm_fast.export.lm_eval import write_lm_eval_task
from icm_fast.scoring.factory import make_scorer
from tiny_models import one_thread, tiny_loaded  # noqa: F401

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None, reason="no lm_eval; run `make test-lm-eval`"
    ),
    pytest.mark.filterwarnings("ignore"),  # those of lm_eval and its dependencies
]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def lm_eval_samples(loaded, task, **arguments):
    """Run the task; return the model of lm-eval, its result and its samples by document."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=2)
    found = simple_evaluate(
        model=model,
        tasks=[task.name],
        task_manager=TaskManager(include_path=str(task.folder), include_defaults=False),
        **arguments,
    )
    samples = sorted(found["samples"][task.name], key=lambda sample: sample["doc_id"])
    return model, found["results"][task.name], samples


@pytest.mark.parametrize(("bos", "preamble"), [(False, ""), (True, ""), (True, "{{ so }}?")])
@pytest.mark.parametrize("shots", [None, 5])
def test_lm_eval_sees_our_text_and_predicts_what_many_shot_predicts(
    tmp_path, monkeypatch, offline, bos, shots, preamble
):
    run = finished_run(tmp_path)
    run = replace(run, dataset=replace(run.dataset, preamble=preamble))
    labels = run.labels.copy()
    labels[2] = -1
    run = replace(run, labels=labels)
    task = write_lm_eval_task(run, tmp_path / "out é #{{1}} %20", shots=shots)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = tiny_loaded("llama", bos=bos, max_position_embeddings=4096)

    plans = []

    def make(model, dataset, config):
        scorer = make_scorer(model, dataset, config)

        class Spy:
            def score(self, state, queries):
                plans.append((dataset, state, scorer.plan(state, queries)))
                return scorer.score(state, queries)

        return Spy()

    test, gold = evaluate.held_out(run.source, run.dataset, 100)
    test = replace(test, preamble=preamble)
    config = replace(run.config, context_demonstrations=shots or 0)
    ours = evaluate.many_shot(
        run.dataset,
        run.labels,
        test,
        model=loaded,
        config=config,
        calibrated=False,  # the harness has no calibration
        make_scorer=make,
    )
    joined, state, plan = plans[-1]
    model, result, samples = lm_eval_samples(loaded, task)

    assert len(samples) == len(test) == 12
    for k, sample in enumerate(samples):
        row = len(joined) - len(test) + k
        shown = [
            (joined.examples[i].prompt, joined.label_space[state[i]]) for i in plan.contexts[row]
        ]
        text = joined.opening
        text += "".join(prompt + label + joined.separator for prompt, label in shown)
        text += test.examples[k].prompt
        assert len(shown) == (shots or 7)
        for y, request in enumerate(sample["arguments"]):
            assert request == (text, test.label_space[y])
        assert model._encode_pair(text, test.label_space[0])[0] == plan.prompt_ids(row)
        assert sample["target"] == gold[k]
    seen = "".join(sample["arguments"][0][0] for sample in samples)
    assert all(choice in seen for choice in CHOICES)

    theirs = np.array([[answer[0] for answer in s["filtered_resps"]] for s in samples])
    theirs = theirs - np.logaddexp.reduce(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(theirs, ours.scores, atol=1e-4)
    assert theirs.argmax(axis=1).tolist() == ours.labels.tolist()
    assert result["acc,none"] == pytest.approx(evaluate.accuracy(ours.labels, gold))
    assert result["acc_stderr,none"] > 0


def test_fewer_shots_are_the_first_of_the_file(tmp_path, offline):
    task = write_lm_eval_task(finished_run(tmp_path), tmp_path / "out")
    _, _, samples = lm_eval_samples(tiny_loaded("llama"), task, num_fewshot=1, limit=2)
    first = json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])
    for sample in samples:
        assert sample["arguments"][0][0] == (
            first["prompt"] + first["label"] + "\n\n" + sample["doc"]["prompt"]
        )
