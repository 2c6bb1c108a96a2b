"""The page: a header, four tabs, and what happens when it is opened or left. Knows no engine."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ui.chat_handlers import ChatHandlers
from ui.chat_tab import ChatWidgets, build_chat_tab, chat_outputs, chat_updates, wire_chat_tab
from ui.compare_handlers import CompareHandlers
from ui.compare_tab import (
    CompareWidgets,
    build_compare_tab,
    compare_outputs,
    compare_updates,
    offer_document,
    wire_compare_tab,
)
from ui.document_handlers import DocumentHandlers
from ui.documents_tab import (
    DocumentWidgets,
    build_documents_tab,
    document_outputs,
    document_updates,
    wire_documents_tab,
)
from ui.gauge import model_line
from ui.login_part import login_updates
from ui.model_list_handlers import ModelListHandlers
from ui.model_list_part import wire_model_list
from ui.own_html import own_html
from ui.preset_picker import PresetPicker
from ui.self_test_handlers import PresetsView, SelfTestHandlers
from ui.self_test_part import self_test_outputs, self_test_updates, wire_self_test_part
from ui.services import Services, is_at_this_computer, owner_of
from ui.settings_handlers import ConfigView, SettingsHandlers, config_view
from ui.settings_tab import (
    SettingsWidgets,
    build_settings_tab,
    compression_updates,
    wire_settings_tab,
)
from ui.wiring import AT_ONCE, POLLING, QUIET, Updates, returned, streamed, watched

TITLE = "Nexusquant"
STYLE_PATH = Path(__file__).with_name("style.css")
SCRIPT_PATH = Path(__file__).with_name("keys.html")
HEARTBEAT_S = 1.0
# how long the page's stream of events is kept open for what opening the page begins
BRIDGE_S = 60.0
# for all users together; the gate in front of the page counts for each
MAX_QUEUED_EVENTS = 1000
# every open page keeps one place for as long as it is open, and two in its first minute
MAX_RUNNING_EVENTS = 400

# the chat's id goes into the address, so that loading the page again finds the chat
KEEP_ID_JS = """(id) => {
  const address = new URL(location);
  address.searchParams.set('chat', id);
  history.replaceState(null, '', address);
}"""
# a chart that was drawn while its tab was hidden has a width of its own invention
REDRAW_JS = "() => { setTimeout(() => window.dispatchEvent(new Event('resize')), 50); }"


@dataclass(frozen=True)
class Widgets:
    """All tabs, and what stands above them."""

    workspace_id: gr.State
    shown_id: gr.Textbox
    line: gr.HTML
    chat: ChatWidgets
    documents: DocumentWidgets
    compare: CompareWidgets
    compare_tab: gr.Tab
    settings: SettingsWidgets
    settings_tab: gr.Tab


def build_ui(services: Services) -> gr.Blocks:
    """All tabs over `services`; needs no model and starts no server."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        widgets = _build(services)
        _wire(page, widgets, services)
    page.max_threads = MAX_RUNNING_EVENTS
    return page.queue(max_size=MAX_QUEUED_EVENTS, default_concurrency_limit=8)


def _build(services: Services) -> Widgets:
    workspace_id = gr.State("")
    shown_id = gr.Textbox(visible="hidden", elem_id="chat-id", label="Chat")
    line = own_html("model-line")
    with gr.Tabs():
        with gr.Tab("Chat", id="chat") as chat_tab:
            chat = build_chat_tab()
        chat_tab.select(None, None, None, js=REDRAW_JS, **AT_ONCE)
        with gr.Tab("Documents", id="documents"):
            documents = build_documents_tab()
        with gr.Tab("Compare", id="compare") as compare_tab:
            compare = build_compare_tab()
        with gr.Tab("Settings", id="settings") as settings_tab:
            initial = services.initial
            settings = build_settings_tab(
                initial.sampling, initial.model_name, offload=initial.offload
            )
    return Widgets(
        workspace_id, shown_id, line, chat, documents, compare, compare_tab, settings, settings_tab
    )


def _wire(page: gr.Blocks, w: Widgets, services: Services) -> None:
    compare_handlers, settings_handlers = CompareHandlers(services), SettingsHandlers(services)
    wire_chat_tab(w.chat, ChatHandlers(services), w.workspace_id)
    wire_documents_tab(w.documents, DocumentHandlers(services), w.workspace_id)
    wire_compare_tab(w.compare, compare_handlers, w.workspace_id)
    offer_document(w.compare_tab, w.compare, compare_handlers, w.workspace_id)
    wire_settings_tab(w.settings, settings_handlers, w.workspace_id, w.line)
    w.settings_tab.select(
        returned(settings_handlers.diagnostics, lambda text: {w.settings.diagnostics: text}),
        w.workspace_id,
        w.settings.diagnostics,
        **QUIET,
    )
    wire_model_list(
        w.settings.model_list, w.settings_tab, w.settings.model_name, ModelListHandlers(services)
    )
    wire_self_test_part(w.settings.self_test, SelfTestHandlers(services))
    _wire_pickers(w, settings_handlers)
    _wire_opening(page, w, services)


