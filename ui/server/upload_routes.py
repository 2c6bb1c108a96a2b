"""Where files come in: streamed to the disk as they arrive, each for its sender alone.

Knows multipart bodies and HTTP. Must not know what is in a file. These routes stand in front of
Gradio's own of the same names, and answer as its script in the page expects.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack

import fastapi
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)

from ui.server.routes import API
from ui.state.uploads import ArrivingUpload, Upload, UploadError, Uploads

MAX_HEADER_BYTES = 4096
MAX_PARTS = 8
MAX_TRACKED = 200


class Progress:
    """How far uploads are, for those who ask while they run."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[str, str], int] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._over: set[tuple[str, str]] = set()

    def note(self, user: str, upload_id: str, name: str, num_bytes: int) -> None:
        """So many bytes more have come."""
        key = user, upload_id
        if len(self._sizes) < MAX_TRACKED or key in self._sizes:
            self._sizes[key] = self._sizes.get(key, 0) + num_bytes
            self._names[key] = name

    def end(self, user: str, upload_id: str) -> None:
        """Nothing more will come."""
        if (user, upload_id) in self._sizes:
            self._over.add((user, upload_id))

    async def events(self, user: str, upload_id: str) -> AsyncIterator[str]:
        """What has come since the last word, until all has; gives up if nothing ever comes."""
        key, waited_s = (user, upload_id), 0.0
        try:
            while key not in self._over and waited_s < 30.0:
                waited_s = 0.0 if self._sizes.get(key) else waited_s + 0.1
                if self._sizes.get(key):
                    size, self._sizes[key] = self._sizes[key], 0
                    name = self._names[key]
                    yield _event({"msg": "update", "orig_name": name, "chunk_size": size})
                await asyncio.sleep(0.1)
            yield _event({"msg": "done"})
        finally:
            self._over.discard(key)
            self._sizes.pop(key, None)
            self._names.pop(key, None)


def add_upload_routes(app: fastapi.FastAPI, uploads: Uploads) -> None:
    """Serve uploads from `app`, whose gate has put the user into each request's state."""
    progress = Progress()

    async def upload(request: fastapi.Request) -> Response:
        upload_id = request.query_params.get("upload_id", "")[:64]
        user = request.state.user
        try:
            arrived = await _receive(request, uploads, user, upload_id, progress)
        except UploadError as error:
            return PlainTextResponse(str(error), status_code=413)
        except ClientDisconnect:
            return PlainTextResponse("The upload was broken off.", status_code=400)
        finally:
            progress.end(user, upload_id)
        return JSONResponse([one.id for one in arrived])

    async def upload_progress(request: fastapi.Request) -> Response:
        upload_id = request.query_params.get("upload_id", "")[:64]
        events = progress.events(request.state.user, upload_id)
        return StreamingResponse(events, media_type="text/event-stream")

    async def own_file(request: fastapi.Request) -> Response:
        try:
            found = uploads.find(request.path_params["upload_id"], request.state.user)
        except UploadError as error:
            return PlainTextResponse(str(error), status_code=404)
        return FileResponse(
            found.path,
            filename=found.name,
            media_type="application/octet-stream",
            content_disposition_type="attachment",
        )

    app.add_route(f"{API}/upload", upload, methods=["POST"])
    app.add_route(f"{API}/upload_progress", upload_progress, methods=["GET"])
    app.add_route(f"{API}/file={{upload_id}}", own_file, methods=["GET", "HEAD"])


async def _receive(
    request: fastapi.Request, uploads: Uploads, user: str, upload_id: str, progress: Progress
) -> list[Upload]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 100:
        raise UploadError("This is no upload of this page.")
    with ExitStack() as open_files:
        parts = _Parts(uploads, user, open_files)
        parser = MultipartParser(boundary, parts.callbacks())
        async for block in request.stream():
            # the disk may be slow, and others wait for this loop
            await asyncio.to_thread(parts.feed, parser, block)
            progress.note(user, upload_id, parts.name, len(block))
        return parts.finish()


class _Parts:
    """What the parser calls while a body comes in."""

    def __init__(self, uploads: Uploads, user: str, open_files: ExitStack) -> None:
        self._uploads, self._user, self._open_files = uploads, user, open_files
        self._field, self._value = b"", b""
        self._disposition = b""
        self._file: ArrivingUpload | None = None
        self._arrived: list[ArrivingUpload] = []
        self._num_parts = 0
        self.name = "file"

    def callbacks(self) -> dict[str, object]:
        """By the names that the parser has for them."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_data,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
        }

    def feed(self, parser: MultipartParser, block: bytes) -> None:
        """Parse the next bytes.

        Raises:
            UploadError: They are no multipart body, or a file is not taken.
        """
        try:
            parser.write(block)
        except ValueError as error:
            raise UploadError("The upload is damaged. Try again.") from error

    def finish(self) -> list[Upload]:
        """All files, once the body has ended.

        Raises:
            UploadError: There is none, or the last one is not whole.
        """
        if self._file is not None or not self._arrived:
            raise UploadError("The upload is not complete. Try again.")
        return [file.finish() for file in self._arrived]

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise UploadError("Too many files at once.")
        self._disposition = b""

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field = _joined(self._field, data[start:end])

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value = _joined(self._value, data[start:end])

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            return
        self.name = options[b"filename"].decode("utf-8", "replace")
        file = self._uploads.begin(self._user, self.name)
        self._file = self._open_files.enter_context(file)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        # fields that are no files are not asked for
        if self._file is not None:
            self._file.write(data[start:end])

    def _end_part(self) -> None:
        if self._file is not None:
            self._arrived.append(self._file)
        self._file = None


def _joined(before: bytes, more: bytes) -> bytes:
    if len(before) + len(more) > MAX_HEADER_BYTES:
        raise UploadError("The upload is damaged. Try again.")
    return before + more


def _event(message: dict[str, object]) -> str:
    return f"data: {json.dumps(message)}\n\n"
