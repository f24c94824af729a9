"""Locks, rights and caches on file systems and in homes that refuse."""

import errno
import fcntl
import os
import stat

import pytest

from icm_fast.assets import cache
from icm_fast.errors import InputError
from icm_fast.files import lock_folder, refuse_links, share_by_umask, write_atomically


def failing(number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_is_held_is_an_error(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(InputError, match="is being written by another process"):
        lock_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_survived_and_told(tmp_path, monkeypatch, capsys, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    os.close(lock_folder(tmp_path))
    assert f"the file system of {tmp_path} has no locks" in capsys.readouterr().err


def test_another_error_of_a_lock_names_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(InputError, match=r"cannot lock .*Input/output error"):
        lock_folder(tmp_path)


def test_a_lock_is_never_made_through_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match=r"\.lock is a symbolic link"):
        lock_folder(tmp_path / "run")
    assert not (tmp_path / "victim").exists()


def test_sockets_and_devices_are_refused(tmp_path):
    import socket

    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        with pytest.raises(InputError, match="s is not a regular file"):
            refuse_links(tmp_path)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def rights(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.usefixtures("umask")
def test_files_get_the_rights_of_the_umask(tmp_path):
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "inner" / "weights").write_bytes(b"")
    os.chmod(made / "inner" / "weights", 0o600)
    os.chmod(made / "inner", 0o700)
    share_by_umask(made)
    assert (rights(made / "inner"), rights(made / "inner" / "weights")) == (0o750, 0o640)
    write_atomically(tmp_path / "file", b"")
    assert rights(tmp_path / "file") == 0o640


# --- the cache ----------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("ICM_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    cache._warn_once.cache_clear()
    return tmp_path / "home"


def test_the_order_of_caches(home, tmp_path, monkeypatch):
    assert cache.cache_dir() == home / ".cache" / "icm_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.cache_dir() == home / ".cache" / "icm_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "icm_fast"
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "own"))
    assert cache.cache_dir() == tmp_path / "own"
    monkeypatch.setenv("ICM_FAST_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(InputError, match="home in ~nobody-of-this-name/x is unknown"):
        cache.cache_dir()


def test_without_a_home_the_temporary_folder_serves(home, tmp_path, monkeypatch, capsys):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", no_home)
    wanted = tmp_path / "tmp" / f"icm_fast-{os.getuid()}"
    assert cache.cache_dir() == cache.cache_dir() == wanted
    assert rights(wanted) == 0o700
    assert capsys.readouterr().err.count("warning: no home to cache files in") == 1


def test_a_home_that_cannot_be_written_falls_back(home, tmp_path):
    (home / ".cache").write_text("a file where the folder would be")
    assert cache.cache_dir() == tmp_path / "tmp" / f"icm_fast-{os.getuid()}"


def test_a_waiting_link_below_the_temporary_folder_is_refused(home, tmp_path):
    (home / ".cache").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tmp" / f"icm_fast-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="others may write"):
        cache.cache_dir()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o757])
def test_a_cache_that_others_may_write_is_refused(home, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "own"))
    folder = cache.cache_folder("models")
    for path in (folder, folder.parent):
        os.chmod(path, mode)
        with pytest.raises(InputError, match=r"others may write to the cache folder .*chmod go-w"):
            cache.cache_folder("models")
        os.chmod(path, 0o755)
    assert cache.cache_folder("models") == folder


def test_new_caches_are_never_writable_for_others(home):
    before = os.umask(0)
    try:
        folder = cache.cache_folder("models")
    finally:
        os.umask(before)
    assert (rights(folder), rights(folder.parent)) == (0o755, 0o755)