def _wire_pickers(w: Widgets, handlers: SettingsHandlers) -> None:
    """A preset chosen on one tab shows on all."""
    outputs = _config_outputs(w)

    def everywhere(view: ConfigView) -> Updates:
        return _config_updates(w, view)

    for picker in _pickers(w):
        picker.radio.input(
            returned(handlers.choose_preset, everywhere),
            [picker.radio, w.workspace_id],
            outputs,
            **QUIET,
        )
        for button, answer in (
            (picker.anyway, handlers.use_anyway),
            (picker.keep, handlers.keep_current),
        ):
            button.click(returned(answer, everywhere), w.workspace_id, outputs, **QUIET)

    def all_but_the_fields(view: ConfigView) -> Updates:
        # a field that is being written in must not be set from here
        updates = _config_updates(w, view)
        return {
            widget: new for widget, new in updates.items() if widget not in w.settings.compression
        }

    gr.on(
        [field.input for field in w.settings.compression],
        returned(handlers.set_compression, all_but_the_fields),
        [*w.settings.compression, w.workspace_id],
        outputs,
        trigger_mode="always_last",
        **QUIET,
    )


def _wire_opening(page: gr.Blocks, w: Widgets, services: Services) -> None:
    def open_page(request: gr.Request) -> Updates:
        workspace = services.sessions.open(request.query_params.get("chat"), owner_of(request))
        services.sessions.attach(request.session_hash, workspace)
        return {
            w.workspace_id: workspace.id,
            w.shown_id: workspace.id,
            w.line: _line(services),
            w.settings.model_part: gr.update(visible=is_at_this_computer(request)),
            **login_updates(w.settings.login, request.username),
            **_config_updates(w, config_view(services, workspace)),
        }

    def leave_page(request: gr.Request) -> None:
        services.sessions.detach(request.session_hash)

    page.load(_bridge(services), None, w.line, **POLLING)
    opened = page.load(
        open_page,
        None,
        [
            w.workspace_id,
            w.shown_id,
            w.line,
            w.settings.model_part,
            w.settings.login.part,
            w.settings.login.who,
            *_config_outputs(w),
        ],
        **QUIET,
    )
    opened.then(None, w.shown_id, None, js=KEEP_ID_JS, **AT_ONCE)
    _wire_watch(opened, w, services)
    _wire_following(opened, w, services)
    page.unload(leave_page)


def _bridge(services: Services) -> Any:
    async def pulse() -> AsyncIterator[str]:
        # Until the watch has begun it keeps the page's stream of events open: Gradio closes
        # one that has nothing to carry, and what is sent just then would never be shown. It ends,
        # because a page that was left before its stream was open is never missed by Gradio.
        end = time.monotonic() + BRIDGE_S
        while time.monotonic() < end:
            yield _line(services)
            await asyncio.sleep(HEARTBEAT_S)

    return pulse


def _wire_following(opened: Any, w: Widgets, services: Services) -> None:
    """What runs for this page, from an earlier visit, is shown as it goes on."""
    tabs: tuple[tuple[Any, ...], ...] = (
        (ChatHandlers(services), chat_outputs, chat_updates, w.chat),
        (DocumentHandlers(services), document_outputs, document_updates, w.documents),
        (CompareHandlers(services), compare_outputs, compare_updates, w.compare),
    )
    for handlers, outputs, updates, widgets in tabs:
        opened.then(
            streamed(handlers.follow, functools.partial(updates, widgets)),
            w.workspace_id,
            list(outputs(widgets)),
            **POLLING,
        )


def _wire_watch(opened: Any, w: Widgets, services: Services) -> None:
    """The memory line and what is known of the presets reach the open page by themselves."""

    def updates(view: PresetsView) -> Updates:
        return {w.line: _line(services), **_presets_updates(w, view)}

    opened.then(
        watched(SelfTestHandlers(services).watch, updates),
        w.workspace_id,
        [
            w.line,
            *_picker_outputs(w),
            *w.settings.compression,
            *self_test_outputs(w.settings.self_test),
        ],
        **POLLING,
    )


def _pickers(w: Widgets) -> tuple[PresetPicker, ...]:
    return w.chat.picker, w.documents.picker, w.settings.picker


def _picker_outputs(w: Widgets) -> list[gr.blocks.Block]:
    return [output for picker in _pickers(w) for output in picker.outputs]


def _picker_updates(w: Widgets, view: ConfigView) -> Updates:
    updates: Updates = {}
    if view.config is not None:
        for picker in _pickers(w):
            updates |= picker.updates(view.config, view.report, view.asked)
    return updates


def _presets_updates(w: Widgets, view: PresetsView) -> Updates:
    updates = {} if view.test is None else self_test_updates(w.settings.self_test, view.test)
    if view.config is not None and view.config.config is not None:
        updates |= _picker_updates(w, view.config)
        updates |= compression_updates(w.settings, view.config.config)
    return updates


def _config_outputs(w: Widgets) -> list[gr.blocks.Block]:
    return [
        *_picker_outputs(w),
        *w.settings.compression,
        w.settings.compression_status,
        w.chat.status,
    ]


def _config_updates(w: Widgets, view: ConfigView) -> Updates:
    updates: Updates = {w.settings.compression_status: view.settings_status}
    updates |= _picker_updates(w, view)
    if view.config is not None:
        updates |= compression_updates(w.settings, view.config)
    if view.chat_status is not None:
        updates[w.chat.status] = view.chat_status
    return updates


def _line(services: Services) -> str:
    models = services.models
    return model_line(models.info, services.memory(), models.progress(), models.failure())
