"""What one user could do to the server itself, and so to everybody else."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from caller import API, Caller
from served import PASSWORDS, serve_fake

from ui.server import gate
from ui.server.bodies import MAX_ITEMS, RefusedError, checked_event
from ui.server.login import LoginThrottle
from ui.server.page_events import MAX_SESSIONS_PER_USER, SessionOwners


def no_upload(_value: object) -> str:
    raise AssertionError


@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,", b'{"a":0},'])
def test_millions_of_parts_are_refused_before_they_are_parsed(part, monkeypatch):
    body = b'{"session_hash":"a","fn_index":0,"data":[' + part * (12_000_000 // len(part)) + b"0]}"
    monkeypatch.setattr(json, "loads", no_upload)
    with pytest.raises(RefusedError, match="too many parts"):
        checked_event(body, no_upload)


def test_a_long_text_full_of_commas_and_brackets_is_not_many_parts():
    text = '[{"a": 1}], "quoted\\\\" and \\" escaped", ' * 20_000
    assert text.count(",") > MAX_ITEMS // 4
    body = json.dumps({"session_hash": "a", "fn_index": 0, "data": [text * 3]})
    assert checked_event(body.encode(), no_upload)["data"] == [text * 3]


def test_a_session_that_is_one_too_many_is_its_owners_oldest():
    owners = SessionOwners()
    assert owners.claim("hers", "ada")
    dropped = []
    for number in range(2 * MAX_SESSIONS_PER_USER):
        dropped += owners.drop_surplus("bob")
        assert owners.claim(f"his {number}", "bob")
    assert dropped[0] == "his 0"
    assert len(dropped) >= MAX_SESSIONS_PER_USER - 1
    assert not owners.claim("hers", "bob")


def test_many_sessions_of_one_user_leave_anothers_page_its_messages(tmp_path):
    with (
        serve_fake(tmp_path, passwords=PASSWORDS) as site,
        Caller(site.url, "bob", PASSWORDS["bob"]) as bob,
        Caller(site.url, "ada", PASSWORDS["ada"]) as ada,
    ):
        ada.open()
        body = bob.body("choose", ["x"])
        for number in range(MAX_SESSIONS_PER_USER + 60):
            bob.join(body | {"session_hash": f"s{number}"})
        assert ada.run("send", ["hello", None])[-1]["success"]


def test_bodies_that_do_not_come_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "MAX_REQUESTS_PER_USER", 8)

    def slow():
        yield b"{"
        time.sleep(4)
        yield b"}"

    with serve_fake(tmp_path, passwords=PASSWORDS) as site:
        with Caller(site.url, "bob", PASSWORDS["bob"]) as bob:
            cookies = bob.http.cookies

        def post(_: int) -> int:
            with Caller(site.url) as caller:
                caller.http.cookies = cookies
                return caller.http.post(f"{API}/queue/join", content=slow()).status_code

        with ThreadPoolExecutor(30) as pool:
            codes = list(pool.map(post, range(30)))
    assert set(codes) == {400, 429}
    assert codes.count(429) >= 10


def test_a_name_of_a_book_is_no_name_and_is_not_remembered(call, monkeypatch):
    def no_turn(*_):
        raise AssertionError

    monkeypatch.setattr(LoginThrottle, "take_turn", no_turn)
    assert call(None).log_in("n" * 50_000, "x").status_code == 401
