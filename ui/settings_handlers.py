"""What the Settings tab and the preset pickers do. Knows desks and HTML; not the widgets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import gradio as gr

from nexusquant.config import PRESETS, CompressionConfig
from nexusquant.engine import SelfTestReport
from ui import gauge
from ui.diagnostics import diagnostics_text
from ui.following import Phase
from ui.model_list_handlers import AUTOMATIC
from ui.presenters import explain
from ui.preset_figures import is_unsafe
from ui.services import Services, is_at_this_computer
from ui.sessions import Workspace
from ui.state.fields import own_compression, own_sampling

READ_AGAIN = "From the next message on. The whole conversation is read again with these settings."
NOT_HERE = "Only the person at the computer that runs Nexusquant can change the model."
APPLIED = "Used from the next answer on."


@dataclass(frozen=True)
class ConfigView:
    """The compression in use now, and what that means; None where nothing changed.

    `report` and `asked`, an unsafe preset that waits for a yes, go with `config`.
    """

    config: CompressionConfig | None
    report: SelfTestReport | None = None
    asked: str | None = None
    chat_status: str | None = None
    settings_status: str = ""


@dataclass(frozen=True)
class ModelView:
    """How loading a model goes; None leaves a part as it is."""

    status: str | None = None
    line: str | None = None
    is_loading: bool | None = None


class SettingsHandlers:
    """One method per control."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def choose_preset(self, name: str, workspace_id: str, request: gr.Request) -> ConfigView:
        """Compress the coming turns with a preset; ask first if it is unsafe for the model."""
        workspace = self._services.workspace(workspace_id, request)
        is_new = PRESETS[name] != workspace.config
        if is_new and is_unsafe(name, self._services.report_of(workspace)):
            workspace.asked_preset = name
            return config_view(self._services, workspace)
        return self._use(PRESETS[name], workspace)

    def use_anyway(self, workspace_id: str, request: gr.Request) -> ConfigView:
        """Take the unsafe preset that was asked about."""
        workspace = self._services.workspace(workspace_id, request)
        asked = workspace.asked_preset
        return self._use(PRESETS[asked] if asked else workspace.config, workspace)

    def keep_current(self, workspace_id: str, request: gr.Request) -> ConfigView:
        """Leave the compression as it is, and the question with it."""
        workspace = self._services.workspace(workspace_id, request)
        workspace.asked_preset = None
        return config_view(self._services, workspace)

    def set_compression(
        self,
        key_bits: float,
        value_bits: float,
        keep_percent: float,
        scorer: str,
        floor_percent: float,
        newest_percent: float,
        num_sink_tokens: float,
        recent_window: float,
        workspace_id: str,
        request: gr.Request,
    ) -> ConfigView:
        """Compress the coming turns with values of one's own."""
        try:
            config = own_compression(
                key_bits,
                value_bits,
                keep_percent,
                scorer,
                floor_percent,
                newest_percent,
                num_sink_tokens,
                recent_window,
            )
        except (ValueError, TypeError) as error:
            return ConfigView(None, settings_status=gauge.notice(explain(error), "warn"))
        return self._use(config, self._services.workspace(workspace_id, request))

    def set_sampling(
        self,
        temperature: float,
        top_p: float,
        top_k: float,
        min_p: float,
        repetition_penalty: float,
        max_new_tokens: float,
        seed: str,
        stop: str,
        workspace_id: str,
        request: gr.Request,
    ) -> str:
        """Draw the coming answers this way; what is said under the fields."""
        workspace = self._services.workspace(workspace_id, request)
        try:
            workspace.sampling = own_sampling(
                temperature,
                top_p,
                top_k,
                min_p,
                repetition_penalty,
                max_new_tokens,
                seed,
                stop,
            )
        except ValueError as error:
            return gauge.notice(str(error), "warn")
        return gauge.notice(APPLIED, "info")

    def load_model(
        self,
        name: str,
        workspace_id: str,
        request: gr.Request,
        weights: str = AUTOMATIC,
        token: str = "",
        may_wait: bool = False,
    ) -> Iterator[ModelView]:
        """Load another model for everybody and show how far it is."""
        if not is_at_this_computer(request):
            yield ModelView(status=gauge.notice(NOT_HERE, "error"))
            return
        try:
            loading = self._services.models.load(
                name.strip() or None,
                None if weights == AUTOMATIC else weights,
                token=token.strip() or None,
                offload=may_wait,
            )
        except ValueError as error:
            yield ModelView(status=gauge.notice(str(error), "warn"))
            return
        for now in loading.snapshots():
            if now.phase.is_over:
                break
            yield self._model_view(is_loading=True)
        status = self._services.models.failure()
        kind = "info" if now.phase is Phase.STOPPED else "error"
        loaded = gauge.notice("The model is ready.", "busy")
        yield replace(
            self._model_view(is_loading=False),
            status=gauge.notice(status, kind) if status else loaded,
        )

    def stop_loading(self, workspace_id: str, request: gr.Request) -> ModelView:
        """Give up loading."""
        if is_at_this_computer(request):
            self._services.models.stop()
        return ModelView()

    def diagnostics(self, workspace_id: str, request: gr.Request) -> str:
        """Versions and devices as text that can be copied; nothing that anybody wrote."""
        services = self._services
        return diagnostics_text(services.engine.info, services.memory(), len(services.sessions))

    def _use(self, config: CompressionConfig, workspace: Workspace) -> ConfigView:
        workspace.use_config(config)
        again = gauge.notice(READ_AGAIN, "info") if workspace.chat.will_read_again else ""
        view = config_view(self._services, workspace)
        return view if workspace.chat.is_busy else replace(view, chat_status=again)

    def _model_view(self, *, is_loading: bool) -> ModelView:
        models = self._services.models
        line = gauge.model_line(
            models.info, self._services.memory(), models.progress(), models.failure()
        )
        return ModelView(line=line, status=line if is_loading else None, is_loading=is_loading)


def config_view(services: Services, workspace: Workspace) -> ConfigView:
    """The compression in use and what is known of it, with the question that waits, if any."""
    report, asked = services.report_of(workspace), workspace.asked_preset
    # a question about another model, or another test, is no longer one
    is_open = asked is not None and is_unsafe(asked, report)
    return ConfigView(workspace.config, report, asked if is_open else None)
