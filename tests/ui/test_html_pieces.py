"""Gauge, notices, tables and pages: right numbers, and nothing foreign left unescaped."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from fake_engine import FAKE_MODEL, fake_usage
from test_presenters import MEMORY, stats_of

from nexusquant.config import PRESETS, CompressionConfig, EvictionConfig, QuantConfig, ScorerName
from nexusquant.documents import Document, Fit, Page, PageCount, ReadProgress
from nexusquant.engine import (
    BlockProgress,
    Finished,
    FinishReason,
    LoadProgress,
    PrefillProgress,
    RereadProgress,
)
from ui import gauge, page_views, plots
from ui.differences import first_difference, marked
from ui.following import Phase, Snapshot

EVIL = '<img src=x onerror="alert(1)">&"\''


class Tags(HTMLParser):
    """Collects the names of all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


@pytest.mark.parametrize(
    "made",
    [
        gauge.notice(EVIL, "error"),
        gauge.model_line(replace(FAKE_MODEL, name=EVIL, notes=(EVIL,)), MEMORY, None, EVIL),
        gauge.model_line(None, None, LoadProgress(EVIL, 0.5), None),
        gauge.request_status(Snapshot(Phase.FAILED, error=ValueError(EVIL))),
        gauge.meter(EVIL, 0.5, EVIL),
        page_views.page_text(Page(1, EVIL), 0.5),
        page_views.document_card(Document(EVIL, "text", (Page(1, EVIL),), "00"), None),
        marked(f"a {EVIL} b", 1),
    ],
)
def test_foreign_text_never_becomes_an_element(made):
    tags = Tags(made)
    assert "img" not in tags.names
    assert "alert(1)" in made


def test_room_ends_with_the_context_when_memory_is_plenty():
    usage = fake_usage(500, PRESETS["balanced"])
    assert gauge.room_left(usage, FAKE_MODEL, MEMORY) == gauge.Room(2048 - 500, "context")


def test_room_ends_with_memory_at_the_measured_bytes_per_token():
    usage = fake_usage(500, PRESETS["balanced"])
    memory = replace(MEMORY, device_free_bytes=usage.stored_bytes * 2)
    assert gauge.room_left(usage, FAKE_MODEL, memory) == gauge.Room(1000, "memory")


def test_an_empty_cache_has_the_whole_context_for_room():
    assert gauge.room_left(None, FAKE_MODEL, MEMORY) == gauge.Room(2048, "context")


def test_the_gauge_is_a_meter_with_its_value_in_words():
    html = gauge.gauge(fake_usage(512, PRESETS["balanced"]), FAKE_MODEL, MEMORY)
    assert 'role="meter"' in html
    assert 'aria-valuenow="25"' in html
    assert 'aria-valuetext="512 of 2,048 tokens of context"' in html
    assert "Fits <b>1,536</b> more tokens" in html


def test_the_gauge_shows_no_factor_before_one_was_measured():
    assert "×" not in gauge.gauge(None, FAKE_MODEL, MEMORY)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (Snapshot(Phase.LOADING), "waits until the model is loaded"),
        (Snapshot(Phase.WAITING, position=1), "2nd in line"),
        (Snapshot(Phase.READING, progress=PrefillProgress(320, 1240, 1.0)), "320 of 1,240 tokens"),
        (
            Snapshot(Phase.READING, progress=RereadProgress(1024, 5000, 2.6)),
            "Reading again to see what matters: 1,024 of 5,000 tokens, about 10 s left",
        ),
        (Snapshot(Phase.STOPPING, progress=RereadProgress(1, 9, 1.0)), "Stopping"),
        (Snapshot(Phase.ANSWERING, text="two words"), "2 words"),
        (Snapshot(Phase.STOPPED), "is kept"),
    ],
)
def test_every_state_of_a_request_is_said_in_words(now, words):
    assert words in gauge.request_status(now)


def test_reading_tells_speed_and_time_left():
    text = gauge.request_status(Snapshot(Phase.READING, progress=PrefillProgress(100, 3100, 1.0)))
    assert "100 tok/s" in text
    assert "about 30 s left" in text


def test_readings_of_a_text_in_blocks_share_one_meter_and_one_time():
    block = BlockProgress(2, 8, 0.25)
    for progress in (PrefillProgress(900, 3200, 6.0, block), RereadProgress(800, 3100, 6.0, block)):
        text = gauge.request_status(Snapshot(Phase.READING, progress=progress))
        assert "tokens (part 2 of 8)" in text
        assert "about 18 s left" in text
        assert 'aria-valuenow="25"' in text


def test_the_page_being_read_is_told_with_the_block_it_is_in():
    progress = ReadProgress(3, 9, 900, 3200, 150.0, 18.0, BlockProgress(2, 8, 0.25))
    text = page_views.reading(progress, PRESETS["balanced"])
    assert "Reading page 3" in text
    assert "part 2 of 8" in text
    assert "first of two" not in text
    assert 'aria-valuenow="25"' in text


