"""The server around the page: ports, names, and what is said at the start."""

from __future__ import annotations

import socket

import pytest
from served import PASSWORDS

from ui.options import Options
from ui.server import server
from ui.server.server import announcement, lan_addresses, listen, served_names

GOOD = PASSWORDS["ada"]


def test_a_taken_port_gives_way_to_the_next_free_one():
    with listen("127.0.0.1", 18_760) as first:
        taken = first.getsockname()[1]
        with listen("127.0.0.1", taken) as second:
            assert taken < second.getsockname()[1] < taken + 100


def test_no_free_port_is_an_error_with_advice(monkeypatch):
    monkeypatch.setattr(server, "PORTS_TO_TRY", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["192.0.2.7", "no.such.host.invalid"])
def test_an_address_of_another_computer_is_an_error_with_advice(host):
    with pytest.raises(OSError, match="--host"):
        listen(host, 18_770)


def options(tmp_path, **changes) -> Options:
    values = {
        "model": None, "preset": "safe", "device": "auto", "dtype": "auto", "host": "127.0.0.1",
        "port": 7860, "passwords": {}, "data_dir": tmp_path, "open_browser": False,
        "offload": False, "cuda_graph": True, "gpu_share": None,
    }  # fmt: skip
    return Options(**values | changes)


def test_another_port_than_asked_for_is_said(tmp_path):
    assert "Port 7860 is in use; taking 7861" in announcement(options(tmp_path), 7861)
    told = announcement(options(tmp_path), 7860)
    assert told == "Nexusquant: http://127.0.0.1:7860/\n"


def test_a_shared_page_says_where_it_is_and_that_nothing_is_encrypted(tmp_path):
    told = announcement(options(tmp_path, host="0.0.0.0", passwords={"ada": GOOD}), 7860)
    for address in lan_addresses():
        assert f"http://{address}:7860/" in told
    assert "not encrypted" in told
    assert GOOD not in told


@pytest.mark.parametrize(
    ("host", "address"), [("::1", "http://[::1]:7860/"), ("127.0.0.1", "http://127.0.0.1:7860/")]
)
def test_the_address_that_is_said_can_be_opened(host, address, tmp_path):
    assert address in announcement(options(tmp_path, host=host), 7860)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_local_page_answers_to_local_names_only(host):
    assert set(served_names(host)) == {"127.0.0.1", "localhost"}


def test_a_shared_page_answers_to_its_addresses_and_names():
    names = served_names("0.0.0.0")
    assert socket.gethostname().lower() in names
    assert set(lan_addresses()) <= set(names)
    assert "*" not in names
    assert set(lan_addresses()) <= set(served_names("::"))
