"""Logging in: who may, how often one may try, and that nobody can lock others out."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from caller import Caller
from served import PASSWORDS, serve_fake

from ui.server import login
from ui.server.login import MAX_FAILURES, Accounts, Logins, LoginThrottle
from ui.server.login_page import login_page

GOOD = PASSWORDS["ada"]
HTML = {"accept": "text/html"}


@pytest.fixture
def fresh(tmp_path, quick_throttle):
    """A server on which nobody has tried anything yet."""
    with serve_fake(tmp_path, passwords=PASSWORDS) as site, Caller(site.url) as caller:
        yield caller


def throttle_and_waits() -> tuple[LoginThrottle, list[float]]:
    waited: list[float] = []

    async def note(delay_s: float) -> None:
        waited.append(delay_s)

    return LoginThrottle(note), waited


def take(throttle: LoginThrottle, address: str = "10.0.0.1", name: str = "ada") -> bool:
    return asyncio.run(throttle.take_turn(address, name))


def test_with_a_login_nothing_works_without_it(fresh):
    assert fresh.http.get("config").status_code == 401
    assert fresh.upload(b"a").status_code == 401
    assert fresh.log_in("ada", GOOD).status_code == 200
    assert fresh.http.get("config").status_code == 200


def test_of_many_passwords_sent_at_once_ten_are_tried(fresh):
    def attempt(number: int) -> int:
        with Caller(str(fresh.http.base_url)) as caller:
            return caller.log_in("ada", f"wrong {number}").status_code

    with ThreadPoolExecutor(60) as pool:
        codes = list(pool.map(attempt, range(120)))
    assert codes.count(401) == MAX_FAILURES
    assert codes.count(429) == 120 - MAX_FAILURES
    # for this address the right one comes too late as well
    assert fresh.log_in("ada", GOOD).status_code == 429


def test_one_name_that_gets_in_does_not_open_the_door_for_guesses_at_another(fresh):
    tried = 0
    for number in range(40):
        tried += fresh.log_in("ada", f"wrong {number}").status_code == 401
        fresh.log_in("bob", PASSWORDS["bob"])
    assert tried <= MAX_FAILURES


def test_names_are_counted_too_whatever_address_a_guess_comes_from():
    throttle, _ = throttle_and_waits()
    allowed = [take(throttle, f"10.0.0.{n}") for n in range(30)]
    assert allowed.count(True) == MAX_FAILURES
    assert take(throttle, "10.0.0.99", "bob")


def test_nobody_is_locked_out_of_an_address_that_they_logged_in_from():
    throttle, _ = throttle_and_waits()
    assert take(throttle, "10.0.0.1")
    throttle.forgive("10.0.0.1", "ada")
    for number in range(30):
        take(throttle, f"10.0.1.{number}")
    assert take(throttle, "10.0.0.1")
    assert not take(throttle, "10.0.2.1")


def test_wrong_passwords_take_longer_each_time():
    throttle, waited = throttle_and_waits()
    for _ in range(6):
        take(throttle)
    assert waited == [0.5, 1.0, 2.0, 4.0, 4.0]


def test_a_lock_ends(monkeypatch):
    throttle, _ = throttle_and_waits()
    for _ in range(MAX_FAILURES):
        take(throttle)
    assert not take(throttle)
    monkeypatch.setattr(login, "LOCK_S", -1.0)
    assert take(throttle)


def test_what_is_remembered_has_an_end_and_does_not_forgive_everybody(monkeypatch):
    monkeypatch.setattr(login, "MAX_REMEMBERED", 50)
    throttle, _ = throttle_and_waits()
    for number in range(200):
        take(throttle, f"10.0.{number}.1", f"name {number}")
    assert len(throttle._records) <= 50


def test_few_passwords_are_hashed_at_a_time(monkeypatch):
    running, most = 0, 0
    real = login._hash

    def counted(password: str, salt: bytes):
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return real(password, salt)
        finally:
            running -= 1

    accounts = Accounts({"ada": GOOD})
    monkeypatch.setattr(login, "_hash", counted)

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(accounts.may_enter("ada", f"wrong {n}") for n in range(12)))

    assert not any(asyncio.run(all_at_once()))
    assert 0 < most <= login.HASHES_AT_ONCE


def test_only_the_right_name_with_the_right_password_enters():
    accounts = Accounts({"ada": GOOD})
    tries = [("ada", GOOD), ("ada", "wrong"), ("bob", GOOD), ("bob", ""), ("", ""),
             ("ada", GOOD * 1000), ("ada", "\ud83d")]  # fmt: skip
    entered = [asyncio.run(accounts.may_enter(*one)) for one in tries]
    assert entered == [True, False, False, False, False, False, False]


def test_passwords_are_not_kept_in_plain():
    assert GOOD.encode() not in repr(vars(Accounts({"ada": GOOD}))).encode()


def test_a_wrong_password_keeps_the_name_and_says_so_each_time(fresh):
    for _ in range(2):
        answer = fresh.log_in('ada"><b>', "wrong", headers=HTML)
        assert answer.status_code == 401
        assert 'value="ada&quot;&gt;&lt;b&gt;"' in answer.text
        assert "do not belong together" in answer.text
        assert "<b>" not in answer.text


@pytest.mark.parametrize("data", [{}, {"username": "ada"}, {"password": "x"}, {"username": ""}])
def test_a_form_with_a_field_missing_is_a_wrong_password(data, fresh):
    answer = fresh.http.post("login", data=data, headers=HTML)
    assert answer.status_code == 401
    assert "do not belong together" in answer.text


def test_a_form_of_another_kind_is_no_error_of_ours(fresh):
    for content in (b"", b"\xff\xfe", b"{}", b"username=%ff&password=%00"):
        assert fresh.http.post("login", content=content).status_code == 401
    assert fresh.http.post("login", content=bytes(100_000)).status_code == 413


def test_the_first_page_of_a_stranger_is_the_login_and_leads_to_the_chat_asked_for(fresh):
    first = fresh.http.get("/?chat=abc_DEF-1", headers=HTML)
    assert first.status_code == 401
    assert 'name="chat" value="abc_DEF-1"' in first.text
    fields = {"username": "ada", "password": GOOD, "chat": "abc_DEF-1"}
    entered = fresh.http.post("login", data=fields, headers=HTML)
    assert entered.status_code == 303
    assert entered.headers["location"] == "/?chat=abc_DEF-1"
    elsewhere = fresh.http.post("login", data=fields | {"chat": "//evil.example"}, headers=HTML)
    assert elsewhere.headers["location"] == "/"


def test_the_cookie_is_hidden_from_scripts_and_other_sites(fresh):
    cookie = fresh.log_in("ada", GOOD).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert re.search(r"nexusquant-\d+=[\w-]{40,}", cookie)


def test_a_login_is_known_by_its_token_alone_and_ends(monkeypatch):
    logins = Logins()
    token = logins.begin("ada")
    assert logins.user_of(token) == "ada"
    assert [logins.user_of(wrong) for wrong in (None, "", token[:-1], token + "x")] == [None] * 4
    logins.end(token)
    assert logins.user_of(token) is None
    monkeypatch.setattr(login, "LOGIN_LASTS_S", -1.0)
    assert logins.user_of(logins.begin("ada")) is None


def test_many_logins_of_one_name_end_that_names_oldest_only():
    logins = Logins()
    ada = logins.begin("ada")
    bobs = [logins.begin("bob") for _ in range(100)]
    assert logins.user_of(ada) == "ada"
    assert sum(logins.user_of(token) == "bob" for token in bobs) == login.MAX_LOGINS_PER_USER


def test_the_login_page_needs_no_script_and_no_other_file():
    page = login_page(name="ada", message="no", chat="x")
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
