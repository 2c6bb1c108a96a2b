"""Hostile requests: paths, addresses, shapes of files, bodies, headers, uploads.

Each is sent to the app as it is served, by somebody with a login. It must end in a status that
refuses it, or in what an honest request would get; no file but an upload is opened, nobody else is
called, and now and then the next question must be answered.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from attempt import Attempt
from caller import API, Caller
from served import PASSWORDS, Site, serve_fake
from watching import Watch

ASK_EVERY = 25
CANARY = "canary: only the owner may read this"
REFUSED = (400, 401, 403, 404, 405, 411, 413, 414, 415, 422, 429)
EVENTS = (
    "open_file",
    "open_file_1",
    "open_with_password",
    "send",
    "set_sampling",
    "ask",
    "run",
    "choose_pages",
    "choose_preset",
    "set_compression",
    "show_page",
    "show_cell",
    "choose",
    "load_model",
    "read",
    "stop",
    "clear",
    "take_offer",
    "start_test",
    "pulse",
)
SCHEMES = ("http", "https", "ftp", "file", "data", "gopher", "HTTP", "hTTps", "ws", "javascript")


@functools.cache
def _watch() -> Watch:
    return Watch()


def attempts(rng: random.Random, count: int, folder: Path) -> Iterator[Attempt]:
    """So many hostile requests.

    Args:
        rng: The one source of chance.
        count: How many.
        folder: Where the server's data and a secret file go.
    """
    secret = folder / "secret"
    secret.mkdir()
    (secret / "canary.txt").write_text(CANARY)
    with (
        serve_fake(folder / "data", passwords=PASSWORDS) as site,
        Caller(site.url, "bob", PASSWORDS["bob"]) as bob,
        Caller(site.url, "ada", PASSWORDS["ada"]) as ada,
    ):
        scene = _Scene(site, bob.open(), ada.open(), secret)
        kinds = (
            _path,
            _address,
            _file_data,
            _body,
            _event,
            _headers,
            _upload,
            _multipart,
            _session,
        )
        for number in range(count):
            kind = rng.choice(kinds)
            name, send = kind(rng, scene)
            ask = number % ASK_EVERY == ASK_EVERY - 1
            yield Attempt(
                f"{kind.__name__[1:]} {name[:300]}", functools.partial(scene.run, send, ask)
            )


class _Scene:
    """The server, who attacks it, whom they would like to read, and what must stay closed."""

    def __init__(self, site: Site, bob: Caller, ada: Caller, secret: Path) -> None:
        self.site, self.bob, self.ada, self.secret = site, bob, ada, secret
        self.theirs = ada.upload(CANARY.encode()).json()[0]

    def run(self, send: Callable[[], httpx.Response | list], ask: bool) -> str:
        with _watch().on() as watch:
            answer = send()
        text = json.dumps(answer) if isinstance(answer, list) else answer.text
        assert CANARY not in text, "a file was shown"
        outside = watch.opened_below(
            self.secret,
            Path("/etc/passwd"),
            Path("/etc/shadow"),
            Path("/dev/zero"),
            Path("/proc/self/environ"),
        )
        assert not outside, f"opened {outside}"
        port = str(httpx.URL(self.site.url).port)
        called = [who for who in watch.called if port not in who]
        assert not called, f"called {called}"
        if ask:
            told = self.ada.run("send", ["hello", None])
            assert told[-1]["success"], "the next question was not answered"
        return self._verdict(answer)

    def _verdict(self, answer: httpx.Response | list) -> str:
        if isinstance(answer, list):
            last = answer[-1]
            if "status" in last:
                assert last["status"] in REFUSED, last
                return "refused"
            assert last.get("success") or last["output"].get("error"), last
            return "right" if last["success"] else "refused"
        if answer.status_code in REFUSED:
            return "refused"
        assert answer.status_code in (200, 303, 304), answer.status_code
        return "right"


def _target(rng: random.Random, scene: _Scene) -> str:
    """A place that nobody may reach through the page."""
    place = rng.choice(
        [
            str(scene.secret / "canary.txt"),
            "/etc/passwd",
            "/dev/zero",
            "/proc/self/environ",
            "C:\\Windows\\win.ini",
            "\\\\server\\share\\x",
            "~/.ssh/id_rsa",
            "app.py",
            scene.theirs,
            "../" * rng.randrange(1, 9) + "etc/passwd",
            str(scene.secret),
            ".",
            "",
            "/",
            f"{rng.choice(SCHEMES)}://{rng.choice(['127.0.0.1:9', '[::1]:9', 'e.invalid'])}/x",
        ]
    )
    return _mangled(rng, place)


def _mangled(rng: random.Random, text: str) -> str:
    for _ in range(rng.randrange(3)):
        text = rng.choice(
            [
                lambda t: quote(t, safe=""),
                lambda t: quote(t),
                lambda t: t.replace("/", "\\"),
                lambda t: t.replace("..", "%2e%2e"),
                lambda t: t.upper(),
                lambda t: t + "\x00.txt",
                lambda t: t + "?" + "a=b",
                lambda t: t + "#x",
                lambda t: "/./" + t,
                lambda t: "/" + t,
                lambda t: t + "/",
                lambda t: t.replace("e", "\u0435"),
                lambda t: "\u202e" + t,
                lambda t: t * 50,
            ]
        )(text)
    return text


def _get(scene: _Scene, raw: str, method: str = "GET") -> httpx.Response:
    request = scene.bob.http.build_request(method, "/")
    safe = quote(raw, safe="/%=:?&#@!$'()*+,;~[]-._\\")
    request.url = request.url.copy_with(raw_path=safe.replace("#", "%23").encode())
    with_stream = scene.bob.http.send(request, stream=True)
    try:
        # streams of a page end when it does
        if "event-stream" not in with_stream.headers.get("content-type", ""):
            with_stream.read()
        else:
            with_stream._content = b""
    finally:
        with_stream.close()
    return with_stream


def _path(rng: random.Random, scene: _Scene):
    prefix = rng.choice(
        [
            "/gradio_api/file=",
            "/gradio_api/file/",
            "/file=",
            "/static/",
            "/assets/",
            "/gradio_api/proxy=",
            "/svelte/",
            "/",
            "/gradio_api/stream/",
            "/theme.css/",
            "/gradio_api/custom_component/",
            "/gradio_api/deep_link?x=",
            "/monitoring/",
            "/gradio_api/heartbeat/",
            "/gradio_api/run/",
            "/gradio_api/call/",
        ]
    )
    raw = prefix + _target(rng, scene)
    method = rng.choice(["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
    return f"{method} {raw}", lambda: _get(scene, raw, method)


def _address(rng: random.Random, scene: _Scene):
    host = rng.choice(
        [
            "127.0.0.1:9",
            "localhost:9",
            "[::1]:9",
            "0x7f.1:9",
            "2130706433:9",
            "e.invalid",
            "evil.example@127.0.0.1:9",
            "169.254.169.254",
        ]
    )
    address = _mangled(rng, f"{rng.choice(SCHEMES)}:{rng.choice(['//', '/', '', '////'])}{host}/x")
    prefix = rng.choice(
        [
            "/gradio_api/file=",
            "/gradio_api/proxy=",
            "/gradio_api/file/",
            "/?url=",
            "/gradio_api/upload_progress?upload_id=",
            "/gradio_api/info?url=",
        ]
    )
    return prefix + address, lambda: _get(scene, prefix + address)


def _file_data(rng: random.Random, scene: _Scene):
    value: Any = {"path": _target(rng, scene)}
    for key, odd in (
        ("url", _target(rng, scene)),
        ("meta", rng.choice([{"_type": "gradio.FileData"}, {"_type": None}, "x", None, []])),
        ("orig_name", _mangled(rng, "x.txt")),
        ("size", rng.choice([-1, 10**30, None, "x"])),
        ("mime_type", _mangled(rng, "text/plain")),
        ("is_stream", True),
        ("path", rng.choice([None, [], 7, {}, _target(rng, scene)])),
    ):
        if rng.random() < 0.4:
            value[key] = odd
    for _ in range(rng.randrange(3)):
        value = rng.choice(
            [[value], {"file": value}, {"path": value}, [value, value], {"x": [value]}]
        )
    event = rng.choice(EVENTS[:6])
    data = [value, *([None] * (len(scene.bob.event(event)["inputs"]) - 1))]
    return f"{event} {json.dumps(value)}", lambda: _run(scene, event, data)


def _run(scene: _Scene, event: str, data: list, **changes: Any) -> httpx.Response | list:
    body = scene.bob.body(event, data, **changes)
    queued = scene.bob.event(event).get("queue", True)
    if not queued:
        return scene.bob.http.post(f"{API}/run/predict", json=body)
    if event == "pulse":
        return scene.bob.join(body)
    return scene.bob.run(event, data)


def _value(rng: random.Random, depth: int = 0) -> Any:
    plain = [
        None,
        True,
        0,
        -1,
        7,
        10**9,
        10**30,
        0.5,
        1e300,
        "",
        "x",
        "9" * 500,
        "\ud83d",
        "\x00",
        "<img src=x>",
        "../x",
        "on",
        "balanced",
        "auto",
        "u_x",
        "1-3",
        "\u202e",
        "x" * 5000,
    ]
    if depth > 2 or rng.random() < 0.7:
        return rng.choice(plain)
    inner = [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return inner if rng.random() < 0.5 else {str(_value(rng, 3)): one for one in inner}


def _event(rng: random.Random, scene: _Scene):
    event = rng.choice(EVENTS)
    num_inputs = len(scene.bob.event(event)["inputs"])
    data = [_value(rng) for _ in range(max(0, num_inputs + rng.choice([-1, 0, 0, 0, 0, 1])))]
    return f"{event} {json.dumps(data)}", lambda: _run(scene, event, data)


def _body(rng: random.Random, scene: _Scene):
    body = scene.bob.body("stop", [None]) | {"event_id": "x", "event_data": None, "trigger_id": 1}
    for key in rng.sample(sorted(body), rng.randrange(1, 4)):
        body[key] = _value(rng)
    text = json.dumps(body)
    if rng.random() < 0.3:
        cut = rng.randrange(len(text))
        text = (
            text[:cut]
            + rng.choice(["", "[" * 5000, "NaN", "1e999", '"', "\\ud83d", "}"])
            + text[cut:]
        )
    path = rng.choice(["queue/join", "run/predict", "cancel", "reset", "queue/data", "upload"])
    kind = rng.choice(["application/json", "text/plain", "multipart/form-data", ""])
    headers = {"content-type": kind}
    content = text.encode("utf-8", "surrogatepass")
    return f"{path} {text}", lambda: scene.bob.http.post(
        f"{API}/{path}", content=content, headers=headers
    )


def _headers(rng: random.Random, scene: _Scene):
    odd = [
        "evil.example",
        "http://evil.example",
        "null",
        "",
        "127.0.0.1:1",
        "a" * 5000,
        "*",
        "[",
        "%00",
        "http://localhost:3000",
        "https://127.0.0.1",
        "../x",
        "for=evil;host=evil",
        "-1",
        "x\ty",
    ]
    names = [
        "host",
        "origin",
        "referer",
        "x-forwarded-host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "forwarded",
        "x-gradio-user",
        "x-gradio-target",
        "cookie",
        "authorization",
        "range",
        "sec-fetch-site",
        "sec-fetch-mode",
        "accept",
        "content-type",
        "x-original-url",
        "if-range",
        "accept-encoding",
        "upgrade",
        "access-control-request-method",
    ]
    chosen = {name: rng.choice(odd) for name in rng.sample(names, rng.randrange(1, 5))}
    path = rng.choice(["/", "/config", "/theme.css", "/gradio_api/info", "/login", "/health"])
    return f"{path} {chosen}", lambda: scene.bob.http.get(path, headers=chosen)


def _upload(rng: random.Random, scene: _Scene):
    name = _target(rng, scene).replace("\x00", "") or "x"
    content = rng.randbytes(rng.randrange(2000))
    return repr(name), lambda: scene.bob.upload(content, name)


def _multipart(rng: random.Random, scene: _Scene):
    bound = rng.choice(["b", "b" * 90, "b" * 200, '"', "", "--", "b\r\n"])
    name = _target(rng, scene)
    parts = [
        f'--{bound}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\nx\r\n'
    ]
    parts = parts * rng.choice([1, 1, 3, 30]) + [f"--{bound}--\r\n"]
    body = bytearray("".join(parts).encode("utf-8", "replace"))
    for _ in range(rng.randrange(4)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.3 else body
    headers = {"content-type": f"multipart/form-data; boundary={bound}".replace("\r\n", "")}
    return repr(bytes(body[:200])), lambda: scene.bob.http.post(
        f"{API}/upload", content=bytes(body), headers=headers
    )


def _session(rng: random.Random, scene: _Scene):
    """Somebody else's session and events, or none at all."""
    session = rng.choice(
        [scene.ada.session, scene.ada.session.upper(), "x" * 65, "", "../x", "%00"]
    )
    path = rng.choice(
        [f"/gradio_api/queue/data?session_hash={session}", f"/gradio_api/heartbeat/{session}"]
    )
    if rng.random() < 0.5:
        return path, lambda: _get(scene, path)
    body = scene.bob.body("stop", [None]) | {"session_hash": session, "event_id": "x"}
    where = rng.choice(["queue/join", "run/predict", "cancel"])
    return f"{where} as {session}", lambda: scene.bob.http.post(f"{API}/{where}", json=body)
