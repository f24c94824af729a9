"""Several searches on one page: their rows, where they agree, and what they differ in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from report_cases import read_page

import icm_fast
from icm_fast.cli import run as icm_fast_command
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.reports import Request, read_report, render_page
from icm_fast.reports.content import Rows, Table
from icm_fast.runs.finished import read_run
from icm_fast.tasks.source import TaskSource
from icm_fast.types import Dataset, Example, LabelSpace
from run_fakes import FakeScorer, write_claims


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Searches of the same claims with three seeds; the third one of fewer rows."""
    folder = tmp_path_factory.mktemp("claims")
    write_claims(folder / "claims.jsonl")
    found = []
    for seed, limit in ((1, None), (2, None), (3, 16)):
        source = TaskSource("truthfulqa", str(folder / "claims.jsonl"), limit=limit, seed=seed)
        dataset = source.load_dataset()
        config = SearchConfig(preset="paper", max_evaluations=30 + seed, seed=seed)
        icm_fast.search(
            dataset,
            model="fake",
            config=config,
            output_dir=folder / f"seed-{seed}",
            scorer=FakeScorer(len(dataset)),
            source=source,
        )
        found.append(folder / f"seed-{seed}")
    return found


def report_of(folders, **options):
    return read_report(Request(tuple(folders), **options))


def table(report, caption) -> Table:
    tables = [b for s in report.sections for b in s.blocks if isinstance(b, Table)]
    return next(t for t in tables if t.caption.startswith(caption))


def only_rows(report) -> Rows:
    (found,) = [b for s in report.sections for b in s.blocks if isinstance(b, Rows)]
    return found


def test_common_rows_have_the_label_of_the_greatest_number_of_runs(runs):
    rows = only_rows(report_of(runs))
    labels = [
        dict(zip((e.id for e in r.dataset.examples), r.labels.tolist(), strict=True))
        for r in map(read_run, runs)
    ]
    common = [i for i in labels[0] if all(i in other for other in labels)]
    assert rows.ids == common
    assert len(common) == 16
    for k, name in enumerate(common):
        own = [found[name] for found in labels]
        counts = [own.count(y) for y in (0, 1)]
        wanted = -1 if max(counts) == 0 else int(np.argmax(counts))
        assert rows.found[k] == wanted
        assert rows.deciders[rows.decided[k]] == ("all agree" if len(set(own)) == 1 else "differ")
        assert (rows.confidence[k] > 0) == (wanted >= 0)


def test_agreement_settings_and_concerns_are_those_of_the_runs(runs):
    report = report_of(runs[:2])
    one, other = map(read_run, runs[:2])
    share = (one.labels == other.labels).mean()
    assert table(report, "Agreement").rows[0] == ("seed-1", "1.00", f"{share:.2f}")
    differing = {row[0]: row[1:] for row in table(report, "Settings").rows}
    assert differing == {"seed": ("1", "2"), "max_evaluations": ("31", "32")}
    assert [row[0] for row in table(report, "What each run found").rows] == ["seed-1", "seed-2"]
    texts = [
        f"seed-{r.config.seed}: {c['text']}" for r in (one, other) for c in r.summary["concerns"]
    ]
    assert [c.text for c in report.concerns] == texts


def test_gold_judges_every_run(runs):
    report = report_of(runs[:2], gold="task")
    (section,) = [s for s in report.sections if s.key == "gold"]
    (judged,) = [b for b in section.blocks if isinstance(b, Table) and "each run" in b.caption]
    assert all(re.fullmatch(r"[01]\.\d{3}", cell) for _, cell in judged.rows)
    assert "gold" not in [s.key for s in report_of(runs[:2]).sections]


def test_the_command_writes_the_page(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert icm_fast_command(["report", *map(str, runs), "-o", str(page)]) == 0
    assert read_page(page.read_text()).text.count("seed-2") >= 3
    assert icm_fast_command(["report", *map(str, runs)]) == 2
    assert "-o report.html" in capsys.readouterr().err


def test_runs_of_one_name_are_numbered(runs):
    report = report_of([runs[0], runs[0]])
    names = [row[0] for row in table(report, "What each run found").rows]
    assert names == ["seed-1 (1)", "seed-1 (2)"]
    assert "All settings are the same." in render_page(report, "x")


def small_run(folder: Path, labels: tuple[str, ...], prompt: str) -> Path:
    examples = tuple(Example(f"e{k}", f"{prompt} {k}") for k in range(3))
    dataset = Dataset(examples, LabelSpace(labels), name="small")
    config = SearchConfig(max_evaluations=2)
    icm_fast.search(dataset, model="m", config=config, output_dir=folder, scorer=FakeScorer(3))
    return folder


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    one = small_run(tmp_path / "one", (" a", " b"), "text")
    with pytest.raises(InputError, match="the same labels"):
        report_of([one, small_run(tmp_path / "labels", (" a", " c"), "text")])
    with pytest.raises(InputError, match="no row in common"):
        report_of([one, small_run(tmp_path / "rows", (" a", " b"), "other")])
    with pytest.raises(InputError, match="--data names the table of a labelling"):
        report_of([one], data="x.csv")
    (tmp_path / "training").mkdir()
    (tmp_path / "training/steps.jsonl").write_text("")
    with pytest.raises(InputError, match="is a training, but only searches are compared"):
        report_of([one, tmp_path / "training"])
