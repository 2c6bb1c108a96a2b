"""Numbers and errors in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_engine import fake_usage, out_of_memory

from nexusquant.config import (
    PRESETS,
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    ScorerName,
)
from nexusquant.engine import GenerationStats, MemoryReading
from ui import presenters

MEMORY = MemoryReading("a card", 8_000_000_000, 6_000_000_000, 1_500_000_000)


def stats_of(num_tokens: int, preset: str) -> GenerationStats:
    return GenerationStats(
        300, 40, 0.42, 712.4, 38.25, fake_usage(num_tokens, PRESETS[preset]), MEMORY
    )


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 KB"),
        (15_360, "15.4 KB"),
        (310_000_000, "310 MB"),
        (999_400_000, "999 MB"),
        (999_600_000, "1.00 GB"),
        (1_900_000_000, "1.90 GB"),
        (5_000_000_000_000, "5,000 GB"),
    ],
)
def test_bytes_have_a_unit_and_the_figures_that_matter(num_bytes, text):
    assert presenters.byte_size(num_bytes) == text


@pytest.mark.parametrize(
    ("position", "text"),
    [(0, "Next in line"), (1, "2nd in line"), (2, "3rd in line"), (3, "4th in line"),
     (10, "11th in line"), (11, "12th in line"), (20, "21st in line"), (21, "22nd in line")],
)  # fmt: skip
def test_the_place_in_line_reads_as_people_count(position, text):
    assert presenters.place_in_line(position) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0.42, "0.42 s"), (42, "42 s"), (75, "1 min 15 s"), (3_700, "1 h 1 min")],
)
def test_durations_change_unit_with_their_size(duration_s, text):
    assert presenters.seconds(duration_s) == text


def test_the_time_left_is_admitted_to_be_unknown():
    assert presenters.time_left(None) == "estimating the time left"
    assert presenters.time_left(2) == "a few seconds left"
    assert presenters.time_left(75) == "about 1 min 15 s left"


def test_memory_saved_names_both_sizes_and_the_measured_factor():
    usage = fake_usage(1000, PRESETS["balanced"])
    expected = usage.uncompressed_bytes / usage.stored_bytes
    text = presenters.memory_saved(usage)
    assert text.startswith("2.05 MB → ")
    assert text.endswith(f", {expected:.1f}×")


def test_a_factor_below_one_is_not_hidden():
    assert presenters.factor(0.914) == "0.91×"


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_has_a_label_and_is_found_by_its_values(name):
    assert presenters.preset_name(PRESETS[name]) == name
    assert presenters.config_label(PRESETS[name]) == presenters.PRESET_LABELS[name]


@pytest.mark.parametrize("name", list(PRESETS))
def test_no_preset_text_promises_a_factor(name):
    text = presenters.describe_config(PRESETS[name])
    assert "×" not in text
    assert "times" not in text


def test_a_preset_text_says_what_is_done_and_what_it_risks():
    config = CompressionConfig(quant=QuantConfig(), eviction=EvictionConfig(keep_ratio=0.125))
    text = presenters.describe_config(config).replace("\xa0", " ")
    assert text == (
        "2-bit keys and 2-bit values on average; 12.5 % of the codes of a long text are kept. "
        "Long texts are read twice to choose them. "
        "A chat keeps every token until it holds 650 of them, then 6 % of the old ones stay. "
        "For summaries only; single facts are often lost."
    )
    once = replace(config, eviction=replace(config.eviction, scorer=ScorerName.SNAPKV))
    assert "chat" not in presenters.describe_config(once)
    assert "Every token is kept" in presenters.describe_config(PRESETS["safe"])


@pytest.mark.parametrize(
    ("weaker", "stronger"), [("safe", "high"), ("high", "balanced"), ("balanced", "max")]
)
def test_a_stronger_preset_carries_a_stronger_warning(weaker, stronger):
    warnings = [presenters.describe_config(PRESETS[n]).split(". ")[-1] for n in (weaker, stronger)]
    assert warnings[0] != warnings[1]


def test_own_values_have_no_preset():
    config = CompressionConfig(
        quant=QuantConfig(key_bits=2.25, value_bits=1.5), eviction=EvictionConfig(keep_ratio=0.9)
    )
    assert presenters.preset_name(config) is None
    assert presenters.config_label(config) == "Custom"
    text = presenters.describe_config(config).replace("\xa0", " ")
    assert "2.25-bit keys and 1.5-bit values on average; 90 %" in text


def test_the_figures_of_a_turn_name_everything_that_was_measured():
    figures = dict(presenters.turn_figures(stats_of(1000, "balanced")))
    assert figures["Read"] == "300 tokens, 712 tok/s"
    assert figures["Answer"] == "40 tokens, 38.2 tok/s"
    assert figures["First token"] == "0.42 s"
    assert figures["In 16 bits"] == "2.05 MB"
    evicted = 1000 * (1 - PRESETS["balanced"].eviction.keep_ratio)
    assert figures["Evicted"] == f"{evicted:.0f} of 1,000 tokens"
    assert figures["This program"] == "1.50 GB"
    assert figures["Device"] == "2.00 GB of 8.00 GB"
    assert "Steps" not in figures


def test_the_figures_say_why_the_steps_of_a_gpu_were_not_one_graph():
    stats = replace(stats_of(1000, "off"), graph_problem="the cache is not compressed")
    assert "the cache is not compressed" in dict(presenters.turn_figures(stats))["Steps"]


def test_the_csv_has_one_line_per_turn_with_raw_numbers():
    lines = presenters.turns_as_csv([stats_of(100, "safe"), stats_of(200, "safe")]).splitlines()
    assert lines[0].split(",")[0] == "turn"
    cells = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    assert cells["turn"] == "2"
    assert int(cells["stored_bytes"]) == fake_usage(200, PRESETS["safe"]).stored_bytes
    assert cells["evicted_tokens"] == "0"


def test_an_expected_error_is_shown_in_its_own_words():
    assert presenters.explain(ValueError("Choose fewer pages.")) == "Choose fewer pages."
    assert str(out_of_memory()) in presenters.explain(out_of_memory())


def test_an_unexpected_error_shows_no_internals():
    text = presenters.explain(KeyError("/home/somebody/secret"))
    assert "secret" not in text
    assert "KeyError" in text
    assert "kept" in text
