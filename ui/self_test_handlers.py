"""What "Presets on this model" does and shows. Knows desks and HTML; not the widgets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import gradio as gr

from nexusquant.engine import SelfTestReport
from ui import preset_figures
from ui.gauge import notice
from ui.model_desk import ModelDesk
from ui.services import Services, is_at_this_computer, owner_of
from ui.settings_handlers import ConfigView, config_view

LOOK_S = 1.0
"""Seconds between two looks at the test."""

NO_MODEL = "Presets are tested when a model is loaded."
FIRST, AGAIN = "Test the presets on this model", "Test again"


@dataclass(frozen=True)
class SelfTestView:
    """The whole part as it is now.

    Args:
        status: How far the test is, or what came of it.
        table: The figures; empty before there are any.
        start_label: What the button says that starts it.
        can_start: Whether that button is shown.
        can_stop: Whether the other one is shown.
    """

    status: str
    table: str
    start_label: str
    can_start: bool
    can_stop: bool


@dataclass(frozen=True)
class PresetsView:
    """What changed of the test and, when more is known of the presets, of the pickers."""

    test: SelfTestView | None = None
    config: ConfigView | None = None


class SelfTestHandlers:
    """One method per button, and one that watches."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def start_test(self, request: gr.Request) -> SelfTestView:
        """Measure the presets on the model in use."""
        if is_at_this_computer(request):
            # somebody on another page may have been faster; the view says what is going on
            with contextlib.suppress(ValueError):
                self._services.models.start_test()
        return self.view(request)

    def stop_test(self, request: gr.Request) -> SelfTestView:
        """End the test that runs."""
        if is_at_this_computer(request):
            self._services.models.stop_test()
        return self.view(request)

    def view(self, request: gr.Request) -> SelfTestView:
        """The part as it is now; only the person at the computer gets buttons."""
        models, is_here = self._services.models, is_at_this_computer(request)
        return SelfTestView(
            status=self._status(models),
            table=preset_figures.report_table(models.report),
            start_label=AGAIN if models.report else FIRST,
            can_start=is_here and models.info is not None and not models.is_testing,
            can_stop=is_here and models.is_testing,
        )

    async def watch(self, workspace_id: str, request: gr.Request) -> AsyncIterator[PresetsView]:
        """Everything at once, then what changed, as long as the page is open.

        It yields at every look, changed or not: only then does Gradio notice that a page was left,
        and until it does, the page keeps one of the places for running events.
        """
        test: SelfTestView | None = None
        report: SelfTestReport | None = None
        services = self._services
        while True:
            workspace = services.sessions.look(workspace_id, owner_of(request))
            known = services.report_of(workspace) if workspace else services.models.report
            now = self.view(request)
            config = self._config(workspace_id, request) if known is not report else None
            yield PresetsView(now if now != test or config is not None else None, config)
            test, report = now, known
            await asyncio.sleep(LOOK_S)

    def _config(self, workspace_id: str, request: gr.Request) -> ConfigView:
        services = self._services
        return config_view(services, services.workspace(workspace_id, request))

    def _status(self, models: ModelDesk) -> str:
        if models.info is None:
            return notice(NO_MODEL, "info")
        told = preset_figures.testing_status(models.test_snapshot())
        if models.report is None:
            return told or notice(preset_figures.NOT_TESTED, "info")
        services = self._services
        return told + preset_figures.default_line(
            models.report, services.initial.preset, services.default_preset()
        )
