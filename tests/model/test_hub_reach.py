"""A misspelt model name is told at once, with and without a network."""

import socket
import threading
import time

import pytest
from huggingface_hub import constants

from icm_fast.errors import InputError
from icm_fast.model import hub_reach, load_model
from icm_fast.model.hub_reach import offline_where_unreachable
from tiny_models import byte_tokenizer, one_thread, tiny_model  # noqa: F401


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in (*hub_reach._PROXIES, *map(str.lower, hub_reach._PROXIES)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed(monkeypatch):
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield address


@pytest.mark.parametrize("name", ["smolm2", "owner/no-such-model"])
def test_a_misspelt_name_asks_nobody_again(closed, monkeypatch, name):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("asked again"))
    began = time.monotonic()
    with pytest.raises(InputError, match=f"cannot load model '{name}'.*smollm2") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_asked(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with offline_where_unreachable():
            assert constants.HF_HUB_OFFLINE is False


def test_a_name_that_takes_for_ever_to_look_up_is_given_up(monkeypatch):
    waiting = threading.Event()

    def slow(*_, **__):
        waiting.wait(20)
        raise OSError

    monkeypatch.setattr(hub_reach, "_SECONDS", 0.05)
    monkeypatch.setattr(socket, "create_connection", slow)
    with offline_where_unreachable():
        assert constants.HF_HUB_OFFLINE is True
    waiting.set()
    assert constants.HF_HUB_OFFLINE is False


def test_a_proxy_is_left_to_the_client(closed, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    with offline_where_unreachable():
        assert constants.HF_HUB_OFFLINE is False


def test_what_is_set_stays(closed, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with offline_where_unreachable():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is True
