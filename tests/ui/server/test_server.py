"""The server around the page: ports, host names, headers, logins."""

from __future__ import annotations

import asyncio
import socket

import pytest
from fake_engine import FakeEngine
from starlette.testclient import TestClient
from ui.login import Accounts
from visitors import make_services

from ui import login
from ui.layout import build_ui
from ui.options import Options
from ui.server import announcement, build_app, lan_addresses, listen, served_names

GOOD = "correct horse battery"
HERE = "http://127.0.0.1:7860"


def client_of(engine, data_dir, passwords):
    page = build_ui(make_services(engine, data_dir))
    app = build_app(page, served_names("127.0.0.1"), passwords, 7860)
    return TestClient(app, base_url=HERE)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    engine = FakeEngine()
    with client_of(engine, tmp_path_factory.mktemp("data"), {}) as client:
        yield client
    engine.close()


@pytest.fixture
def guarded(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(login, "FIRST_DELAY_S", 0.0)
    with client_of(engine, tmp_path, {"ada": GOOD}) as client:
        yield client


def try_login(client, name: str, password: str) -> int:
    return client.post("/login", data={"username": name, "password": password}).status_code


def test_a_taken_port_gives_way_to_the_next_free_one():
    with listen("127.0.0.1", 18_760) as first:
        taken = first.getsockname()[1]
        with listen("127.0.0.1", taken) as second:
            assert taken < second.getsockname()[1] < taken + 100


def test_no_free_port_is_an_error_with_advice(monkeypatch):
    monkeypatch.setattr("ui.server.PORTS_TO_TRY", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])


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


def test_the_page_is_served_with_headers_that_keep_it_to_itself(client):
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "img-src 'self' data: blob:" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_foreign_host_name_is_refused(client):
    assert client.get("/", headers={"host": "evil.example:7860"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:7860"}).status_code == 200


def test_another_sites_page_is_refused_and_gets_no_permission(client):
    foreign = client.get("/config", headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403
    own = client.get("/config", headers={"origin": HERE})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/monitoring", "/gradio_api/mcp/", "/docs", "/openapi.json"])
def test_what_nobody_needs_is_not_served(client, path):
    answer = client.get(path)
    # Gradio answers unknown pages with its own shell; none of these may hold data
    assert answer.status_code in (403, 404) or "gradio-app" in answer.text


def test_files_of_this_computer_are_not_served(client, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (secret, "app.py", "/etc/passwd"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_with_a_login_nothing_works_without_it(guarded):
    assert guarded.get("/config").status_code == 401
    upload = guarded.post("/gradio_api/upload", files={"files": ("a.txt", b"a")})
    assert upload.status_code == 401
    assert try_login(guarded, "ada", GOOD) == 200
    assert guarded.get("/config").status_code == 200


def test_ten_wrong_passwords_lock_an_address_even_for_the_right_one(guarded):
    assert [try_login(guarded, "ada", f"wrong {n}") for n in range(10)] == [400] * 10
    assert try_login(guarded, "ada", GOOD) == 429


def test_wrong_passwords_take_longer_each_time_until_a_right_one():
    waited, status = [], 400

    async def note(delay_s: float) -> None:
        waited.append(delay_s)

    async def answer(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": status})

    async def ignore(message) -> None:
        pass

    async def attempt(address: str) -> None:
        scope = {"type": "http", "path": "/login", "method": "POST", "client": (address, 1)}
        await throttle(scope, None, ignore)

    throttle = login.LoginThrottle(answer, note)
    for _ in range(6):
        asyncio.run(attempt("10.0.0.1"))
    assert waited == [0.5, 1.0, 2.0, 4.0, 4.0]
    # another address does not pay for it
    asyncio.run(attempt("10.0.0.2"))
    assert len(waited) == 5
    status = 200
    asyncio.run(attempt("10.0.0.1"))
    asyncio.run(attempt("10.0.0.1"))
    assert len(waited) == 6


def test_only_the_right_name_with_the_right_password_enters():
    accounts = Accounts({"ada": GOOD})
    tries = [("ada", GOOD), ("ada", "wrong"), ("bob", GOOD), ("bob", ""), ("", "")]
    entered = [asyncio.run(accounts.may_enter(*one)) for one in tries]
    assert entered == [True, False, False, False, False]


def test_passwords_are_not_kept_in_plain():
    assert GOOD.encode() not in repr(vars(Accounts({"ada": GOOD}))).encode()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_local_page_answers_to_local_names_only(host):
    assert set(served_names(host)) == {"127.0.0.1", "localhost"}


def test_a_shared_page_answers_to_its_addresses_and_names():
    names = served_names("0.0.0.0")
    assert socket.gethostname().lower() in names
    assert set(lan_addresses()) <= set(names)
    assert "*" not in names
