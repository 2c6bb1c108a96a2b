"""Jupyter notebooks to text: cells and what they printed, without pictures.

Knows the format's versions 3 to 5. Must not know files or encodings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from nexusquant.documents.formats.html_page import html_text
from nexusquant.errors import DocumentError

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")
# version 3 called them by other names
_OLD_KINDS = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "latex": "text/latex",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "json": "application/json",
    "javascript": "application/javascript",
}
_TEXT_KINDS = ("text/plain", "text/markdown", "text/latex")


def notebook_text(source: str, name: str) -> str:
    """Write the cells of a notebook one after the other.

    Args:
        source: The file, decoded.
        name: For messages.

    Raises:
        DocumentError: It is no notebook, or a damaged one.
    """
    try:
        notebook = json.loads(source)
    except RecursionError as error:
        raise DocumentError(f"{name} is nested too deeply for a notebook.") from error
    except ValueError as error:
        raise DocumentError(
            f"{name} is a damaged notebook: it ends too early or is no JSON. Check that it was "
            "copied or downloaded completely."
        ) from error
    cells = list(_cells(notebook))
    if not cells:
        raise DocumentError(f"{name} holds no notebook cells, so there is nothing to read in it.")
    return "\n\n".join(text for text in map(_cell_text, cells) if text.strip()) + "\n"


def _cells(notebook: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(notebook, dict):
        return
    sheets = [notebook, *_dicts(notebook.get("worksheets"))]
    for sheet in sheets:
        yield from _dicts(sheet.get("cells"))


def _cell_text(cell: dict[str, Any]) -> str:
    kind = cell.get("cell_type")
    source = _joined(cell.get("source", cell.get("input"))).rstrip()
    if kind == "heading":
        level = cell.get("level")
        return "#" * (level if isinstance(level, int) and 0 < level < 7 else 1) + " " + source
    if kind != "code":
        return source
    parts = [f"{_label('In', cell)}\n{source}"] if source else []
    outputs = [text for text in map(_output_text, _dicts(cell.get("outputs"))) if text.strip()]
    if outputs:
        parts.append(f"{_label('Out', cell)}\n" + "\n".join(outputs))
    return "\n\n".join(parts)


def _label(word: str, cell: dict[str, Any]) -> str:
    number = cell.get("execution_count", cell.get("prompt_number"))
    return f"{word} [{number if isinstance(number, int) else ' '}]:"


def _output_text(output: dict[str, Any]) -> str:
    kind = output.get("output_type")
    if kind == "stream":
        text = _joined(output.get("text"))
    elif kind in ("error", "pyerr"):
        text = "\n".join(_strings(output.get("traceback")))
        text = text or f"{_joined(output.get('ename'))}: {_joined(output.get('evalue'))}"
    else:
        text = _shown(_data(output))
    return _ESCAPES.sub("", text).rstrip()


def _data(output: dict[str, Any]) -> dict[str, Any]:
    data = output.get("data")
    if isinstance(data, dict):
        return data
    return {kind: output[old] for old, kind in _OLD_KINDS.items() if old in output}


def _shown(data: dict[str, Any]) -> str:
    for kind in _TEXT_KINDS:
        if text := _joined(data.get(kind)):
            return text
    if page := _joined(data.get("text/html")):
        return "".join(html_text([page]))
    kinds = [kind for kind in data if isinstance(kind, str) and len(kind) < 100]
    return f"[{kinds[0]} left out]" if kinds else ""


def _joined(value: Any) -> str:
    """Put together a text, which the format may write as a list of lines."""
    return value if isinstance(value, str) else "".join(_strings(value))


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
