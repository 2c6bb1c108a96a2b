"""Mails (.eml, .mht) to text: the lines of the head, then what was written.

Knows MIME. Must not know files.
"""

from __future__ import annotations

import email
import email.header
import email.policy
from collections.abc import Iterator
from email.message import Message

from nexusquant.documents.formats.decoding import NotTextError, decode
from nexusquant.documents.formats.html_page import html_text
from nexusquant.documents.formats.legacy import known_codec

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_MARKS = (*_HEADERS, "Received", "MIME-Version", "Message-ID", "Return-Path")
# mails in mails, and parts in parts
_MAX_DEPTH = 20
# what the library raises at headers that no program would write
_HEADER_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
)


def mail_text(data: bytes) -> tuple[str, tuple[str, ...]] | None:
    """Read a mail.

    Args:
        data: The file.

    Returns:
        The text and notes on how it was read; None if the file is no mail.
    """
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
    except _HEADER_ERRORS:
        return None
    names = {name.lower() for name, _ in message.raw_items()}
    if not any(mark.lower() in names for mark in _MARKS):
        return None
    mail = _Mail()
    text = "\n".join(mail.parts(message, 0))
    return text.strip("\n") + "\n", tuple(dict.fromkeys(mail.notes))


class _Mail:
    """Collects the text of a mail, and notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def parts(self, message: Message, depth: int) -> Iterator[str]:
        """Yield a mail: its head, then its body."""
        lines = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
        yield "\n".join(lines) + "\n"
        yield from self._part(message, depth)

    def _part(self, part: Message, depth: int) -> Iterator[str]:
        kind = part.get_content_type()
        if depth > _MAX_DEPTH:
            self.notes.append("Parts of the mail that lie too deep in others were left out.")
        elif kind == "multipart/alternative":
            yield from self._alternative(part, depth)
        elif part.is_multipart():
            children = _children(part)
            for child in children:
                if kind == "message/rfc822":
                    yield "\n--- Attached mail ---"
                    yield from self.parts(child, depth + 1)
                else:
                    yield from self._part(child, depth + 1)
        elif kind in ("text/plain", "text/html") and not _is_attachment(part):
            yield self._body(part)
        elif _is_attachment(part) or not _is_shown_inside(part):
            yield self._attachment(part, kind)

    def _alternative(self, part: Message, depth: int) -> Iterator[str]:
        """Take the plain form of a text, unless only another one says something."""
        children = _children(part)
        is_plain = [child.get_content_type() == "text/plain" for child in children]
        plain = [child for child, is_it in zip(children, is_plain, strict=True) if is_it]
        others = [child for child, is_it in zip(children, is_plain, strict=True) if not is_it]
        for child in [*plain, *reversed(others)]:
            text = "\n".join(self._part(child, depth + 1))
            if text.strip():
                yield text
                return

    def _body(self, part: Message) -> str:
        data = _payload(part)
        try:
            text, notes = decode(data, declared=_declared(part)) if data else ("", ())
        except NotTextError:
            self.notes.append("A part of the mail that is called a text is none; it was left out.")
            return ""
        self.notes.extend(notes)
        if part.get_content_type() == "text/html":
            return "".join(html_text([text]))
        return text

    def _attachment(self, part: Message, kind: str) -> str:
        name = _file_name(part) or "without a name"
        self.notes.append("Files attached to the mail were not read; open them by themselves.")
        return f"[Attachment: {name} ({kind}, {len(_payload(part)):,} bytes)]"


def _children(part: Message) -> list[Message]:
    payload = part.get_payload()
    if not isinstance(payload, list):
        return []
    return [child for child in payload if isinstance(child, Message)]


def _header(message: Message, name: str) -> str:
    raw = next(
        (str(value) for key, value in message.raw_items() if key.lower() == name.lower()), ""
    )
    try:
        value = str(message.get(name, ""))
    except _HEADER_ERRORS:
        value = ""
    if not value.strip() or "\ufffd" in value or "=?" in value:
        value = _decoded_words(raw) or value
    return " ".join(value.split())


def _decoded_words(raw: str) -> str:
    """Decode a head line that the library cannot: unknown encodings, bytes as they are."""
    try:
        words = email.header.decode_header(raw.replace("\r", "").replace("\n", ""))
    except (*_HEADER_ERRORS, email.errors.HeaderParseError):
        words = [(raw, None)]
    return "".join(_decoded_word(word, charset) for word, charset in words)


def _decoded_word(word: bytes | str, charset: str | None) -> str:
    data = (
        word.encode("ascii", "surrogateescape") if isinstance(word, str) and _is_raw(word) else word
    )
    if isinstance(data, str):
        return data
    try:
        return decode(data, declared=known_codec(charset or ""))[0]
    except NotTextError:
        return data.decode("ascii", "replace")


def _is_raw(word: str) -> bool:
    return all(ord(character) < 128 or "\udc80" <= character <= "\udcff" for character in word)


def _payload(part: Message) -> bytes:
    try:
        payload = part.get_payload(decode=True)
    except _HEADER_ERRORS:
        return b""
    return payload if isinstance(payload, bytes) else b""


def _declared(part: Message) -> str | None:
    try:
        return known_codec(part.get_content_charset() or "")
    except _HEADER_ERRORS:
        return None


def _is_attachment(part: Message) -> bool:
    try:
        return part.get_content_disposition() == "attachment"
    except _HEADER_ERRORS:
        return False


def _is_shown_inside(part: Message) -> bool:
    """Tell whether another part shows this one, as a page shows its pictures."""
    names = {name.lower() for name, _ in part.raw_items()}
    return bool(names & {"content-id", "content-location"})


def _file_name(part: Message) -> str:
    try:
        return " ".join((part.get_filename() or "").split())
    except _HEADER_ERRORS:
        return ""
