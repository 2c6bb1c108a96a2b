"""From options to a page that is being served. Knows the network; nothing of the tabs."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import fastapi
import gradio as gr
import uvicorn
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from nexusquant.config import SamplingParams
from nexusquant.engine import Engine, default_gpu_share
from ui.console import tell_loading
from ui.guards import SafeAnswers
from ui.layout import SCRIPT_PATH, STYLE_PATH, build_ui
from ui.login import Accounts, LoginThrottle
from ui.options import EVERY_ADDRESS, Options, is_loopback
from ui.services import InitialSettings, Services
from ui.theme import build_theme

PORTS_TO_TRY = 100
MAX_UPLOAD = "200mb"
STOP_S = 3
NO_DOCS: Mapping[str, Any] = MappingProxyType(
    {"docs_url": None, "redoc_url": None, "openapi_url": None}
)
LAN_NOTE = "Others in the network can use it after logging in. Traffic is not encrypted (http)."


def serve(options: Options) -> int:
    """Serve the page until the program is stopped; the model is loaded meanwhile.

    Returns:
        The exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    listener = listen(options.host, options.port)
    port = listener.getsockname()[1]
    engine = Engine(
        options.data_dir,
        options.device,
        options.dtype,
        gpu_share=options.gpu_share or default_gpu_share(),
        offload=options.offload,
        cuda_graph=options.cuda_graph,
    )
    initial = InitialSettings(
        preset=options.preset,
        sampling=SamplingParams(),
        model_name=options.model,
        data_dir=options.data_dir,
        offload=options.offload,
    )
    services = Services(engine, initial)
    loading = services.models.load(options.model)
    app = build_app(build_ui(services), served_names(options.host), options.passwords, port)
    sys.stdout.write(announcement(options, port))
    sys.stdout.flush()
    tell_loading(loading, services.models.failure)
    try:
        _run(app, listener, _address(options.host, port) if options.open_browser else None)
    finally:
        services.close()
        engine.close()
    return 0


def build_app(
    page: gr.Blocks, names: Sequence[str], passwords: Mapping[str, str], port: int
) -> fastapi.FastAPI:
    """The page behind its guards.

    Args:
        page: What to serve at "/".
        names: Host names this server goes by.
        passwords: Password of each user who may log in; empty means no login.
        port: Where it will listen.
    """
    app = fastapi.FastAPI(**NO_DOCS)
    # an empty list of origins keeps Gradio from allowing any
    app.add_middleware(CORSMiddleware, allow_origins=[])
    if passwords:
        app.add_middleware(LoginThrottle)
    app.add_middleware(SafeAnswers, names=names)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(names), www_redirect=False)
    return gr.mount_gradio_app(
        app,
        page,
        "/",
        server_port=port,
        auth=Accounts(passwords).may_enter if passwords else None,
        theme=build_theme(),
        css_paths=[STYLE_PATH],
        head_paths=[SCRIPT_PATH],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        # a copy: Gradio adds to it
        app_kwargs=dict(NO_DOCS),
    )


def listen(host: str, port: int) -> socket.socket:
    """Take the first free port from `port` on.

    Raises:
        OSError: None of the next hundred is free.
    """
    for candidate in range(port, min(port + PORTS_TO_TRY, 65_536)):
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if os.name != "nt":
            # on Windows this would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen()
        except (PermissionError, OSError):
            listener.close()
        else:
            return listener
    raise OSError(f"No port from {port} on is free at {host}. Choose another with --port.")


def served_names(host: str) -> list[str]:
    """Host names under which a browser may ask for the page."""
    names = ["127.0.0.1", "localhost"]
    if is_loopback(host):
        return [*names, host] if host not in names else names
    own = [host] if host != EVERY_ADDRESS else lan_addresses()
    machine = socket.gethostname().lower()
    return [*names, *own, machine, f"{machine}.local"]


def lan_addresses() -> list[str]:
    """Addresses of this computer in its networks."""
    found: set[object] = set()
    try:
        found.update(
            info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # sends nothing; asks the system which address it would use
            probe.connect(("10.255.255.255", 1))
            found.add(probe.getsockname()[0])
    except OSError:
        logging.getLogger(__name__).info("not all network addresses could be found")
    return sorted(str(address) for address in found if not is_loopback(str(address)))


def announcement(options: Options, port: int) -> str:
    """Where the page is, as it is told to the person who started the program."""
    lines = []
    if port != options.port:
        lines.append(f"Port {options.port} is in use; taking {port}.")
    lines.append(f"Nexusquant: {_address(options.host, port)}")
    if options.is_shared:
        addresses = lan_addresses() if options.host == EVERY_ADDRESS else []
        lines += [f"In the network: http://{address}:{port}/" for address in addresses]
        lines.append(LAN_NOTE)
    return "\n".join(lines) + "\n"


def _run(app: fastapi.FastAPI, listener: socket.socket, open_at: str | None) -> None:
    # a header could claim to come from this computer, so none is believed
    config = uvicorn.Config(
        app,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
    )
    server = uvicorn.Server(config)
    if open_at is not None:
        threading.Thread(target=_open_when_started, args=(server, open_at), daemon=True).start()
    server.run(sockets=[listener])


def _open_when_started(server: uvicorn.Server, address: str) -> None:
    while not server.started:
        time.sleep(0.05)
    webbrowser.open(address)


def _address(host: str, port: int) -> str:
    name = "127.0.0.1" if host == EVERY_ADDRESS else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"
