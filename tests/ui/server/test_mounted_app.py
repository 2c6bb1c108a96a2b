"""What an attacker with a login, or without one, gets from the app as it is served."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import safehttpx
from caller import API, Caller, shown
from served import PASSWORDS, serve_fake
from test_following import wait_for

from ui.server.gate import MAX_EVENTS_PER_USER
from ui.sessions import MAX_WORKSPACES_PER_USER

SECRET = "canary: only the owner may read this"


def file_data(path: str, **more) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}} | more


class Outside:
    """A server on this computer that counts as a public one; it notes what is asked of it."""

    def __init__(self) -> None:
        hits = self.hits = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hits.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def outside(monkeypatch) -> Iterator[Outside]:
    # Gradio refuses private addresses; this one stands for all others
    monkeypatch.setattr(safehttpx, "is_public_ip", lambda *_: True)
    outside = Outside()
    yield outside
    outside.server.shutdown()


@pytest.mark.parametrize("place", ["file", "device", "folder", "link"])
def test_no_path_from_a_request_is_opened(place, call, tmp_path):
    secret = tmp_path / "canary.txt"
    secret.write_text(SECRET)
    (tmp_path / "link.txt").symlink_to(secret)
    path = {
        "file": secret,
        "device": "/dev/zero",
        "folder": tmp_path,
        "link": tmp_path / "link.txt",
    }
    bob = call("bob").open()
    for value in (file_data(str(path[place])), str(path[place]), [file_data(str(path[place]))]):
        told = bob.run("open_file", [value, None]) + bob.run("show_page_1", [1, None])
        assert SECRET not in shown(told)
        assert "tokens" not in shown(told[:3]) or "not uploaded here" in shown(told)
    assert bob.run("send", ["hello", None])[-1]["success"]


def test_a_path_is_refused_before_any_handler_is_called(call, tmp_path):
    bob = call("bob").open()
    answer = bob.join(bob.body("open_file", [file_data("/etc/passwd"), None]))
    assert answer.status_code == 403
    assert "was not uploaded here" in answer.text


def test_the_library_itself_is_told_to_hold_paths_to_its_folder(site):
    from ui.layout import build_ui
    from ui.server.server import build_app

    page = build_ui(site.services)
    build_app(page, site.services.uploads, ["127.0.0.1"], {}, 7860)
    assert page.has_launched is True


@pytest.mark.parametrize(
    "address",
    ["{0}/x", "HTTP{1}/x", "{2}/x", "{3}/x", "//{4}/x", "http:%2f%2f{4}/x"],
)
def test_no_address_is_fetched_for_a_page(address, call, outside):
    place = outside.address.removeprefix("http://")
    rest = outside.address.removeprefix("http")
    once = outside.address.replace(":", "%3A").replace("/", "%2F")
    filled = address.format(outside.address, rest, once, once.replace("%", "%25"), place)
    bob = call("bob").open()
    request = bob.http.build_request("GET", "/")
    for prefix in ("file=", "proxy=", "file/"):
        request.url = request.url.copy_with(raw_path=f"/{API}/{prefix}{filled}".encode())
        assert bob.http.send(request).status_code in (403, 404)
    for value in (file_data(filled), file_data("x", url=filled), {"url": filled, "path": filled}):
        bob.run("open_file", [value, None])
        bob.run("send", [value, None])
    assert outside.hits == []


def test_seventy_pages_of_one_person_leave_anothers_chat_alone(call, site):
    ada = call("ada").open()
    ada.run("send", ["The heron nests here.", None])
    assert "The heron nests here." in drawn(ada.run("follow_1", [None]))
    for _ in range(70):
        call("bob").open()
    assert "The heron nests here." in drawn(ada.run("follow_1", [None]))
    owners = [workspace.owner for workspace in site.services.sessions.all()]
    assert owners.count("bob") == MAX_WORKSPACES_PER_USER


def test_nobody_hears_the_events_of_anothers_session(call):
    ada, bob = call("ada").open(), call("bob").open()
    reply = ada.join(ada.body("send", ["The otter is silent.", None]))
    bob.session = ada.session
    assert bob.listen(reply.json()["event_id"]) == [{"status": 403}]
    assert bob.join(bob.body("stop", [None])).status_code == 403
    cancel = {"session_hash": ada.session, "fn_index": 1, "event_id": reply.json()["event_id"]}
    assert bob.http.post(f"{API}/cancel", json=cancel).status_code == 403
    assert "otter" in drawn(ada.listen(reply.json()["event_id"]))


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (5, 10**9, "most"),
        (5, 1e300, "most"),
        (0, 1e9, "most"),
        (2, 10**12, "most"),
        (4, 10**9, "most"),
        (5, -(10**9), "small"),
        (6, "9" * 5000, "seed"),
        (6, "9" * 30, "at most"),
        (7, "x\n" * 500, "at most"),
        (7, "x" * 5000, "at most"),
        (5, None, "write a number"),
        (5, "many", "write a number"),
    ],
)
def test_numbers_beyond_reason_are_refused_with_a_reason(place, value, word, call):
    bob = call("bob").open()
    fields = [0, 1, 0, 0, 1, 4, "1", "", None]
    fields[place] = value
    told = shown(bob.run("set_sampling", fields))
    assert word in told or "Error" in told
    assert "next answer" not in told


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "1" * 5000])
def test_numbers_that_are_none_do_not_get_in(number, call):
    bob = call("bob").open()
    body = json.dumps(bob.body("set_sampling", [0, 1, 0, 0, 1, 4, "1", "", None]))
    answer = bob.join(body.replace("[0, 1, 0, 0, 1, 4,", f"[0, 1, 0, 0, 1, {number},"))
    assert answer.status_code == 400
    assert bob.run("send", ["hello", None])[-1]["success"]


def test_half_a_character_is_replaced_and_the_question_answered(call):
    bob = call("bob").open()
    body = json.dumps(bob.body("send", ["@ hello", None])).replace("@", "\\ud83d")
    told = bob.listen(bob.join(body).json()["event_id"])
    assert told[-1]["success"]
    assert "&#00" not in told[-1]
    assert "\ufffd hello" in drawn(told)


@pytest.mark.parametrize("path", ["cancel", "reset", "queue/join", "run/predict"])
def test_nothing_is_done_for_a_stranger(path, call):
    body = {"session_hash": "x", "fn_index": 1, "event_id": "y", "data": []}
    assert call(None).http.post(f"{API}/{path}", json=body).status_code == 401
    assert call(None).http.get(f"{API}/heartbeat/x").status_code == 401


def test_one_person_cannot_fill_the_queue_of_events(tmp_path):
    with (
        serve_fake(tmp_path, passwords=PASSWORDS) as site,
        Caller(site.url, "bob", PASSWORDS["bob"]) as bob,
        Caller(site.url, "ada", PASSWORDS["ada"]) as ada,
    ):
        # lasts for a minute
        body = bob.open().body("pulse", [])
        with ThreadPoolExecutor(20) as pool:
            codes = list(pool.map(lambda _: bob.join(body).status_code, range(200)))
        assert set(codes) == {200, 429}
        # those that are looked at in the same moment may all get in
        assert MAX_EVENTS_PER_USER // 2 <= codes.count(200) <= MAX_EVENTS_PER_USER + 20
        assert "too many pages" in bob.join(body).text
        assert "one two three" in shown(ada.open().run("send", ["hello", None]))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        "{",
        '{"data": [], "fn_index": "send", "session_hash": "a"}',
        '{"data": {}, "fn_index": 1, "session_hash": "a"}',
        '{"data": [], "fn_index": true, "session_hash": "a"}',
        '{"data": [], "fn_index": 1, "session_hash": "../a"}',
        '{"data": [], "fn_index": 1}',
        '{"data": [' + "[" * 500 + "]" * 500 + '], "fn_index": 1, "session_hash": "a"}',
        '{"data": ' + "[" * 100_000,
        '{"data": [' + "0," * 200_000 + '0], "fn_index": 1, "session_hash": "a"}',
    ],
    ids=range(12),
)
def test_a_body_that_no_page_sends_is_refused(body, call):
    answer = call("bob").join(body)
    assert answer.status_code == 400
    assert answer.json()["detail"].endswith(".")


def test_a_body_that_is_too_long_is_refused_without_reading_it_all(call):
    bob = call("bob")
    answer = bob.http.post(f"{API}/queue/join", content=bytes(17_000_000))
    assert answer.status_code == 413
    assert "16,000 kB at most" in answer.text


def test_an_event_that_the_page_does_not_have_is_not_there(call):
    bob = call("bob").open()
    for number in (-1, 10**6, 10**30):
        assert bob.join(bob.body("send", ["x", None]) | {"fn_index": number}).status_code == 404
    direct = bob.body("send", ["x", None])
    assert bob.http.post(f"{API}/run/predict", json=direct).status_code == 404


def test_arguments_of_other_kinds_end_in_a_sentence(call):
    bob = call("bob").open()
    for value in (None, 7, [], {}, {"a": 1}, [[]], True):
        told = bob.run("send", [value, None])[-1]
        assert told["success"] or told["output"]["error"]
    assert bob.run("send", ["hello", None])[-1]["success"]


def test_a_page_that_acts_before_it_has_opened_is_told_to_wait(call, site):
    bob = call("bob")
    told = bob.run("send", ["hello", None])[-1]
    assert not told["success"]
    assert "still opening" in told["output"]["error"]
    assert "" not in {workspace.id for workspace in site.services.sessions.all()}


def test_what_was_uploaded_is_its_owners_alone(call):
    ada, bob = call("ada").open(), call("bob").open()
    upload_id = ada.upload(b"The heron nests here. " * 20, "heron.txt").json()[0]
    assert "/" not in upload_id
    assert "heron.txt" in shown(ada.run("open_file", [file_data(upload_id), None]))
    assert bob.run("open_file", [file_data(upload_id), None])[0]["status"] == 403
    assert bob.http.get(f"{API}/file={upload_id}").status_code == 404
    assert ada.http.get(f"{API}/file={upload_id}").content.startswith(b"The heron")


def test_an_upload_that_became_a_link_is_not_opened(call, site, tmp_path):
    ada = call("ada").open()
    upload_id = ada.upload(b"a line").json()[0]
    path = site.services.uploads.find(upload_id, "ada").path
    path.unlink()
    (tmp_path / "canary.txt").write_text(SECRET)
    path.symlink_to(tmp_path / "canary.txt")
    assert ada.http.get(f"{API}/file={upload_id}").status_code == 404
    assert ada.run("open_file", [file_data(upload_id), None])[0]["status"] == 403


@pytest.mark.parametrize(
    "name",
    ["../../x.txt", "..\\..\\x.txt", "/etc/x.txt", "C:\\x.txt", "a\x00b.txt", "n" * 3000, ""],
)
def test_an_upload_stays_in_its_folder_whatever_it_is_called(name, call, site):
    ada = call("ada")
    answer = ada.upload(b"a line", name or "x")
    if answer.status_code == 200:
        path = site.services.uploads.find(answer.json()[0], "ada").path
        uploads = site.services.initial.data_dir / "uploads"
        assert uploads in path.resolve().parents
    else:
        assert answer.status_code == 413
        assert answer.text.endswith(".")


def test_a_full_disk_is_said_and_leaves_nothing(call, site, monkeypatch):
    folder = site.services.initial.data_dir / "uploads"
    ada = call("ada")
    before = sum(1 for _ in folder.rglob("*"))
    monkeypatch.setattr(site.services.uploads, "_free_bytes", lambda _: 1000)
    answer = ada.upload(b"a line" * 1000)
    assert answer.status_code == 413
    assert "disk of this computer is full" in answer.text
    assert sum(1 for _ in folder.rglob("*")) == before


def test_a_disk_that_fills_up_meanwhile_is_said_and_leaves_nothing(call, site, monkeypatch):
    folder = site.services.initial.data_dir / "uploads"
    ada = call("ada")
    before = sum(1 for _ in folder.rglob("*"))

    class Full:
        def write(self, data):
            raise OSError(28, os.strerror(28))

        def close(self):
            pass

    monkeypatch.setattr("ui.state.uploads.ArrivingUpload._open_file", lambda self: Full())
    answer = ada.upload(b"a line" * 1000)
    assert answer.status_code == 413
    assert os.strerror(28) in answer.text
    assert sum(1 for _ in folder.rglob("*")) == before


def test_logging_out_is_a_post_and_ends_the_login(call):
    ada = call("ada", anew=True)
    assert ada.http.get("logout").status_code == 404
    assert ada.http.get("config").status_code == 200
    cookies = dict(ada.http.cookies)
    assert ada.http.post("logout").status_code == 303
    # also for who kept the cookie
    ada.http.cookies.update(cookies)
    assert ada.http.get("config").status_code == 401


def test_a_refused_upload_does_not_use_up_a_place(call):
    ada = call("ada")
    for _ in range(6):
        assert ada.http.post(f"{API}/upload", content=b"nothing").status_code == 413
    assert ada.upload(b"a line").status_code == 200


def test_work_goes_on_after_everything_above(call, site):
    ada = call("ada").open()
    wait_for(lambda: site.engine.submit(lambda: iter(())).wait(5))
    assert ada.run("send", ["hello", None])[-1]["success"]


def drawn(messages: list[dict]) -> str:
    """What an event showed, with the references for signs read back."""
    import html

    return html.unescape(shown(messages))
