"""Presets measured on a model: the figures, the verdict, and the file they are kept in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nexusquant.config import PRESETS
from nexusquant.engine import (
    DEFAULT_PRESET,
    KL_LIMIT,
    LoadedModel,
    PresetReport,
    SelfTestProgress,
    SelfTestReport,
    self_test,
)
from nexusquant.engine.measurements import Measurements
from nexusquant.engine.self_test import NUM_COMPARED, self_test_steps

NAMES = [name for name in PRESETS if name != "off"]


def finish(steps):
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


@pytest.fixture(scope="module")
def tested(tiny: LoadedModel):
    return finish(self_test_steps(tiny))


def report_of(**kl: float) -> SelfTestReport:
    presets = [PresetReport(name, 5.0, kl.get(name, 0.0), 0.0, 1.0) for name in NAMES]
    return SelfTestReport(tuple(presets), 1000, 128)


def test_every_preset_but_off_is_measured(tested, tiny: LoadedModel):
    _, report = tested
    assert [preset.preset for preset in report.presets] == NAMES
    assert report.num_prefix_tokens == tiny.context_length - 96 - NUM_COMPARED
    for preset in report.presets:
        assert preset.compression_factor > 1
        assert preset.kl > 0
        assert preset.recall_kl > 0
        assert 0 <= preset.top1_agreement <= 1


def test_stronger_presets_save_more_and_stray_further(tested):
    _, report = tested
    factors = [preset.compression_factor for preset in report.presets]
    assert factors == sorted(factors)
    assert report.of("max").kl > report.of("safe").kl


def test_progress_names_each_preset_in_turn(tested):
    events, _ = tested
    assert all(isinstance(event, SelfTestProgress) for event in events)
    assert list(dict.fromkeys(event.preset for event in events)) == NAMES
    assert [event.num_done for event in events] == sorted(event.num_done for event in events)
    assert {event.num_total for event in events} == {len(NAMES)}


def test_either_divergence_makes_a_preset_unsafe():
    assert PresetReport("safe", 7.0, KL_LIMIT, KL_LIMIT, 1.0).is_safe
    assert not PresetReport("safe", 7.0, KL_LIMIT * 1.01, 0.0, 1.0).is_safe
    assert not PresetReport("safe", 7.0, 0.0, KL_LIMIT * 1.01, 1.0).is_safe


def test_the_best_preset_is_the_strongest_that_is_safe():
    assert report_of().best_preset == "max"
    assert report_of(max=1.0, high=1.0).best_preset == "balanced"
    assert report_of(**dict.fromkeys(NAMES, 1.0)).best_preset == DEFAULT_PRESET
    assert report_of().of("off") is None


def test_a_short_context_is_refused(tiny: LoadedModel):
    with pytest.raises(ValueError, match="300 tokens is too short"):
        next(self_test_steps(replace(tiny, context_length=300)))


def test_a_report_survives_its_file(tmp_path: Path):
    report = report_of(max=0.3)
    report.save(tmp_path / "profiles" / "report.json")
    assert SelfTestReport.load(tmp_path / "profiles" / "report.json") == report


def test_figures_of_other_presets_or_another_kind_of_profile_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    report, path = report_of(max=0.3), tmp_path / "report.json"
    report.save(path)
    others = dict(PRESETS) | {"high": replace(PRESETS["high"], recent_window=64)}
    for name, value in (("PRESETS", others), ("PROFILE_FORMAT_VERSION", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(self_test, name, value)
            assert SelfTestReport.load(path) is None
    assert SelfTestReport.load(path) == report


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 99}', '{"presets": 1}'])
def test_a_file_that_is_no_report_counts_as_none(tmp_path: Path, content: str):
    path = tmp_path / "report.json"
    assert SelfTestReport.load(path) is None
    path.write_text(content)
    assert SelfTestReport.load(path) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["presets"][0].update(kl=float("nan")),
        lambda fields: fields["presets"][0].update(kl=-1.0),
        lambda fields: fields["presets"][0].update(recall_kl="0.1"),
        lambda fields: fields["presets"][0].update(compression_factor=float("inf")),
        lambda fields: fields["presets"][0].update(preset="turbo"),
        lambda fields: fields["presets"].pop(),
        lambda fields: fields["presets"].reverse(),
        lambda fields: fields.update(presets=[]),
        lambda fields: fields.update(num_prefix_tokens=-5),
        lambda fields: fields.update(num_compared_tokens="many"),
        lambda fields: fields.update(scaling=7),
    ],
)
def test_figures_that_cannot_be_are_measured_again(tmp_path: Path, change):
    path = tmp_path / "report.json"
    report_of().save(path)
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    assert SelfTestReport.load(path) is None


def test_a_profile_is_measured_once_and_then_read(tmp_path: Path, tiny: LoadedModel):
    measurements = Measurements(tmp_path)
    events, first = finish(measurements.with_profile(tiny))
    assert events[-1].fraction == 1.0
    again, second = finish(measurements.with_profile(tiny))
    assert again == []
    assert second.profile.pairings == first.profile.pairings
    for one, other in zip(first.profile.bases, second.profile.bases, strict=True):
        assert all((mine == others).all() for mine, others in zip(one, other, strict=True))


def test_a_damaged_profile_is_measured_again(tmp_path: Path, tiny: LoadedModel):
    measurements = Measurements(tmp_path)
    finish(measurements.with_profile(tiny))
    (path,) = (tmp_path / "profiles").iterdir()
    path.write_bytes(b"nothing")
    events, loaded = finish(measurements.with_profile(tiny))
    assert events
    assert loaded.profile is not None


def test_a_model_that_cannot_be_measured_works_and_says_so(tmp_path: Path, tiny: LoadedModel):
    cut = tiny.model.model.norm.register_forward_hook(lambda _m, _i, output: output.detach())
    try:
        _, loaded = finish(Measurements(tmp_path).with_profile(tiny))
    finally:
        cut.remove()
    assert loaded.profile is None
    assert "could not be measured" in loaded.notes[-1]


def test_a_report_is_kept_for_the_model_and_device(tmp_path: Path, tiny: LoadedModel):
    measurements = Measurements(tmp_path)
    assert measurements.report(tiny) is None
    _, report = finish(measurements.self_test(tiny))
    assert measurements.report(tiny) == report
