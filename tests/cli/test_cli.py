import json
import os
import signal
import sys

import numpy as np
import pytest

from icm_fast.cli import main, run
from icm_fast.cli.settings import parse_assignments, read_request
from icm_fast.config import SearchConfig
from icm_fast.engine.doctor import growth_sizes
from icm_fast.engine.progress import (
    PlainLines,
    SearchState,
    TerminalProgress,
    clock,
    make_progress,
    seconds_left,
)
from icm_fast.training.steps import TrainingStep
from run_fakes import FakeScorer, install_fake_model, run_bytes, toy_dataset, write_claims


@pytest.fixture
def claims(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_claims(tmp_path / "data.jsonl")
    (tmp_path / "l.yaml").write_text("task: truthfulqa\nmodel: fake\nlimit: x\n")
    return tmp_path


@pytest.fixture
def model(monkeypatch):
    return install_fake_model(monkeypatch)


SEARCH = ["search", "truthfulqa", "data.jsonl", "--model", "fake", "--limit", "8"]
QUICK = ["--set", "max_evaluations=10", "--set", "n_initial=2"]


def fails(capsys, arguments, *words):
    """Run, expect exit code 2 and one line with all ``words``; return it."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert err.startswith("icm-fast: ")
    for word in words:
        assert word in err
    return out


def test_search_then_report_and_export(claims, model, capsys):
    assert run([*SEARCH, *QUICK, "--output", "runs/a"]) == 0
    assert "truthfulqa: 8 examples labelled by fake" in capsys.readouterr().out
    assert run(["report", "runs/a"]) == 0
    shown = capsys.readouterr().out
    assert run(["report", "runs/a", "--output", "report.md"]) == 0
    assert (claims / "report.md").read_text() == shown
    for arguments, path in (
        (["--format", "csv"], "runs/a/export.csv"),
        (["-o", "x.parquet"], "x.parquet"),
        ([], "runs/a/export.jsonl"),
    ):
        assert run(["export", "runs/a", *arguments]) == 0
        assert (claims / path).stat().st_size > 0
    assert model.loads == 1


def test_flags_override_set_which_overrides_yaml(claims, model):
    (claims / "c.yaml").write_text(
        "task: truthfulqa\ndata: data.jsonl\nmodel: fake\nlimit: 6\nseed: 4\nalpha: 20\n"
        "max_evaluations: 5\noutput: runs/y\n"
    )
    assert run(["search", "--config", "c.yaml", "--set", "alpha=30", "--seed", "7"]) == 0
    import yaml

    content = yaml.safe_load((claims / "runs/y/config.yaml").read_text())
    assert (content["seed"], content["alpha"], content["limit"]) == (7, 30, 6)
    assert content["run"]["n_examples"] == 6


def test_saved_configuration_repeats_the_run(claims, model):
    assert run([*SEARCH, *QUICK, "--output", "runs/a"]) == 0
    assert run(["search", "--config", "runs/a/config.yaml", "--output", "runs/b"]) == 0
    assert run_bytes(claims / "runs/a") == run_bytes(claims / "runs/b")


def test_preset_over_resolved_settings_is_refused(claims, model, capsys):
    assert run([*SEARCH, *QUICK, "--output", "runs/a"]) == 0
    capsys.readouterr()
    fails(capsys, ["search", "--config", "runs/a/config.yaml", "--preset", "paper"], "--preset")


def test_output_defaults_below_runs(claims, model):
    assert run([*SEARCH, *QUICK, "--seed", "3"]) == 0
    assert (claims / "runs/truthfulqa-default-seed3/labels.jsonl").exists()


@pytest.mark.parametrize("change", ["permuted", "deleted"])
def test_gold_changes_no_byte_of_a_search(tmp_path, monkeypatch, model, change):
    golds = {"given": lambda row: row % 2, "permuted": lambda row: 1 - row % 2, "deleted": None}
    for name in ("given", change):
        (tmp_path / name).mkdir()
        write_claims(tmp_path / name / "data.jsonl", gold=golds[name])
        monkeypatch.chdir(tmp_path / name)
        assert run([*SEARCH, *QUICK, "--output", "run"]) == 0
    assert run_bytes(tmp_path / "given" / "run") == run_bytes(tmp_path / change / "run")


# --- input errors ------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "truthfulqq", "--model", "fake"], ["truthfulqq", "'truthfulqa'"]),
        (["search", "truthfulqa", "absent.jsonl", "--model", "fake"], ["absent.jsonl"]),
        (["search", "--model", "fake"], ["no task given"]),
        (["search", "truthfulqa", "data.jsonl"], ["no model given"]),
        ([*SEARCH, "--preset", "papr"], ["unknown preset 'papr'", "'paper'"]),
        ([*SEARCH, "--set", "alhpa=3"], ["unknown setting 'alhpa'", "'alpha'"]),
        ([*SEARCH, "--set", "alpha"], ["write key=value"]),
        ([*SEARCH, "--set", "alpha=[1"], ["is not YAML"]),
        ([*SEARCH, "--set", "alpha=-1"], ["alpha = -1 is outside"]),
        ([*SEARCH, "--set", "options=3"], ["options must be a mapping"]),
        ([*SEARCH, "--option", "rulez=3"], ["rulez"]),
        ([*SEARCH, "--limit", "many"], ["--limit"]),
        ([*SEARCH, "--bogus"], ["--bogus"]),
        (["serach"], ["serach"]),
        ([*SEARCH, "--config", "absent.yaml"], ["cannot read absent.yaml"]),
        ([*SEARCH, "--output", "data.jsonl/run"], ["cannot write", "Not a directory"]),
        (["report", "absent"], ["cannot read", "config.yaml"]),
        (["export", "."], ["config.yaml"]),
        (["evaluate", "run", "."], ["holds no run"]),
        (["evaluate", "."], ["is a folder", "`icm-fast evaluate run .`"]),
        (["search", "--config", "l.yaml"], ["limit must be an integer, got 'x'"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(claims, model, capsys, arguments, words):
    fails(capsys, arguments, *words)
    assert not (claims / "runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alhpa: 3\n", ["c.yaml", "unknown setting 'alhpa'", "'alpha'"]),
        ("a: [1\n", ["c.yaml is not YAML"]),
        ("- 1\n", ["must hold 'key: value' lines"]),
        ("", ["no task given"]),
    ],
)
def test_bad_yaml(claims, capsys, text, words):
    (claims / "c.yaml").write_text(text)
    fails(capsys, ["search", "--config", "c.yaml"], *words)


def test_one_label_only(tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "spec.yaml").write_text("data: rows.jsonl\ntemplate: '{text}'\nlabels: [' yes']\n")
    fails(capsys, ["search", "custom", "spec.yaml", "--model", "fake"], "label")


def test_different_run_in_the_folder(claims, model, capsys):
    assert run([*SEARCH, *QUICK, "--output", "runs/a"]) == 0
    capsys.readouterr()
    fails(capsys, [*SEARCH, *QUICK, "--output", "runs/a", "--seed", "9"], "seed is 0 there and 9")


def test_broken_model(claims, monkeypatch, capsys):
    class Broken(FakeScorer):
        def score(self, labels, queries=None):
            scored = super().score(labels, queries)
            scored.scores[0] = np.nan
            return scored

    install_fake_model(monkeypatch, Broken)
    fails(capsys, [*SEARCH, "--output", "runs/a"], "NaN log-probabilities for example")


@pytest.mark.usefixtures("interruptible")
def test_interrupt_exits_130_says_how_to_go_on_and_resumes(claims, monkeypatch, capsys):
    class Interrupting(FakeScorer):
        def score(self, labels, queries=None):
            if self.calls == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().score(labels, queries)

    install_fake_model(monkeypatch, Interrupting)
    assert run([*SEARCH, *QUICK, "--output", "runs/a"]) == 130
    assert "runs/a, run the same command again" in capsys.readouterr().err
    install_fake_model(monkeypatch)
    assert run([*SEARCH, *QUICK, "--output", "runs/a"]) == 0
    assert run([*SEARCH, *QUICK, "--output", "runs/b"]) == 0
    assert run_bytes(claims / "runs/a") == run_bytes(claims / "runs/b")


def test_interrupt_outside_a_search_exits_130(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("icm_fast.cli.commands.versions", interrupted)
    assert run(["version"]) == 130


def test_an_unexpected_error_is_not_hidden(monkeypatch):
    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr("icm_fast.cli.commands.versions", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(["version"])


def test_version_and_help(capsys, monkeypatch):
    assert run(["version"]) == 0
    assert "numpy 2" in capsys.readouterr().out
    assert run(["--help"]) == 0
    assert "search" in capsys.readouterr().out
    assert run([]) == 2
    monkeypatch.setattr(sys, "argv", ["icm-fast", "version"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0


# --- evaluate, demo, doctor --------------------------------------------------


def test_evaluate_a_run_is_kept_in_its_folder(claims, model, capsys):
    assert run([*SEARCH, *QUICK, "--output", "runs/a"]) == 0
    capsys.readouterr()
    assert run(["evaluate", "run", "runs/a", "--n-test", "10"]) == 0
    shown = capsys.readouterr().out
    for word in ("zero-shot", "ICM many-shot", "golden many-shot", "of 8 examples"):
        assert word in shown
    assert "Predictions are those of fake." in shown
    loads = model.loads
    assert run(["evaluate", "run", "runs/a", "--n-test", "10"]) == 0
    assert capsys.readouterr().out == shown
    assert model.loads == loads
    assert run(["report", "runs/a"]) == 0
    assert "golden many-shot" in capsys.readouterr().out


def test_evaluate_a_task_searches_first(claims, model, capsys):
    arguments = ["evaluate", "run", *SEARCH[1:], *QUICK, "--n-test", "10", "--output", "runs/e"]
    assert run(arguments) == 0
    assert "golden many-shot" in capsys.readouterr().out
    assert (claims / "runs/e/evaluation.json").exists()


def test_evaluate_a_run_of_a_python_data_set(tmp_path, capsys):
    import icm_fast

    icm_fast.search(toy_dataset(6), model="fake", output_dir=tmp_path, scorer=FakeScorer(6))
    fails(capsys, ["evaluate", "run", str(tmp_path)], "does not say which task")


def test_demo_prints_the_table_and_is_kept(tmp_path, monkeypatch, model, capsys):
    write_claims(tmp_path / "data.jsonl")
    from icm_fast.experiments import demo
    from icm_fast.tasks.source import TaskSource

    source = TaskSource("truthfulqa", str(tmp_path / "data.jsonl"), limit=8)
    monkeypatch.setattr(demo, "demo_source", lambda n, seed: source)
    arguments = ["demo", "--model", "fake", "--n", "8", "--output", str(tmp_path / "demo")]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    for word in ("zero-shot", "golden many-shot", "evaluations of U(D)", "Run folder"):
        assert word in shown
    assert model.loads == 1
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["comparison"]["n_gold"] == 8
    assert run(arguments) == 0
    assert capsys.readouterr().out == shown
    assert model.loads == 1


def test_demo_searches_and_tests_different_reviews():
    from icm_fast.experiments.demo import demo_source

    source = demo_source(32, 5)
    assert (source.limit, source.seed, source.options["split"]) == (32, 5, "search")


def test_doctor_reports_every_check(claims, model, capsys):
    assert run(["doctor", *SEARCH[1:]]) == 0
    out = capsys.readouterr().out
    for word in ("processor", "label tokens", "boundaries", "context", "tokens per second", "cost"):
        assert word in out
    assert "FAIL" not in out
    assert "88 tokens" in out


def test_doctor_as_json(claims, model, capsys):
    assert run(["doctor", *SEARCH[1:], "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {f["state"] for f in findings} == {"ok"}
    assert {"duplicates", "label join", "cost"} <= {f["check"] for f in findings}
    arguments = ["doctor", "truthfulqa", "absent.jsonl", "--model", "fake", "--json"]
    assert run(arguments) == 2
    out = json.loads(capsys.readouterr().out)
    assert out["findings"][-1]["state"] == "FAIL"


HOSTILE = [
    ["--set", "label_shares=0.9"],
    ["--set", "alpha=" + "9" * 5000],
    ["--set", "alpha=" + "[" * 5000],
    ["--set", "alpha=[" + "x, " * 5000 + "]"],
    ["--set", "moves={a: 1}"],
    ["--set", "moves=[[grow]]"],
    ["--set", "alpha=1e999"],
    ["--set", "alpha=.nan"],
    ["--set", "device=\x00"],
    ["--set", "initial_labels=[.inf]"],
    ["--set", "x" * 10_000 + "=1"],
    ["--set", "=1"],
    ["--set", "cooling=[1]"],
    ["--option", "rules=[1]"],
    ["--option", "rules={a: *b}"],
    ["--option", "\ud800=1"],
    ["--seed", "9" * 30],
    ["--preset", "x" * 10_000],
]


@pytest.mark.parametrize("extra", HOSTILE, ids=lambda extra: repr(extra)[:40])
def test_odd_settings_are_one_short_line(claims, model, capsys, extra):
    assert run([*SEARCH, *extra]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len(err) < 4000


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nseed: *a",
        "seed: " + "[" * 10_000,
        "seed: " + "9" * 10_000,
        "seed: {" + ", ".join(f"k{k}: 1" for k in range(10_000)) + "}",
        "options: [1]",
        'output: "\\0"',
        "options: {rules: {a: 1}}",
        "seed: 1\nseed: 2",
        "? [a]\n: 1",
        "\x00",
        "!!python/object:os.system {}",
    ],
    ids=lambda text: repr(text)[:30],
)
def test_odd_settings_files_are_one_short_line(claims, model, capsys, tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert run([*SEARCH, "--config", str(tmp_path / "c.yaml")]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len(err) < 1000


def test_yaml_settings_are_those_of_yaml_1_2(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "task: custom\ndata: 010\nmodel: 1e3\nseed: 010\nalpha: 1e1\nmax_iterations: 1e2\n"
        "options: {gold: no, id: 007, gold_map: {no: 1, 2: yes}}\n"
    )
    request = read_request(tmp_path / "c.yaml", ["growth=1e-1"], ["group=08"])
    assert (request.source.data, request.model) == ("010", "1e3")
    assert (request.config.seed, request.config.alpha, request.config.growth) == (10, 10.0, 0.1)
    assert request.config.max_iterations == 100
    assert request.source.options == {
        "gold": "no",
        "id": "007",
        "gold_map": {"no": "1", "2": "yes"},
        "group": "08",
    }


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("template={t}: # {u}", "{t}: # {u}"),
        ("template=Text: {t}", "Text: {t}"),
        ('template="a\\nb"', "a\nb"),
        ("template='a: \"b\"'", 'a: "b"'),
        ("gold=yes", "yes"),
        ("gold=010", "010"),
        ("gold=", None),
        ("gold=null", None),
        ("gold_map={1: no}", {"1": "no"}),
        ("labels=[no, yes]", ["no", "yes"]),
        ("limit=1e1", 10.0),
    ],
)
def test_values_of_assignments(word, value):
    assert list(parse_assignments([word], None).values()) == [value]


def test_doctor_fails_where_the_input_does(claims, model, capsys):
    arguments = ["doctor", "truthfulqa", "absent.jsonl", "--model", "fake"]
    assert "FAIL  input" in fails(capsys, arguments, "absent.jsonl")


def test_growth_sizes():
    assert growth_sizes(30, SearchConfig(preset="annealing", n_initial=4)) == [4, 8, 16]
    assert growth_sizes(30, SearchConfig(bootstrap_rounds=3)) == [0, 15, 15, 15]
    assert growth_sizes(6, SearchConfig(preset="paper", n_initial=4)) == [4, 5]
    assert growth_sizes(3, SearchConfig(preset="annealing")) == []


# --- progress ----------------------------------------------------------------


def state(**changes):
    values = {
        "utility": -1.5,
        "temperature": 0.5,
        "iteration": 3,
        "n_examples": 10,
        "n_labelled": 6,
        "n_accepted": 2,
        "n_evaluations": 4,
        "n_scored_now": 4,
    }
    return SearchState(**(values | changes))


def test_seconds_left():
    assert seconds_left(state(), 8.0, 4) == pytest.approx(16.0)
    assert seconds_left(state(n_labelled=10), 8.0, 4) is None
    assert seconds_left(state(n_labelled=4), 8.0, 4) is None
    assert seconds_left(state(max_evaluations=10), 8.0, 0) == pytest.approx(12.0)


def test_clock():
    assert [clock(s) for s in (5.4, 65, 3725)] == ["5 s", "1 min 05 s", "1 h 02 min"]


def test_plain_lines_unless_a_terminal(monkeypatch, capsys):
    assert isinstance(make_progress(), PlainLines)
    shown = make_progress(timed=True)
    with shown:
        shown.say("next")
        shown.warn("a concern")
        shown.update(state())
    assert capsys.readouterr().err == "  0:00  next\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(make_progress(), TerminalProgress)


def test_terminal_bar_shows_the_figures():
    import io

    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    with TerminalProgress(console) as shown:
        shown.update(state(n_labelled=4))
        shown.update(state())
        shown.update(state(n_labelled=10))
    for word in ("U -1.500", "T 0.500", "labelled 6/10", "accepted 2", "scored 4", "settling"):
        assert word in text.getvalue()


def test_the_bar_shows_trainings_inside_other_work_and_what_is_said():
    import io

    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    with TerminalProgress(console) as shown:
        shown.say("initial: [12] pairs")
        with shown:
            shown.update(TrainingStep(1, 3, "loss", 0.693))
        with shown:
            shown.update(TrainingStep(2, 3, "reward", 0.5))
    for words in ("initial: [12] pairs", "step 1 of 3, loss 0.693", "step 2 of 3, reward +0.500"):
        assert words in text.getvalue()


def test_checks_of_the_data_model_are_input_errors(monkeypatch, capsys):
    def refuse(*arguments, **keywords):
        raise ValueError("the data set holds no example")

    monkeypatch.setattr("icm_fast.tasks.registry.load_task", refuse)
    fails(capsys, ["search", "larger-than", "--model", "fake"], "larger-than", "holds no example")