def test_the_second_reading_is_a_meter_of_its_own_and_may_begin_without_a_speed():
    text = gauge.request_status(Snapshot(Phase.READING, progress=RereadProgress(1, 4, 0.0)))
    assert "estimating the time left" in text
    assert 'aria-label="Reading again"' in text
    assert 'aria-valuenow="25"' in text


def evicting(scorer: ScorerName) -> CompressionConfig:
    return CompressionConfig(
        quant=QuantConfig(), eviction=EvictionConfig(keep_ratio=0.3, scorer=scorer)
    )


@pytest.mark.parametrize(
    ("config", "num_tokens", "is_told"),
    [
        (PRESETS["balanced"], 5000, True),
        (PRESETS["balanced"], 200, False),
        (PRESETS["safe"], 5000, False),
        (evicting(ScorerName.SNAPKV), 5000, False),
    ],
)
def test_the_time_left_says_when_it_is_that_of_the_first_of_two_readings(
    config, num_tokens, is_told
):
    text = page_views.reading(ReadProgress(1, 9, 100, num_tokens, 100.0, 20.0), config)
    assert "about 20 s left" in text
    assert ("first of two readings" in text) is is_told


@pytest.mark.parametrize(
    ("reason", "words"),
    [(FinishReason.LENGTH, "longest length"), (FinishReason.CONTEXT, "context is full")],
)
def test_an_answer_that_was_cut_says_so(reason, words):
    finished = Finished(reason, stats_of(10, "safe"))
    assert words in gauge.request_status(Snapshot(Phase.DONE, finished=finished))


def test_an_answer_that_ended_by_itself_needs_no_notice():
    finished = Finished(FinishReason.END, stats_of(10, "safe"))
    assert gauge.request_status(Snapshot(Phase.DONE, finished=finished)) == ""


def test_a_screen_reader_hears_phases_and_the_length_but_no_text():
    assert ">answering<" in gauge.spoken(Phase.ANSWERING, 5)
    assert ">done, 212 words<" in gauge.spoken(Phase.DONE, 212)


def test_the_table_of_turns_carries_the_same_numbers_as_its_csv():
    html = gauge.turns_table([stats_of(100, "high"), stats_of(300, "high")])
    link = re.search(r'href="data:text/csv;base64,([^"]+)"', html)[1]
    rows = base64.b64decode(link).decode().splitlines()
    assert len(rows) == 3
    assert html.count("<tr>") == 3
    assert "614 KB" in html
    assert rows[2].split(",")[7] == "614400"


def test_the_chart_draws_the_measured_bytes_of_every_turn():
    turns = [stats_of(100, "balanced"), stats_of(200, "balanced")]
    stored, plain = plots.memory_per_turn(turns).data
    assert [round(y * 1e3) for y in plain.y] == [t.usage.uncompressed_bytes for t in turns]
    assert [round(y * 1e3) for y in stored.y] == [t.usage.stored_bytes for t in turns]
    evicted = 1 - PRESETS["balanced"].eviction.keep_ratio
    assert f"{evicted * 100:.0f} % evicted" in stored.text[0].replace("\xa0", " ")


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("background", ["#ffffff", "#18181b"])
def test_the_chart_can_be_read_on_light_and_dark(background):
    figure = plots.memory_per_turn([stats_of(100, "balanced")])
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert contrast(figure.layout.font.color, background) >= 3.0
    assert contrast(plots.STORED_COLOUR, background) >= 3.0


def test_every_page_has_a_cell_with_its_share_in_words():
    html = page_views.page_strip([(1, 1.0), (2, 0.1), (7, 0.5)], PRESETS["balanced"])
    html = html.replace("\xa0", " ")
    assert 'data-page="7" title="Page 7: 50 % kept"' in html
    assert "Least kept: p. 2 (10 %)" in html
    assert html.count("<button") == 3


def test_a_document_that_does_not_fit_is_offered_and_never_cut():
    text = page_views.fit_line(Fit(8000, 4096, 15, False), 105)
    assert "The first 15 of 105 pages would" in text
    assert "Choose pages" in text
    assert "Nothing is cut" in text


def test_pages_without_text_are_named():
    document = Document(
        "scan.pdf", "pdf", (Page(1, "a"), Page(2, "")), "00", notes=("Page 2 has no text.",)
    )
    card = page_views.document_card(document, (PageCount(1, 10, 1), PageCount(2, 0, 0)))
    assert "2 pages, 10 tokens" in card
    assert "Page 2 has no text." in card


@pytest.mark.parametrize(
    ("left", "right", "index"),
    [
        ("a b c", "a b c", None),
        ("a  b\nc", "a b c", None),
        ("a b c", "a x c", 1),
        ("a b", "a b c", 2),
        ("", "a", 0),
        ("", "", None),
    ],
)
def test_the_first_differing_word_is_found(left, right, index):
    assert first_difference(left, right) == index
    assert first_difference(right, left) == index


def test_exactly_the_differing_word_is_marked():
    assert marked("a  b c", 1) == 'a  <mark class="nq-first">b</mark> c'
    assert marked("a b", 2).endswith('<mark class="nq-first">(ends here)</mark>')
    assert marked("a b", None) == "a b"
