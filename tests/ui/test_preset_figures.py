"""The self-test's figures in sentences and in the table."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fake_engine import fake_report, out_of_memory

from nexusquant.config import PRESETS, QuantConfig
from nexusquant.engine import KL_LIMIT, SelfTestProgress
from ui import preset_figures
from ui.following import Phase, Snapshot

REPORT = fake_report()
OWN = replace(PRESETS["safe"], quant=QuantConfig(key_bits=3.0, value_bits=1.5))


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html.split("<tbody>")[1])
    return [
        [
            re.sub("<[^>]+>", "", cell).replace("\xa0", " ")
            for cell in re.findall(r"<t[hd].*?>.*?</t[hd]>", row)
        ]
        for row in rows
    ]


def test_the_sentence_carries_the_figures_of_this_preset_on_this_model():
    text = preset_figures.picker_text(PRESETS["balanced"], REPORT).replace("\xa0", " ")
    share = PRESETS["balanced"].eviction.keep_ratio
    assert f"{share * 100:g} % of the codes of a long text are kept" in text
    assert (
        "On this model: 15.9× smaller, KL 0.029 (repeated passage 0.041), same top word 93.4 %."
    ) in text
    assert "nq-warn" not in text


def test_an_unsafe_preset_in_use_is_warned_of():
    assert "Max is unsafe for this model" in preset_figures.picker_text(PRESETS["max"], REPORT)


@pytest.mark.parametrize("name", ["safe", "high", "balanced", "max"])
def test_what_was_not_tested_says_so_and_promises_nothing(name):
    text = preset_figures.picker_text(PRESETS[name], None)
    assert "Not yet tested on this model." in text
    assert "×" not in text
    assert "KL" not in text


def test_off_is_the_reference_and_has_no_figures():
    for report in (None, REPORT):
        text = preset_figures.picker_text(PRESETS["off"], report)
        assert "reference" in text
        assert "tested" not in text


def test_values_of_ones_own_have_no_figures_of_a_preset():
    text = preset_figures.picker_text(OWN, REPORT)
    assert "3-bit keys and 1.5-bit values" in text
    assert "Own values are not tested" in text
    assert "On this model" not in text


def test_only_an_unsafe_preset_is_marked_in_its_label():
    labels = [preset_figures.picker_label(name, REPORT) for name in PRESETS]
    assert labels == ["Off", "Safe", "High", "Balanced", "Max (unsafe here)"]
    assert preset_figures.picker_label("max", None) == "Max"


def test_what_was_evicted_alone_can_make_a_preset_unsafe():
    measured = replace(REPORT.of("safe"), recall_kl=2 * KL_LIMIT)
    assert preset_figures.is_unsafe("safe", replace(REPORT, presets=[measured]))


def test_the_question_names_the_worse_figure_and_the_limit():
    text = preset_figures.ask_about("max", REPORT)
    assert f"Max is unsafe for this model: KL 0.413, where {KL_LIMIT} is the limit." in text
    assert 'role="alert"' in text
    assert preset_figures.ask_about(None, REPORT) == ""
    assert preset_figures.keep_label(PRESETS["safe"]) == "Keep Safe"
    assert preset_figures.keep_label(OWN) == "Keep own values"


def test_the_table_has_a_row_per_preset_with_all_its_figures():
    html = preset_figures.report_table(REPORT)
    assert cells(html) == [
        ["Safe fits this model", "6.9×", "0.006", "0.008", "97.1 %"],
        ["High fits this model", "9.9×", "0.011", "0.020", "95.5 %"],
        ["Balanced fits this model", "15.9×", "0.029", "0.041", "93.4 %"],
        ["Max unsafe for this model", "28.4×", "0.121", "0.413", "81.1 %"],
    ]
    assert "1,536 tokens in the cache and 384 tokens after them" in html
    assert f"above {KL_LIMIT}" in html
    assert preset_figures.report_table(None) == ""


@pytest.mark.parametrize("away", [0.0004, -0.0004])
def test_rounding_never_hides_that_the_limit_is_exceeded(away):
    text = preset_figures.kl_text(KL_LIMIT + away)
    assert (float(text) > KL_LIMIT) == (away > 0)


@pytest.mark.parametrize(("kl", "text"), [(0.00631, "0.006"), (3.28, "3.280")])
def test_three_decimals_do_elsewhere(kl, text):
    assert preset_figures.kl_text(kl) == text


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (Snapshot(Phase.WAITING), "Testing presets. Questions go first."),
        (
            Snapshot(Phase.READING, progress=SelfTestProgress("balanced", 1, 4)),
            "Testing presets: balanced (2 of 4)",
        ),
        (
            Snapshot(Phase.READING, progress=SelfTestProgress("max", 4, 4)),
            "Testing presets: max (4 of 4)",
        ),
        (Snapshot(Phase.STOPPING), "Stopping the test."),
        (Snapshot(Phase.STOPPED), "Nothing of it was kept."),
        (Snapshot(Phase.FAILED, error=out_of_memory()), "could not be tested: The device ran out"),
    ],
)
def test_every_state_of_the_test_is_said_in_words(now, words):
    assert words in preset_figures.testing_status(now)


def test_a_test_that_went_well_needs_no_notice():
    assert preset_figures.testing_status(Snapshot(Phase.DONE)) == ""
    assert preset_figures.testing_status(None) == ""


@pytest.mark.parametrize(
    ("report", "given", "default", "words", "kind"),
    [
        (REPORT, None, "balanced", "begin with Balanced, the strongest that fits", "nq-info"),
        (fake_report(safe=1.0), None, "safe", "No preset fits this model", "nq-warn"),
        (REPORT, "max", "max", "as --preset asks. It is unsafe for this model.", "nq-warn"),
        (REPORT, "off", "off", "begin with Off, as --preset asks.", "nq-info"),
        (None, "max", "max", "begin with Max, as --preset asks.", "nq-info"),
    ],
)
def test_the_preset_of_pages_to_come_is_told_with_its_reason(report, given, default, words, kind):
    text = preset_figures.default_line(report, given, default)
    assert words in text
    assert kind in text
