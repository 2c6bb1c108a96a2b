"""What the Hugging Face hub holds of a model, and which of its files are needed.

Knows the hub's listing and why it may refuse. Must not know how files are fetched or loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from huggingface_hub import HfApi, get_session, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from nexusquant.errors import NexusquantError

TIMEOUT_S = 10.0
"""Seconds of silence after which a connection counts as lost."""

_WHOLE_WEIGHTS = "model.safetensors"
_SMALL_FILES = frozenset(
    {
        *("config.json", "generation_config.json", "model.safetensors.index.json"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt"),
        *("merges.txt", "added_tokens.json", "special_tokens_map.json"),
        *("chat_template.json", "chat_template.jinja", "tekken.json", "spiece.model"),
        *("quantize_config.json", "quant_config.json", "recipe.yaml"),
    }
)


class DownloadError(NexusquantError):
    """A model could not be fetched; the message says why and what can be done."""


class NoConnectionError(DownloadError):
    """The hub cannot be reached."""


class ModelAccessError(DownloadError):
    """The hub wants to know who asks, or that person has not agreed to the model's conditions."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model on the hub.

    Args:
        name: Without folders.
        num_bytes: Its size.
        digest: SHA-256 of a large file; of a small one the id that git gives it.
        is_large: Which of the two.
    """

    name: str
    num_bytes: int
    digest: str
    is_large: bool


@dataclass(frozen=True)
class RemoteModel:
    """The files of a model that are needed, at one moment of its history.

    Args:
        id: What it is called on the hub.
        revision: That moment.
        files: Config and tokenizer first, then weights.
    """

    id: str
    revision: str
    files: tuple[RemoteFile, ...]

    def address(self, file: RemoteFile) -> str:
        """Where to fetch a file."""
        return hf_hub_url(self.id, file.name, revision=self.revision)


def look_up(name: str, token: str | None = None) -> RemoteModel:
    """Ask the hub for the files of a model.

    Args:
        name: Hugging Face id.
        token: Says who asks; None: as the person is logged in on this computer, if at all.

    Raises:
        DownloadError: There is no such model, no access to it, or no connection.
    """
    with explained(name, token):
        info = HfApi(token=token).model_info(name, files_metadata=True, timeout=TIMEOUT_S)
    listed = [
        RemoteFile(
            sibling.rfilename,
            sibling.size or 0,
            sibling.lfs.sha256 if sibling.lfs else sibling.blob_id or "",
            sibling.lfs is not None,
        )
        for sibling in info.siblings or ()
    ]
    return RemoteModel(info.id, info.sha or "main", needed_files(name, listed))


def needed_files(name: str, listed: list[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Choose config, tokenizer and one set of safetensors weights; code and the rest stay away.

    Args:
        name: What the model is called.
        listed: All its files.

    Raises:
        DownloadError: It has no such weights.
    """
    weights = [
        file
        for file in listed
        # folders hold copies in other formats; the other name is Mistral's own format
        if file.name.endswith(".safetensors")
        and "/" not in file.name
        and not file.name.startswith("consolidated")
    ]
    whole = [file for file in weights if file.name == _WHOLE_WEIGHTS]
    if not weights:
        raise DownloadError(
            f"{name} has no safetensors weights, and no other format is opened. Look for a model "
            "in safetensors format: GGUF files, for one, are another format."
        )
    small = [file for file in listed if file.name in _SMALL_FILES]
    return (*sorted(small, key=lambda file: file.name), *(whole or weights))


@contextmanager
def explained(name: str, token: str | None) -> Iterator[None]:
    """Turn what the hub and the network refuse into sentences.

    Args:
        name: What the model is called.
        token: With which it was asked for.
    """
    try:
        yield
    except HFValidationError as error:
        raise DownloadError(
            f"{name} is no folder on this computer and no Hugging Face name (such as "
            "Qwen/Qwen2.5-7B-Instruct)."
        ) from error
    except OfflineModeIsEnabled as error:
        raise NoConnectionError(
            f"{name} is not on this disk, and HF_HUB_OFFLINE forbids to fetch it."
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(name, token, error) from error
    except connection_errors() as error:
        raise NoConnectionError(
            f"{name} is not on this disk, and the hub cannot be reached "
            f"({type(error).__name__}). Check the internet connection."
        ) from error


def connection_errors() -> tuple[type[Exception], ...]:
    """What the library that the hub's client talks through raises when a connection is lost."""
    # another one since version 2
    library = sys.modules[type(get_session()).__module__.partition(".")[0]]
    return (library.TransportError, ConnectionError, TimeoutError)


def _refusal(name: str, token: str | None, error: HfHubHTTPError) -> DownloadError:
    status = getattr(error.response, "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return ModelAccessError(_gate(name, has_token=(token or get_token()) is not None))
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return ModelAccessError(
            f"There is no model called {name} on the Hugging Face hub, or it is private. Check the "
            f"name; a private one needs an access token. {_HOW_TO_GET_ONE}"
        )
    if status == 401:
        return ModelAccessError(f"The hub does not know this access token. {_HOW_TO_GET_ONE}")
    return DownloadError(
        f"The hub answered {status} when {name} was asked for. Try again in a few minutes."
    )


_HOW_TO_GET_ONE = (
    "Make one that may read at https://huggingface.co/settings/tokens and give it in Settings, in "
    "the variable HF_TOKEN, or once with the command: hf auth login"
)


def _gate(name: str, *, has_token: bool) -> str:
    page = f"https://huggingface.co/{name}"
    agree = f"The owner of {name} asks you to agree to conditions: log in at {page} and accept them"
    if has_token:
        return (
            f"{agree}, with the account that the access token is of (some owners take a while to "
            "answer); the token must be allowed to read gated models. Then load it again."
        )
    return f"{agree}. Then an access token tells the hub that it is you. {_HOW_TO_GET_ONE}"
