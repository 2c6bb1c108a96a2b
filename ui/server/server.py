"""From options to a page that is being served. Knows the network; nothing of the tabs."""

from __future__ import annotations

import errno
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

from nexusquant.config import SamplingParams
from nexusquant.engine import Engine, default_gpu_share
from ui.layout import SCRIPT_PATH, STYLE_PATH, build_ui
from ui.options import EVERY_ADDRESS, Options, is_loopback
from ui.server.console import tell_loading
from ui.server.gate import Gate, Guards
from ui.server.login import Accounts, Logins, LoginThrottle
from ui.server.login_routes import add_login_routes
from ui.server.page_events import PageEvents
from ui.server.security_headers import SafeAnswers
from ui.server.upload_routes import add_upload_routes
from ui.services import InitialSettings, Services
from ui.state.uploads import Uploads
from ui.theme import build_theme

PORTS_TO_TRY = 100
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
    # the last one tells of every damaged upload
    for name in ("httpx", "httpx2", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        listener = listen(options.host, options.port)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    port = listener.getsockname()[1]
    services = _services(options)
    loading = services.models.load(options.model)
    app = build_app(
        build_ui(services),
        services.uploads,
        [*served_names(options.host), *options.names],
        options.passwords,
        port,
        trusts_proxy=options.proxy is not None,
    )
    sys.stdout.write(announcement(options, port))
    sys.stdout.flush()
    tell_loading(loading, services.models.failure)
    try:
        open_at = _address(options.host, port) if options.open_browser else None
        _run(app, listener, open_at, options.proxy)
    finally:
        services.close()
        services.engine.close()
    return 0


def _services(options: Options) -> Services:
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
    return Services(engine, initial)


def build_app(
    page: gr.Blocks,
    uploads: Uploads,
    names: Sequence[str],
    passwords: Mapping[str, str],
    port: int,
    *,
    trusts_proxy: bool = False,
) -> fastapi.FastAPI:
    """The page behind its guards.

    Args:
        page: What to serve at "/".
        uploads: Where the files go that people put here.
        names: Host names this server goes by.
        passwords: Password of each user who may log in; empty means no login.
        port: Where it will listen.
        trusts_proxy: Whether what a proxy says of a request was checked already.
    """
    app = fastapi.FastAPI(**NO_DOCS)
    logins, cookie = Logins(), f"nexusquant-{port}"
    guards = Guards(
        names=names,
        logins=logins if passwords else None,
        cookie=cookie,
        events=PageEvents(page),
        uploads=uploads,
        trusts_proxy=trusts_proxy,
    )
    # an empty list of origins keeps Gradio from allowing any
    app.add_middleware(CORSMiddleware, allow_origins=[])
    # the last one added is the first that a request meets
    app.add_middleware(Gate, guards=guards)
    app.add_middleware(SafeAnswers)
    add_login_routes(app, Accounts(passwords), logins, LoginThrottle(), cookie)
    add_upload_routes(app, uploads)
    app = _mount(app, page, port, uploads.max_file_bytes, has_logins=bool(passwords))
    # only a page that "has launched" holds the paths that browsers name to the upload folder
    page.has_launched = True
    return app


def _mount(
    app: fastapi.FastAPI, page: gr.Blocks, port: int, max_file_bytes: int, *, has_logins: bool
) -> fastapi.FastAPI:
    return gr.mount_gradio_app(
        app,
        page,
        "/",
        server_port=port,
        auth_dependency=_user_of if has_logins else None,
        theme=build_theme(),
        css_paths=[STYLE_PATH],
        head_paths=[SCRIPT_PATH],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        max_file_size=max_file_bytes,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        # a copy: Gradio adds to it
        app_kwargs=dict(NO_DOCS),
    )


def _user_of(request: fastapi.Request) -> str | None:
    return request.state.user


def listen(host: str, port: int) -> socket.socket:
    """Take the first free port from `port` on.

    Raises:
        OSError: None of the next hundred is free, or the address is not this computer's.
    """
    for candidate in range(port, min(port + PORTS_TO_TRY, 65_536)):
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if os.name != "nt":
            # on Windows this would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen()
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
                raise OSError(
                    f"{host} is no address of this computer. Choose another with --host."
                ) from error
        else:
            return listener
    raise OSError(f"No port from {port} on is free at {host}. Choose another with --port.")


def served_names(host: str) -> list[str]:
    """Host names under which a browser may ask for the page."""
    names = ["127.0.0.1", "localhost"]
    if is_loopback(host):
        return [*names, host] if host not in names else names
    own = [host] if host not in (EVERY_ADDRESS, "::") else lan_addresses()
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


def _run(
    app: fastapi.FastAPI, listener: socket.socket, open_at: str | None, proxy: str | None
) -> None:
    # a header could claim to come from this computer, so none is believed but a named proxy's
    config = uvicorn.Config(
        app,
        log_level="warning",
        proxy_headers=proxy is not None,
        forwarded_allow_ips=proxy,
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
