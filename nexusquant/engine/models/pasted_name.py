"""A model's name as people paste it: quotes, blanks, addresses and files for folders.

Knows paths and addresses of the Hugging Face hub. Must not know what is in a folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from nexusquant.errors import UnsupportedModelError

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "‘": "’", "«": "»", "<": ">"}
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co")
_NOT_MODELS = ("datasets", "spaces", "collections", "papers", "docs", "blog", "settings")
_COMMAND = re.compile(
    r"(?:git (?:lfs )?clone|hf download|huggingface-cli download|ollama run|--model)\s+", re.I
)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.I)
_MOST_CHARACTERS = 4096


def understood(pasted: str) -> str:
    """Turn what was pasted into a folder or a Hugging Face id.

    Args:
        pasted: A folder, one of a model's files, a hub id or the address of a model's page; with
            quotes and blanks around it, or with the command that fetches it in front.

    Returns:
        A folder's path, or what may be an id.

    Raises:
        UnsupportedModelError: It means something else, which is named.
    """
    name = _bare(pasted)
    if not name:
        raise UnsupportedModelError("No model was named. Give a folder or a Hugging Face id.")
    if not name.isprintable() or len(name) > _MOST_CHARACTERS:
        raise UnsupportedModelError(
            "This is no name of a model: it holds line ends or other characters that no name has, "
            "or is too long. Give a folder or a Hugging Face id."
        )
    if name.lower().startswith("file:"):
        name = _path_of(name)
    elif _SCHEME.match(name) or name.lower().startswith(tuple(f"{h}/" for h in _HUB_HOSTS)):
        return _hub_id(name)
    return _folder(name)


def _bare(pasted: str) -> str:
    """Without blanks, quotes and marks that nobody sees around it."""
    name, before = pasted, None
    while name != before:
        before = name
        name = name.strip().strip("\ufeff\u200b\u200e\u200f\u202a\u202c\x00")
        name = _COMMAND.sub("", name, count=1) if _COMMAND.match(name) else name
        if len(name) > 1 and _QUOTES.get(name[0]) == name[-1]:
            name = name[1:-1]
        elif name.startswith("& ") and name[2:3] in ('"', "'"):
            name = name[2:]
    return name


def _path_of(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UnsupportedModelError(f"{address} is no address. Give a folder's path.") from error
    if parts.netloc not in ("", "localhost"):
        raise UnsupportedModelError(f"{address} lies on another computer. Copy the folder here.")
    return url2pathname(parts.path)


def _hub_id(address: str) -> str:
    try:
        parts = urlsplit(address if "://" in address else f"https://{address}")
        host = parts.hostname or ""
    except ValueError as error:
        raise UnsupportedModelError(
            f"{address} is no address. Give a folder or a Hugging Face id."
        ) from error
    steps = [unquote(step) for step in parts.path.split("/") if step]
    if parts.scheme.lower() == "hf":
        host, steps = _HUB_HOSTS[0], [parts.netloc, *steps]
    if host not in _HUB_HOSTS:
        raise UnsupportedModelError(
            f"{address} is an address outside huggingface.co, and is not fetched. Give a folder or "
            "a Hugging Face id."
        )
    if steps[:1] == ["models"]:
        steps = steps[1:]
    if len(steps) < 2 or steps[0] in _NOT_MODELS:
        raise UnsupportedModelError(
            f"{address} is not the page of a model. Give its id (such as Qwen/Qwen2.5-7B-Instruct)."
        )
    if steps[-1].lower().endswith(".gguf"):
        raise UnsupportedModelError(_gguf(address))
    return f"{steps[0]}/{steps[1].removesuffix('.git')}"


def _folder(name: str) -> str:
    path = Path(os.path.expandvars(name))
    try:
        path = path.expanduser()
        if path.is_dir():
            # asked here, where it can be said: what looks into it later would fail in many ways
            os.scandir(path).close()
            return str(path) if path != Path(name) else name
        if path.suffix.lower() == ".gguf":
            raise UnsupportedModelError(_gguf(name))
        if path.is_file():
            return _folder_of_file(path)
        if path.is_symlink():
            raise UnsupportedModelError(
                f"{name} is a link that leads to nothing, or in a circle. Give the folder itself."
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnsupportedModelError(
            f"The folder {name} cannot be opened ({reason}). Check its permissions, or choose "
            "another."
        ) from error
    # the slash at the end of an id is no part of it
    return name.rstrip("/") if name.count("/") == 2 and not name.startswith("/") else name


def _folder_of_file(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            raise UnsupportedModelError(_gguf(str(path)))
    if path.suffix.lower() in (".json", ".safetensors", ".jinja", ".model"):
        return str(path.parent)
    raise UnsupportedModelError(
        f"{path} is a file, and none of a model in Hugging Face format. Give the folder in which "
        "config.json and model.safetensors lie."
    )


def _gguf(name: str) -> str:
    return (
        f"{name} is a GGUF file, which is another format. Give the folder or the Hugging Face id "
        "of the model that it was made from, with safetensors weights."
    )
