"""The desk that loads models and has each tested once."""

from __future__ import annotations

import pytest
from fake_engine import fake_report
from test_following import wait_for
from visitors import make_services

from nexusquant.config import PRESETS, SamplingParams
from nexusquant.engine import SelfTestProgress
from ui.following import Phase
from ui.model_desk import ModelDesk
from ui.presenters import preset_name

SLOW = 0.05
LONGER_THAN_A_POLL = 0.25


@pytest.fixture
def desk(engine):
    desk = ModelDesk(engine)
    yield desk
    desk.stop_test()


def load(desk: ModelDesk, name: str | None = None) -> None:
    desk.load(name)
    desk.wait()


def is_tested(desk: ModelDesk) -> bool:
    return desk.report is not None and not desk.is_testing


def test_a_model_without_figures_is_tested_as_soon_as_it_is_there(desk, script):
    script.test_delay_s = SLOW
    load(desk)
    # not a moment in which a page could show that there is no test
    assert desk.is_testing
    assert desk.report is None
    wait_for(lambda: is_tested(desk))
    assert desk.report is script.report


def test_the_test_says_which_preset_it_is_at(desk, script):
    script.test_delay_s = LONGER_THAN_A_POLL
    load(desk)
    wait_for(lambda: desk.test_snapshot().progress == SelfTestProgress("balanced", 2, 4))


def test_requests_may_begin_while_the_test_runs(desk, script):
    script.test_delay_s = SLOW
    load(desk)
    assert desk.is_testing
    assert not desk.is_loading
    assert desk.may_begin()


def test_a_model_whose_figures_are_on_disk_is_not_tested_again(desk, engine, script):
    script.is_report_kept = True
    load(desk)
    assert not desk.is_testing
    assert desk.report is script.report
    assert engine.num_tests == 0


def test_a_test_is_begun_once_however_often_it_is_asked_for(desk, engine, script):
    script.test_delay_s = SLOW
    load(desk)
    with pytest.raises(ValueError, match="being tested"):
        desk.start_test()
    wait_for(lambda: is_tested(desk))
    assert engine.num_tests == 1


def test_a_test_can_be_stopped_and_started_again(desk, engine, script):
    script.test_delay_s = SLOW
    load(desk)
    desk.stop_test()
    wait_for(lambda: not desk.is_testing)
    assert desk.test_snapshot().phase is Phase.STOPPED
    assert desk.report is None
    desk.start_test()
    wait_for(lambda: is_tested(desk))
    assert engine.num_tests == 2


def test_another_model_ends_the_test_before_it_is_loaded_and_gets_its_own(desk, engine, script):
    script.test_delay_s = SLOW
    load(desk, "one/model")
    first = desk._test
    load(desk, "two/model")
    assert first.snapshot().phase is Phase.STOPPED
    assert desk.is_testing
    wait_for(lambda: is_tested(desk))
    assert engine.num_tests == 2


def test_another_model_leaves_nothing_of_the_figures_before(desk, engine, script):
    load(desk)
    wait_for(lambda: is_tested(desk))
    script.test_delay_s = SLOW
    load(desk, "two/model")
    assert desk.report is None


def test_a_load_that_was_given_up_leaves_model_and_figures(desk, engine, script):
    load(desk)
    wait_for(lambda: is_tested(desk))
    script.load_delay_s = SLOW
    desk.load("two/model")
    desk.stop()
    desk.wait()
    assert desk.report is script.report
    assert engine.num_tests == 1


def test_without_a_model_there_is_nothing_to_test(desk, engine):
    engine.info = None
    with pytest.raises(ValueError, match="no model to test"):
        desk.start_test()


def test_a_test_that_failed_says_why_and_harms_nothing(desk, script):
    script.fail_next = ValueError("The text is too short.")
    load(desk)
    wait_for(lambda: not desk.is_testing)
    assert str(desk.test_snapshot().error) == "The text is too short."
    assert desk.may_begin()


def test_pages_opened_later_begin_with_the_strongest_safe_preset(engine, tmp_path):
    services = make_services(engine, tmp_path, preset=None)
    assert preset_of(services.sessions.open(None, "ada")) == "safe"
    engine.report = fake_report()
    assert preset_of(services.sessions.open(None, "ada")) == "balanced"
    engine.report = fake_report(safe=1.0, high=1.0, balanced=1.0)
    assert preset_of(services.sessions.open(None, "ada")) == "safe"


def test_a_preset_given_at_the_start_is_used_even_if_it_is_unsafe(engine, tmp_path):
    engine.report = fake_report()
    services = make_services(engine, tmp_path, preset="max")
    assert preset_of(services.sessions.open(None, "ada")) == "max"


def test_open_pages_keep_their_preset_when_the_test_ends(engine, script, tmp_path):
    services = make_services(engine, tmp_path, preset=None)
    before = services.sessions.open(None, "ada")
    load(services.models)
    wait_for(lambda: is_tested(services.models))
    assert preset_of(before) == "safe"
    assert preset_of(services.sessions.open(None, "ada")) == "balanced"


def test_a_page_opened_while_the_model_loads_begins_as_one_opened_after(engine, script, tmp_path):
    script.is_report_kept, script.load_delay_s = True, 0.02
    engine.info = None
    services = make_services(engine, tmp_path, preset=None)
    services.models.load(None)
    untouched, chosen = services.sessions.open(None, "a"), services.sessions.open(None, "a")
    chosen.use_config(PRESETS["high"])
    untouched.chat.send("hello", SamplingParams())
    services.models.wait()
    assert preset_of(untouched) == "balanced"
    assert preset_of(chosen) == "high"
    # what was asked meanwhile is read once, with the preset that came
    wait_for(lambda: not untouched.chat.is_busy)
    assert not untouched.chat.will_read_again
    assert untouched.chat.turns()[0].usage.kept_share < 0.4


def preset_of(workspace) -> str | None:
    return preset_name(workspace.config)
