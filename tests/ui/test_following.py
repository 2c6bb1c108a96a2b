"""Following a job from start to end, whoever watches."""

from __future__ import annotations

import threading
import time

import pytest
from fake_engine import FakeEngine, Script, numbered_words, out_of_memory

from nexusquant.config import PRESETS, SamplingParams
from ui.following import Follower, Phase, run_once

ALL_WORDS = numbered_words("", PRESETS["off"])


def reply(engine: FakeEngine, text: str = "a question"):
    conversation = engine.new_conversation(PRESETS["safe"])
    return lambda: engine.submit(lambda: conversation.reply(text, SamplingParams()))


def wait_for(condition, timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def test_the_whole_answer_is_kept_although_nobody_watches(engine):
    follower = Follower(reply(engine))
    assert follower.wait(5)
    now = follower.snapshot()
    assert (now.phase, now.text) == (Phase.DONE, ALL_WORDS)
    assert now.finished.stats.num_new_tokens == 12


def test_two_watchers_see_the_same_text_in_order(engine, script):
    script.token_delay_s = 0.01
    follower = Follower(reply(engine))
    seen: dict[int, list[str]] = {1: [], 2: []}

    def watch(number: int) -> None:
        seen[number] = [now.text for now in follower.snapshots(0.01)]

    watchers = [threading.Thread(target=watch, args=(n,)) for n in seen]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join(5)
    for texts in seen.values():
        assert texts[-1] == ALL_WORDS
        assert all(ALL_WORDS.startswith(text) for text in texts)
        assert texts == sorted(texts, key=len)


def test_a_snapshot_comes_at_once_even_while_the_engine_is_busy(engine, script):
    script.chunk_delay_s = 0.5
    Follower(reply(engine))
    began = time.monotonic()
    next(Follower(reply(engine)).snapshots())
    assert time.monotonic() - began < 0.2


def test_stop_during_prefill_ends_within_a_chunk(engine, script):
    script.chunk_delay_s, script.chunk_tokens = 0.05, 1
    follower = Follower(reply(engine, "word " * 200))
    wait_for(lambda: follower.snapshot().progress is not None)
    began = time.monotonic()
    follower.stop()
    assert follower.wait(2)
    assert time.monotonic() - began < 0.5
    assert follower.snapshot().phase is Phase.STOPPED


def test_stop_keeps_the_text_written_so_far(engine, script):
    script.token_delay_s = 0.05
    follower = Follower(reply(engine))
    wait_for(lambda: "two" in follower.snapshot().text)
    follower.stop()
    assert follower.wait(2)
    text = follower.snapshot().text
    assert text.startswith("one two")
    assert text != ALL_WORDS


def test_stop_before_the_model_is_there_never_reaches_the_engine(engine):
    follower = Follower(reply(engine), may_begin=lambda: False)
    wait_for(lambda: follower.snapshot().phase is Phase.LOADING)
    follower.stop()
    assert follower.wait(2)
    assert follower.snapshot().phase is Phase.STOPPED
    assert engine.prompts == []


def test_a_request_behind_another_knows_its_place(engine, script):
    script.token_delay_s = 0.05
    first = Follower(reply(engine))
    wait_for(lambda: first.snapshot().text != "")
    second = Follower(reply(engine))
    wait_for(lambda: second.snapshot().phase is Phase.WAITING)
    assert second.snapshot().position == 1
    first.stop()
    assert second.wait(5)
    assert second.snapshot().text == ALL_WORDS


def test_out_of_memory_is_reported_and_the_next_request_works(engine, script):
    script.fail_next = out_of_memory()
    failed = Follower(reply(engine))
    assert failed.wait(5)
    assert failed.snapshot().phase is Phase.FAILED
    assert str(failed.snapshot().error) == str(out_of_memory())
    again = Follower(reply(engine))
    assert again.wait(5)
    assert again.snapshot().text == ALL_WORDS


def test_what_goes_wrong_before_the_job_is_reported_too(engine):
    def begin():
        raise ValueError("No pages were chosen.")

    follower = Follower(begin)
    assert follower.wait(2)
    assert (follower.snapshot().phase, str(follower.snapshot().error)) == (
        Phase.FAILED,
        "No pages were chosen.",
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_end_is_called_once_however_it_ended(engine, script, fails):
    script.fail_next = ValueError("too long") if fails else None
    ends = []
    follower = Follower(reply(engine), at_end=lambda last: ends.append(last.phase.is_over))
    assert follower.wait(5)
    assert ends == [False]


def test_no_snapshot_says_it_is_over_before_the_end_was_dealt_with(engine):
    may_end = threading.Event()
    follower = Follower(reply(engine), at_end=lambda _: may_end.wait(5))
    seen = follower.snapshots(interval_s=0.01)
    wait_for(lambda: follower.snapshot().finished)
    assert not follower.snapshot().phase.is_over
    may_end.set()
    assert [now.phase.is_over for now in seen][-1]
    assert follower.is_over


def test_a_second_step_runs_only_after_the_first_ended_well(engine, script):
    both = Follower(reply(engine, "first"), reply(engine, "second"))
    assert both.wait(5)
    assert engine.prompts == ["first", "second"]
    script.fail_next = ValueError("too long")
    broken = Follower(reply(engine, "third"), reply(engine, "fourth"))
    assert broken.wait(5)
    assert engine.prompts == ["first", "second", "third"]
    assert broken.snapshot().phase is Phase.FAILED


def test_run_once_does_its_work_in_the_engines_turn(engine):
    threads = []
    job = engine.submit(lambda: run_once(lambda: threads.append(threading.current_thread().name)))
    assert job.wait(2)
    assert threads == ["nexusquant-engine"]


def test_the_fake_engine_would_notice_two_jobs_at_once(script):
    # the fuzz tests rest on this counter, so it must be able to fail
    engine, other = FakeEngine(script), FakeEngine(Script(numbered_words))
    conversation = engine.new_conversation(PRESETS["off"])
    script.token_delay_s = 0.05
    job = engine.submit(lambda: conversation.reply("a", SamplingParams()))
    wait_for(lambda: engine.prompts == ["a"])
    other._busy = engine._busy
    other.submit(lambda: conversation.reply("b", SamplingParams())).wait(5)
    job.wait(5)
    assert other.num_overlaps == 1
    engine.close()
    other.close()
