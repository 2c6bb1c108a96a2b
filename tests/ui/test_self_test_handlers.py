""" "Presets on this model": what it shows, who may press its buttons, and what pages are told."""

from __future__ import annotations

import asyncio

import pytest
from fake_engine import fake_report
from test_following import wait_for
from visitors import person

from nexusquant.config import PRESETS
from ui import self_test_handlers
from ui.self_test_handlers import PresetsView, SelfTestHandlers

SLOW = 0.05
LONGER_THAN_A_POLL = 0.25


@pytest.fixture
def handlers(services):
    yield SelfTestHandlers(services)
    services.close()


def test_before_the_first_test_there_is_a_button_and_no_table(handlers, me):
    view = handlers.view(me)
    assert view.table == ""
    assert "Not yet tested on this model." in view.status
    assert (view.can_start, view.can_stop) == (True, False)
    assert view.start_label == "Test the presets on this model"


def test_without_a_model_there_is_no_button(handlers, engine, me):
    engine.info = None
    view = handlers.view(me)
    assert not view.can_start
    assert "when a model is loaded" in view.status


def test_a_test_is_started_followed_and_ends_with_figures(handlers, services, script, me):
    script.test_delay_s = LONGER_THAN_A_POLL
    view = handlers.start_test(me)
    assert (view.can_start, view.can_stop) == (False, True)
    wait_for(lambda: "Testing presets: high (2 of 4)" in handlers.view(me).status)
    wait_for(lambda: not services.models.is_testing)
    view = handlers.view(me)
    assert "fits this model" in view.table
    assert "Testing" not in view.status
    assert (view.start_label, view.can_start, view.can_stop) == ("Test again", True, False)


def test_pressing_twice_tests_once(handlers, engine, script, me):
    script.test_delay_s = SLOW
    handlers.start_test(me)
    handlers.start_test(me)
    assert engine.num_tests == 1


def test_a_stopped_test_keeps_the_figures_before_it(handlers, services, engine, script, me):
    engine.report = fake_report()
    script.test_delay_s = SLOW
    handlers.start_test(me)
    handlers.stop_test(me)
    wait_for(lambda: not services.models.is_testing)
    view = handlers.view(me)
    assert "was stopped" in view.status
    assert "fits this model" in view.table


def test_a_guest_sees_the_figures_and_can_neither_start_nor_stop(
    handlers, services, engine, script, me
):
    guest = person("bob", host="192.168.1.7")
    engine.report = fake_report()
    view = handlers.start_test(guest)
    assert not services.models.is_testing
    assert "fits this model" in view.table
    assert (view.can_start, view.can_stop) == (False, False)
    script.test_delay_s = SLOW
    handlers.start_test(me)
    assert not handlers.stop_test(guest).can_stop
    wait_for(lambda: not services.models.is_testing)
    assert "was stopped" not in handlers.view(me).status


def test_the_default_of_pages_to_come_is_told_when_the_test_ended(handlers, engine, me):
    engine.report = fake_report()
    # the services of these tests are started with a preset
    assert "begin with Balanced, as --preset asks" in handlers.view(me).status


def watched(handlers, workspace, me, happenings) -> list[PresetsView]:
    """The views a page gets while the happenings come one after the other."""

    async def run() -> list[PresetsView]:
        views = []
        stream = handlers.watch(workspace.id, me)
        for happen in (None, *happenings):
            if happen:
                happen()
            views.append(await asyncio.wait_for(anext(stream), 5))
        await stream.aclose()
        return views

    return asyncio.run(run())


def test_a_page_is_told_at_once_and_then_only_of_changes(
    handlers, services, engine, workspace, me, monkeypatch
):
    monkeypatch.setattr(self_test_handlers, "LOOK_S", 0.01)
    used_at = workspace.used_at
    first, tested, other = watched(
        handlers,
        workspace,
        me,
        [lambda: setattr(engine, "report", fake_report()), lambda: setattr(engine, "report", None)],
    )
    assert first.config is None
    assert tested.config.report is not None
    assert tested.config.config is PRESETS["balanced"]
    assert "fits this model" in tested.test.table
    assert (other.config.report, other.test.table) == (None, "")
    # a page that merely stays open is told of nothing, and must not look used
    used_at = workspace.used_at
    _, *quiet = watched(handlers, workspace, me, [lambda: None, lambda: None])
    assert quiet == [PresetsView(), PresetsView()]
    assert workspace.used_at == used_at
