"""A Hugging Face hub on this computer: listings, files from any byte on, gates, broken lines."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from nexusquant.engine import downloads

REVISION = "1234567890abcdef1234567890abcdef12345678"


class FakeHub:
    """Serves one model.

    Args:
        name: Its id.
        files: Contents by name; names that end with ".safetensors" count as large files.

    Attributes:
        address: Where it answers.
        requests: Path and first byte of every file that was asked for.
        token: Needed for files, if not None: the model is gated.
        breaks_after: Bytes after which the connection breaks, once for each item.
        ignores_ranges: Whether it sends files from the first byte on in any case.
        lies: Names of files whose contents are not those of the listing.
        waits: While it is set, the second half of a file is held back.
    """

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        self.name, self.files = name, dict(files)
        self.revision = REVISION
        self.requests: list[tuple[str, int]] = []
        self.token: str | None = None
        self.breaks_after: list[int] = []
        self.ignores_ranges = False
        self.lies: set[str] = set()
        self.waits = False
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self})
        )
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def listing(self) -> dict[str, object]:
        return {
            "id": self.name,
            "modelId": self.name,
            "sha": self.revision,
            "siblings": [_sibling(name, content) for name, content in self.files.items()],
        }


@contextmanager
def serve_as_the_hub(hub: FakeHub, patch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Have the hub's client ask `hub`, and not wait between two tries."""
    files = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "ENDPOINT", hub.address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(downloads, "_RETRY_S", 0.0)
    yield hub
    hub.close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.headers.get("Authorization") == "Bearer hf_unknown":
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return
        if path.startswith(f"/api/models/{self.hub.name}"):
            self._send(200, json.dumps(self.hub.listing()).encode())
        elif path.startswith(f"/{self.hub.name}/resolve/{self.hub.revision}/"):
            self._send_file(path.rpartition("/")[2])
        else:
            self._refuse(401, "RepoNotFound")

    def _send_file(self, name: str) -> None:
        wanted = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
        first = int(wanted.removesuffix("-"))
        self.hub.requests.append((name, first))
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(403, "GatedRepo")
            return
        content = self.hub.files[name]
        content = content[::-1] if name in self.hub.lies else content
        if first and not self.hub.ignores_ranges:
            self._send(206, content[first:])
        else:
            self._send(200, content)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        is_file = "/resolve/" in self.path
        if is_file and self.hub.breaks_after and len(content) > self.hub.breaks_after[0]:
            self.wfile.write(content[: self.hub.breaks_after.pop(0)])
            self.wfile.flush()
            self.connection.close()
        else:
            half = len(content) // 2
            self.wfile.write(content[:half])
            while is_file and self.hub.waits:
                time.sleep(0.01)
            self.wfile.write(content[half:])

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def _sibling(name: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    found: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 1}
    return found
