"""The flags of app.py as one checked value. Knows the command line; imports nothing heavy."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# written out, so that --help need not wait for torch; a test compares them with the engine's
PRESET_NAMES = ("off", "safe", "high", "balanced", "max")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8", "nf4")

DEFAULT_PORT = 7860
MIN_PASSWORD_LENGTH = 12
EVERY_ADDRESS = "0.0.0.0"
PASSWORD_VARIABLE = "NEXUSQUANT_PASSWORD_"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for on the command line.

    Args:
        model: Hugging Face name or folder; None is the model that comes with the app.
        preset: Compression at the start, one of `PRESET_NAMES`; None leaves it to the self-test.
        device: One of `DEVICES`.
        dtype: One of `DTYPES`.
        offload: Whether layers that do not fit the GPU may wait in the computer's memory.
        cuda_graph: Whether the steps of an answer are recorded as a CUDA graph.
        gpu_share: Most of each GPU's memory that the program takes, in (0, 1]; None: what suits
            the system.
        host: Address to listen on.
        port: First port to try.
        passwords: Password of each user who may log in; empty means no login.
        data_dir: Where models and uploads are kept.
        open_browser: Whether to open the page at the start.
        proxy: Address of the one proxy that is believed about who sends a request; None: none is.
        names: Further host names under which browsers ask for the page.
    """

    model: str | None
    preset: str | None
    device: str
    dtype: str
    offload: bool
    cuda_graph: bool
    gpu_share: float | None
    host: str
    port: int
    passwords: Mapping[str, str]
    data_dir: Path
    open_browser: bool
    proxy: str | None = None
    names: tuple[str, ...] = ()

    @property
    def is_shared(self) -> bool:
        """True when other computers can reach the page."""
        return not is_loopback(self.host)


def parse_options(
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
    ask_password: Callable[[str], str] = getpass.getpass,
) -> Options:
    """Read the flags; on a mistake one sentence is printed and the program ends with code 2.

    Args:
        arguments: Without the program's name; None takes the real ones.
        environment: Where passwords may stand.
        ask_password: Asks the person for one.
    """
    parser = _build_parser()
    flags = parser.parse_args(arguments)
    host = EVERY_ADDRESS if flags.lan else flags.host
    if not is_loopback(host) and not flags.user:
        parser.error(
            "other computers could reach this page without a login: add at least one --user NAME."
        )
    try:
        passwords = _passwords(flags.user, flags.password_file, environment, ask_password)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return Options(
        model=flags.model,
        preset=flags.preset,
        device=flags.device,
        dtype=flags.dtype,
        offload=flags.offload,
        cuda_graph=flags.cuda_graph,
        gpu_share=flags.gpu_share,
        host=host,
        port=flags.port,
        passwords=passwords,
        data_dir=flags.data_dir.expanduser().resolve(),
        open_browser=not flags.no_browser,
        proxy=flags.proxy,
        names=tuple(flags.name),
    )


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def default_data_dir(
    platform: str = sys.platform, environment: Mapping[str, str] = os.environ
) -> Path:
    """The folder in which programs keep their data on this system."""
    if platform == "win32":
        return Path(environment.get("LOCALAPPDATA", Path.home())) / "Nexusquant"
    if platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Nexusquant"
    base = environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "nexusquant"


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nexusquant",
        allow_abbrev=False,
        description="Chat and long documents on a local language model with a compressed memory.",
    )
    _add_model_flags(parser)
    _add_device_flags(parser)
    _add_server_flags(parser)
    return parser


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        metavar="NAME",
        help="Hugging Face name or local folder of the model "
        "(default: the small model that comes with the app)",
    )
    add(
        "--preset",
        choices=PRESET_NAMES,
        help="compression of the KV cache at the start "
        "(default: the strongest that the self-test finds safe for the model; safe until then)",
    )
    add(
        "--data-dir",
        type=Path,
        default=default_data_dir(),
        metavar="FOLDER",
        help="where models and uploads are kept (default: %(default)s)",
    )


def _add_device_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where the model runs; auto takes the NVIDIA GPU if there is one that works",
    )
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="type of the weights; auto takes what suits model and device; int8 and nf4 hold them "
        "in 8 and in 4 bits",
    )
    add(
        "--offload",
        action="store_true",
        help="let layers that do not fit the GPU wait in the computer's memory instead of refusing "
        "the model; answers are many times slower then",
    )
    add(
        "--no-cuda-graph",
        dest="cuda_graph",
        action="store_false",
        help="on a GPU, start every step of an answer anew instead of recording one and replaying "
        "it; several times slower, and there in case a recording goes wrong",
    )
    add(
        "--gpu-share",
        type=_share,
        metavar="SHARE",
        help="most of each GPU's memory that the program takes, such as 0.9; beyond it, work fails "
        "with a message instead of slowing down (default: 0.9 on Windows, where a full GPU goes on "
        "in the computer's memory; 1 elsewhere)",
    )


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: %(default)s, this computer only)",
    )
    where.add_argument(
        "--lan",
        action="store_true",
        help="let other computers in the network use the page; needs --user",
    )
    add(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        help="port of the page; the next free one is taken if it is in use (default: %(default)s)",
    )
    add(
        "--user",
        action="append",
        default=[],
        metavar="NAME",
        help="ask for a login, and let NAME in; may be given several times. The password is asked "
        f"for, or read from the variable {PASSWORD_VARIABLE}NAME or from --password-file",
    )
    add("--password-file", type=Path, metavar="FILE", help="file with one NAME:PASSWORD per line")
    add(
        "--proxy",
        metavar="ADDRESS",
        help="address of a reverse proxy in front of the page: what it says in X-Forwarded-For and "
        "X-Forwarded-Proto is believed, and nobody else (default: nobody is)",
    )
    add(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a further host name under which browsers ask for the page, such as a proxy's",
    )
    add("--no-browser", action="store_true", help="do not open the page in a browser")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; use a number above 0, up to 1.")
    return share


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; use a number from 1 to 65535.")
    return int(text)


def _passwords(
    names: Sequence[str],
    file: Path | None,
    environment: Mapping[str, str],
    ask_password: Callable[[str], str],
) -> dict[str, str]:
    written = _read_password_file(file) if file else {}
    passwords = {}
    for name in names:
        variable = PASSWORD_VARIABLE + name
        password = (
            written.get(name)
            or environment.get(variable)
            or environment.get(variable.upper())
            or _asked(name, ask_password)
        )
        if len(password) < MIN_PASSWORD_LENGTH:
            raise ValueError(
                f"the password of {name} is too short; "
                f"use {MIN_PASSWORD_LENGTH} characters or more."
            )
        passwords[name] = password
    return passwords


def _asked(name: str, ask_password: Callable[[str], str]) -> str:
    try:
        return ask_password(f"Password for {name}: ")
    except EOFError:
        raise ValueError(
            f"there is no terminal to ask for the password of {name}; put it into the variable "
            f"{PASSWORD_VARIABLE}{name.upper()} or into a --password-file."
        ) from None


def _read_password_file(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeError:
        raise ValueError(f"{file.name} is no text in UTF-8.") from None
    pairs = [line.partition(":") for line in lines if line.strip()]
    if any(not colon for _, colon, _ in pairs):
        raise ValueError(f"{file.name} needs one NAME:PASSWORD per line.")
    return {name.strip(): password for name, _, password in pairs}
