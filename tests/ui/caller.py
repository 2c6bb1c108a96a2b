"""A page as far as its requests go: what the script in a browser sends, without a browser."""

from __future__ import annotations

import json
import secrets
import time
from types import TracebackType
from typing import Any

import httpx

API = "gradio_api"


class Caller:
    """Somebody's page, or somebody who only pretends to have one.

    Args:
        url: Where the app is served.
        name: Who logs in; None: nobody.
        password: Theirs.
    """

    def __init__(self, url: str, name: str | None = None, password: str = "") -> None:
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=30)
        self.session = secrets.token_hex(6)
        self._events: dict[str, dict[str, Any]] = {}
        if name is not None:
            assert self.log_in(name, password).status_code == 200

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.http.close()

    def log_in(self, name: str, password: str, **more: Any) -> httpx.Response:
        return self.http.post("login", data={"username": name, "password": password}, **more)

    def event(self, name: str) -> dict[str, Any]:
        """What the page's list of events says of one."""
        if not self._events:
            config = self.http.get("config").json()
            self._events = {one["api_name"]: one for one in config["dependencies"]}
        return self._events[name]

    def body(self, name: str, data: list[Any], **changes: Any) -> dict[str, Any]:
        number = self.event(name)["id"]
        return {"data": data, "fn_index": number, "session_hash": self.session} | changes

    def join(self, body: dict[str, Any] | str) -> httpx.Response:
        content = body if isinstance(body, str) else json.dumps(body)
        headers = {"content-type": "application/json"}
        return self.http.post(f"{API}/queue/join", content=content, headers=headers)

    def open(self) -> Caller:
        """What a page does first: it gets its chat."""
        inputs = self.event("open_page")["inputs"]
        assert self.run("open_page", [None] * len(inputs))[-1]["success"]
        return self

    def run(self, name: str, data: list[Any], timeout_s: float = 20) -> list[dict[str, Any]]:
        """Send an event and hear its messages to the end.

        Args:
            name: The handler's.
            data: Values of its inputs; a state's is left to the server.
            timeout_s: Give up then.
        """
        answer = self.join(self.body(name, data))
        if answer.status_code != 200:
            return [{"status": answer.status_code, "detail": answer.text}]
        return self.listen(answer.json()["event_id"], timeout_s)

    def listen(self, event_id: str, timeout_s: float = 20) -> list[dict[str, Any]]:
        heard, end = [], time.monotonic() + timeout_s
        query = {"session_hash": self.session}
        with self.http.stream("GET", f"{API}/queue/data", params=query) as stream:
            if stream.status_code != 200:
                return [{"status": stream.status_code}]
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    heard.append(json.loads(line[5:]))
                    if heard[-1]["msg"] == "close_stream" or (
                        heard[-1]["msg"] == "process_completed"
                        and heard[-1].get("event_id") == event_id
                    ):
                        break
                assert time.monotonic() < end, f"still running: {heard[-1:]}"
        return heard

    def upload(self, content: bytes, name: str = "notes.txt", **more: Any) -> httpx.Response:
        return self.http.post(f"{API}/upload", files={"files": (name, content)}, **more)


def shown(messages: list[dict[str, Any]]) -> str:
    """Everything that an event told the page, as text to look into."""
    return json.dumps(messages, ensure_ascii=False)
