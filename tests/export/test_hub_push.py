"""What is pushed to the Hub, on a stand-in for its client: folder, card, privacy, failures."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from export_cases import claims_run, fixed_run, pairs_run

from icm_fast.cli import run as icm_fast_command
from icm_fast.errors import InputError
from icm_fast.export.hub_card import dataset_card
from icm_fast.export.hub_push import push, write_hub_folder
from icm_fast.runs.config import read_config
from icm_fast.runs.finished import read_run
from icm_fast.tasks.source import TaskSource

GOLDEN = Path(__file__).parent.parent / "golden" / "export"
TOKEN = "hf_secret"
SECTION = "## Resolved configuration\n\n```yaml\n"


class FakeHub:
    """Stands for HfApi; keeps what it was told."""

    def __init__(self):
        self.created = []
        self.uploaded = []
        self.public = set()
        self.error = None

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        if self.error:
            raise self.error
        self.created.append((repo_id, repo_type, private, exist_ok))
        return f"https://hub/datasets/{repo_id}"

    def repo_info(self, repo_id, *, repo_type):
        return SimpleNamespace(private=repo_id not in self.public)

    def upload_folder(self, *, repo_id, repo_type, folder_path, allow_patterns, commit_message):
        files = {name: (Path(folder_path) / name).read_bytes() for name in allow_patterns}
        self.uploaded.append((repo_id, repo_type, files))


@pytest.fixture
def hub(monkeypatch):
    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    return hub


@pytest.fixture
def run(tmp_path):
    return claims_run(tmp_path)


def without_configuration(card):
    """A card without its resolved configuration, which every new setting changes; and that."""
    before, _, rest = card.partition(SECTION)
    configuration, _, after = rest.partition("```\n")
    return before + after, yaml.safe_load(configuration)


@pytest.mark.parametrize(
    ("format", "make", "license"), [("trl-sft", claims_run, None), ("dpo", pairs_run, "mit")]
)
def test_card_is_the_golden_one(tmp_path, format, make, license):
    run = make(tmp_path)
    write_hub_folder(run, tmp_path / "hub", format=format, license=license)
    card, configuration = without_configuration((tmp_path / "hub" / "README.md").read_text())
    assert card == (GOLDEN / f"card-{format}.md").read_text()
    stored = read_config(run.folder / "config.yaml")
    assert stored["model"] == "/models/fake"
    del stored["run"]
    assert configuration == stored | {"model": "fake", "data": Path(run.source.data).name}
    assert str(tmp_path) not in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "axolotl"])
def test_datasets_reads_the_folder_as_its_card_says(run, tmp_path, format):
    import datasets

    written = write_hub_folder(run, tmp_path / "hub", format=format)
    table = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))
    assert list(table) == ["train"]
    assert len(table["train"]) == written.n_rows


def test_hub_client_reads_the_front_matter(run, tmp_path):
    write_hub_folder(run, tmp_path / "hub", format="csv", license="cc0-1.0")
    content = huggingface_hub.DatasetCard.load(tmp_path / "hub" / "README.md").data.to_dict()
    assert content["tags"] == ["synthetic", "icm", "truthfulqa"]
    assert content["license"] == "cc0-1.0"
    write_hub_folder(run, tmp_path / "hub", format="csv")
    content = huggingface_hub.DatasetCard.load(tmp_path / "hub" / "README.md").data.to_dict()
    assert "license" not in content


def test_card_says_where_gold_came_in(tmp_path):
    run = claims_run(tmp_path)
    source = TaskSource(
        "truthfulqa", run.source.data, limit=6, options={"rules": "authors-code"}, seed=4
    )
    with pytest.warns(UserWarning, match="GOLD"):
        leaky = fixed_run(tmp_path / "leaky", source, (0,) * 6)
    write_hub_folder(leaky, tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "read gold labels" in card
    assert "No human label" not in card


def test_card_shows_the_comparison_with_gold_once_there_is_one(run, tmp_path):
    write_hub_folder(run, tmp_path / "hub")
    assert "Against gold" not in (tmp_path / "hub" / "README.md").read_text()
    (run.folder / "evaluation.json").write_text(
        '{"comparison": {"agreement": 0.6, "n_gold": 5, "permuted_agreement": 0.6, "n_test": 4, '
        '"methods": [], "model": "/home/me/tuned"}}'
    )
    write_hub_folder(run, tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "agree with gold on 0.60 of 5" in card
    assert "Predictions are those of tuned." in card


def test_push_uploads_card_and_data_alone(run, tmp_path, hub, capsys):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "private-notes.txt").write_text("mine")
    arguments = ["export", str(run.folder), "--format", "trl-sft", "-o", str(tmp_path / "hub")]
    assert icm_fast_command([*arguments, "--push", "me/labels", "--private"]) == 0
    assert hub.created == [("me/labels", "dataset", True, True)]
    repository, kind, files = hub.uploaded[0]
    assert (repository, kind, sorted(files)) == (
        "me/labels",
        "dataset",
        ["README.md", "train.jsonl"],
    )
    assert files["train.jsonl"] == (GOLDEN / "trl-sft.jsonl").read_bytes()
    out = capsys.readouterr().out
    assert "5 rows and a card pushed to https://hub/datasets/me/labels; unlabelled" in out
    assert TOKEN not in out
    assert all(TOKEN.encode() not in content for content in files.values())


@pytest.mark.parametrize(
    ("words", "private"), [([], True), (["--private"], True), (["--public"], False)]
)
def test_a_new_repository_is_private_unless_public_is_asked_for(run, hub, words, private):
    assert icm_fast_command(["export", str(run.folder), "--push", "me/labels", *words]) == 0
    assert hub.created == [("me/labels", "dataset", private, True)]
    assert sorted(path.name for path in (run.folder / "hub").iterdir()) == [
        "README.md",
        "train.jsonl",
    ]


@pytest.mark.parametrize("words", [[], ["--private"]])
def test_private_labels_never_go_to_a_public_repository(run, hub, capsys, words):
    hub.public.add("me/labels")
    assert icm_fast_command(["export", str(run.folder), "--push", "me/labels", *words]) == 2
    assert "exists and is public" in capsys.readouterr().err
    assert hub.uploaded == []


def test_a_readme_of_other_origin_stays(run, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.raises(InputError, match="was not written by an export; choose another folder"):
        write_hub_folder(run, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert not (tmp_path / "train.jsonl").exists()


def test_dry_run_needs_no_token_and_asks_nobody(run, hub, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    arguments = ["export", str(run.folder), "--push", "me/labels"]
    assert icm_fast_command([*arguments, "--dry-run"]) == 0
    assert f"written to {run.folder / 'hub'}, not pushed" in capsys.readouterr().out
    assert hub.created == []
    assert icm_fast_command(arguments) == 2
    assert "hf auth login" in capsys.readouterr().err


def test_failure_is_one_line_without_the_token(run, tmp_path, hub):
    written = write_hub_folder(run, tmp_path / "hub")
    hub.error = RuntimeError(f"Illegal header value 'Bearer {TOKEN}'\nmore")
    with pytest.raises(InputError, match="cannot push to me/labels: Illegal header") as caught:
        push(written, "me/labels")
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--push", "labels"], ["'labels'", "OWNER/NAME"]),
        (["--push", "a/b/c"], ["OWNER/NAME"]),
        (["--private"], ["--push OWNER/NAME"]),
        (["--public"], ["--push OWNER/NAME"]),
        (["--dry-run"], ["--push OWNER/NAME"]),
        (["--push", "me/labels", "--format", "lm-eval"], ["cannot be pushed"]),
        (["--push", "me/labels", "--format", "dpo"], ["does not compare two texts"]),
    ],
)
def test_bad_arguments_are_one_line_and_push_nothing(run, hub, capsys, arguments, words):
    before = sorted(run.folder.iterdir())
    assert icm_fast_command(["export", str(run.folder), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert hub.created == []
    assert sorted(read_run(run.folder).folder.iterdir()) == before


SECRETS = {
    "api_key": "abc",
    "file": "/home/me/private/rows.jsonl",
    "inner": {"url": "https://me:pass@host/data", "hub_token": "xyz"},
    "header": "Bearer hf_abcdefghijkl",
    "rules": "none",
}


def test_options_on_the_card_hold_no_paths_and_no_secrets(run, tmp_path):
    path = run.folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"options": SECRETS}))
    write_hub_folder(run, tmp_path / "hub")
    _, configuration = without_configuration((tmp_path / "hub" / "README.md").read_text())
    assert configuration["options"] == {
        "api_key": "(removed)",
        "file": "rows.jsonl",
        "inner": {"url": "https://(removed)@host/data", "hub_token": "(removed)"},
        "header": "Bearer (removed)",
        "rules": "none",
    }


def test_text_of_the_data_cannot_leave_the_block_of_the_configuration(run, tmp_path):
    path = run.folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"options": {"x": "a\n```\n# owned\u202e"}}))
    write_hub_folder(run, tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "````yaml\n" in card
    assert "\u202e" not in card


@pytest.mark.parametrize(
    ("model", "words"),
    [("gemma3-270m", "ai.google.dev/gemma/terms"), ("smollm2", "Apache"), ("other/model", None)],
)
def test_terms_of_known_models_are_on_the_card(run, tmp_path, model, words):
    card = dataset_card(
        replace(run, model=model, source=None), file="f", format="csv", n_rows=1, note=""
    )
    assert ("## Terms" in card) == (words is not None)
    assert words is None or words in card


def test_an_address_with_a_key_is_not_in_the_error(run, hub, capsys):
    hub.error = OSError("no route to https://me:pass@hub/x?api_key=abc&n=1 with hf_abcdefghijkl")
    assert icm_fast_command(["export", str(run.folder), "--push", "me/labels"]) == 2
    said = capsys.readouterr().err
    assert "https://(removed)@hub/x?api_key=(removed)&n=1 with (removed)" in said
