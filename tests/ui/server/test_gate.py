"""Where a request says it comes from, what it is called, and what a proxy says of it."""

from __future__ import annotations

import pytest
from caller import API, Caller
from served import PASSWORDS, serve_fake

from ui.server.bodies import RefusedError, checked_event, plain_text


@pytest.fixture(scope="module")
def page(open_site):
    with Caller(open_site.url) as caller:
        yield caller


def port_of(caller: Caller) -> int:
    return caller.http.base_url.port


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("127.0.0.1", 200),
        ("evil.example:{port}", 400),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("127.0.0.1@evil.example", 400),
        ("", 400),
        ("[::1]:{port}", 400),
        ("[", 400),
    ],
)
def test_only_its_own_names_are_answered(host, status, page):
    headers = {"host": host.format(port=port_of(page))}
    assert page.http.get("config", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("http://evil.example", 403),
        ("http://localhost:3000", 403),
        ("http://127.0.0.1:1", 403),
        ("http://127.0.0.1", 403),
        ("https://127.0.0.1:{port}", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_an_origin_is_compared_with_its_scheme_and_port(origin, status, page):
    headers = {"origin": origin.format(port=port_of(page))}
    answer = page.http.get("config", headers=headers)
    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
        ("cross-site", "navigate", 200),
        ("cross-site", "cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "", 403),
    ],
)
def test_other_sites_may_link_here_and_nothing_else(site, mode, status, page):
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
    assert page.http.get("/", headers=headers).status_code == status


def test_a_form_of_another_site_does_nothing(page):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert page.http.post("login", data={}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "header", ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "x-real-ip"]
)
def test_what_a_proxy_would_say_is_not_believed(header, page):
    plain = page.http.get("config").json()
    told = page.http.get("config", headers={header: "evil.example"})
    assert told.status_code == 200
    assert "evil.example" not in told.text
    assert told.json()["root"] == plain["root"]


def test_every_answer_carries_the_headers_that_keep_it_to_itself(page):
    for path in ("/", "config", "nowhere", f"{API}/file=http://x", "theme.css"):
        headers = page.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "img-src data: blob:;" in policy
        assert "connect-src 'self'" in policy
        assert "form-action 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_an_address_of_the_new_kind_works(tmp_path):
    with (
        serve_fake(tmp_path, host="::1", names=["::1"]) as site,
        Caller(site.url) as caller,
    ):
        assert site.url.startswith("http://[::1]:")
        assert caller.http.get("config").status_code == 200
        other = f"[0:0:0:0:0:0:0:1]:{port_of(caller)}"
        assert caller.http.get("config", headers={"host": other}).status_code == 200


def test_a_named_proxy_is_believed(tmp_path):
    with (
        serve_fake(
            tmp_path, passwords=PASSWORDS, names=["chat.example"], trusts_proxy=True
        ) as site,
        Caller(site.url) as caller,
    ):
        headers = {"host": "chat.example", "x-forwarded-host": "chat.example"}
        assert caller.http.get("/", headers=headers).status_code == 401


def refuse(_value: object) -> str:
    raise RefusedError(403, "No such upload.")


@pytest.mark.parametrize(
    "value",
    [
        '{"path": "/etc/passwd"}',
        '{"path": null, "url": "http://x"}',
        '{"meta": {"_type": "gradio.FileData"}, "path": "a"}',
        '{"meta": {"_type": "gradio.FileData"}, "url": "http://x"}',
        '{"meta": {"_type": "anything"}}',
        '[[{"a": {"b": [{"path": "x"}]}}]]',
        '{"video": {"path": "x"}, "subtitles": null}',
        '{"p\\u0061th": "x"}',
        '{"path": "a", "path": "b"}',
    ],
)
def test_wherever_a_body_names_a_file_it_must_be_an_upload(value):
    body = f'{{"data": [{value}], "fn_index": 1, "session_hash": "a"}}'
    with pytest.raises(RefusedError, match="No such upload"):
        checked_event(body.encode(), refuse)


def test_what_is_kept_of_a_body_is_what_a_page_sends():
    body = b'{"data": ["a"], "fn_index": 1, "session_hash": "a", "simple_format": true, "x": 1}'
    assert checked_event(body, refuse) == {"data": ["a"], "fn_index": 1, "session_hash": "a"}


def test_halves_of_characters_are_replaced_and_whole_ones_kept():
    assert plain_text("a\ud83db") == "a\ufffdb"
    assert plain_text("\U0001f642 \ufffd") == "\U0001f642 \ufffd"
