"""A text longer than the model was trained on is refused with an offer, and works once accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexusquant.config import PRESETS, RopeScaling, RopeScalingKind, SamplingParams
from nexusquant.engine import (
    ChatSession,
    Conversation,
    Engine,
    Job,
    JobState,
    LoadedModel,
    SelfTestReport,
    TextDelta,
)
from nexusquant.engine.measurements import Measurements
from nexusquant.errors import CacheStateError, ContextLengthError

TRAINED = 128
GREEDY = SamplingParams(max_new_tokens=12, temperature=0)
# ten times what the model was made for
DOCUMENT = "The river ran uphill, and nobody minded it.\n" * 29 + "...."
SCALING = RopeScaling(factor=10.5)


@pytest.fixture(scope="module")
def short(tiny: LoadedModel) -> LoadedModel:
    """The tiny model, trained on 128 tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**tiny.model.config.to_dict(), "max_position_embeddings": TRAINED})
    model = LlamaForCausalLM(config).eval()
    return replace(tiny, model=model, context_length=TRAINED)


def drain(events) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def refusal_of(conversation: Conversation, text: str) -> ContextLengthError:
    with pytest.raises(ContextLengthError) as caught:
        drain(conversation.read(text))
    return caught.value


def test_it_is_refused_with_an_explanation_and_the_offer(short: LoadedModel) -> None:
    conversation = Conversation(short, PRESETS["safe"])
    assert len(DOCUMENT) == 10 * TRAINED
    refusal = refusal_of(conversation, DOCUMENT)
    assert (refusal.num_tokens, refusal.context_length) == (1280, TRAINED)
    # room for an answer is in it
    assert refusal.offers == (
        SCALING,
        RopeScaling(kind=RopeScalingKind.DYNAMIC, factor=10.5),
    )
    for part in ("1,280 tokens", "holds 128", "nothing is cut off", "yarn, factor 10.5"):
        assert part in str(refusal)
    assert conversation.num_tokens == 0


@pytest.mark.parametrize("preset", ["off", "safe", "high"])
@pytest.mark.parametrize("kind", RopeScalingKind)
def test_with_the_offer_accepted_it_is_read_and_asked_about(
    short: LoadedModel, preset: str, kind: RopeScalingKind
) -> None:
    scaling = RopeScaling(kind=kind, factor=10.5)
    conversation = Conversation(short, PRESETS[preset], scaling)
    drain(conversation.read(DOCUMENT))
    assert conversation.num_tokens == 10 * TRAINED
    first = drain(conversation.reply(DOCUMENT + "Why?", GREEDY))
    drain(conversation.reply(DOCUMENT + "Who else?", GREEDY))
    assert drain(conversation.reply(DOCUMENT + "Why?", GREEDY)) == first


def test_a_model_of_4k_reads_40k_once_the_offer_is_accepted(short: LoadedModel) -> None:
    torch.manual_seed(0)
    sizes = {"max_position_embeddings": 4096, "num_hidden_layers": 1, "hidden_size": 32}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    config = LlamaConfig(**short.model.config.to_dict() | {"head_dim": 16} | sizes)
    model = replace(short, model=LlamaForCausalLM(config).eval(), context_length=4096)
    document = (DOCUMENT * 32)[:40_960]
    conversation = Conversation(model, PRESETS["high"])
    refusal = refusal_of(conversation, document)
    assert (refusal.num_tokens, refusal.context_length) == (40_960, 4096)
    assert "yarn, factor 10.5" in str(refusal)
    assert conversation.num_tokens == 0
    conversation = Conversation(model, PRESETS["high"], refusal.offers[0])
    drain(conversation.read(document))
    # no silent cut: every token was read
    assert conversation.num_tokens == 40_960
    assert conversation.usage().num_seen_tokens == 40_960
    drain(conversation.reply(document + "Why?", GREEDY))
    assert conversation.num_tokens > 40_960


@pytest.mark.parametrize("kind", RopeScalingKind)
def test_presets_are_tested_with_scaled_positions(
    tiny: LoadedModel, kind: RopeScalingKind, tmp_path: Path
) -> None:
    scaling = RopeScaling(kind=kind, factor=1.5)
    measurements = Measurements(tmp_path)
    frequencies = tiny.model.get_decoder().rotary_emb.inv_freq
    plain = result_of(measurements.self_test(tiny))
    scaled = result_of(measurements.self_test(tiny, scaling))
    # more of the text is read than the model was made for
    assert plain.num_prefix_tokens < tiny.context_length < scaled.num_prefix_tokens
    assert (plain.scaling, scaled.scaling) == ("", str(scaling))
    assert [preset.preset for preset in scaled.presets] == [p.preset for p in plain.presets]
    assert all(0 < preset.kl < 1 for preset in scaled.presets)
    # each is kept in its place, and the model as it was
    assert measurements.report(tiny) == plain
    assert measurements.report(tiny, scaling) == scaled
    assert measurements.report(tiny, RopeScaling(kind=kind, factor=2)) is None
    assert tiny.model.get_decoder().rotary_emb.inv_freq is frequencies


def result_of(steps) -> SelfTestReport:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_a_scaled_text_has_an_end_too(short: LoadedModel) -> None:
    conversation = Conversation(short, PRESETS["safe"], SCALING)
    refusal = refusal_of(conversation, DOCUMENT * 2)
    assert refusal.context_length == 1344
    assert refusal.offers[0].factor == 20.5


def test_scaled_and_other_conversations_may_take_turns_at_every_token(short: LoadedModel) -> None:
    def conversations() -> tuple[Conversation, Conversation]:
        plain = Conversation(short, PRESETS["safe"])
        scaled = Conversation(short, PRESETS["safe"], SCALING)
        drain(plain.read(DOCUMENT[:80]))
        drain(scaled.read(DOCUMENT))
        return plain, scaled

    plain, scaled = conversations()
    alone = (
        drain(plain.reply(DOCUMENT[:80] + "Why?", GREEDY)),
        drain(scaled.reply(DOCUMENT + "Why?", GREEDY)),
    )
    plain, scaled = conversations()
    one = plain.reply(DOCUMENT[:80] + "Why?", GREEDY)
    other = scaled.reply(DOCUMENT + "Why?", GREEDY)
    pieces = [(a, b) for a, b in zip(one, other, strict=False)]
    together = tuple(drain(events) for events in zip(*pieces, strict=True))
    assert (alone[0].startswith(together[0]), alone[1].startswith(together[1])) == (True, True)
    assert len(together[0]) > 3


def test_a_reading_that_is_stopped_leaves_the_model_as_it_was(short: LoadedModel) -> None:
    before = short.model.get_decoder().rotary_emb.inv_freq
    events = Conversation(short, PRESETS["safe"], SCALING).read(DOCUMENT)
    next(events)
    assert short.model.get_decoder().rotary_emb.inv_freq is before
    events.close()
    assert short.model.get_decoder().rotary_emb.inv_freq is before


def test_a_saved_document_is_opened_with_its_scaling_only(
    short: LoadedModel, tmp_path: Path
) -> None:
    conversation = Conversation(short, PRESETS["safe"], SCALING)
    drain(conversation.read(DOCUMENT))
    expected = drain(conversation.reply(DOCUMENT + "Why?", GREEDY))
    conversation.save(tmp_path / "a.nxq")
    again = Conversation(short, PRESETS["safe"], SCALING)
    again.restore(tmp_path / "a.nxq", DOCUMENT)
    assert drain(again.reply(DOCUMENT + "Why?", GREEDY)) == expected
    with pytest.raises(CacheStateError):
        Conversation(short, PRESETS["safe"]).restore(tmp_path / "a.nxq", DOCUMENT)


@pytest.fixture
def engine(short: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine = Engine(tmp_path, device="cpu")
    monkeypatch.setattr(engine, "_loaded", short)
    yield engine
    engine.close()


def test_a_test_with_scaled_positions_is_found_under_them_only(engine: Engine) -> None:
    scaling = RopeScaling(factor=8)
    report = outcome(engine.self_test(scaling)).result
    assert engine.report_for(scaling) == report
    assert engine.report is engine.report_for(RopeScaling(factor=9)) is None
    # what stands on the disk is not measured again
    again = engine.self_test(scaling)
    assert outcome(again).result == report
    assert sum(map(len, again.batches())) == 0


def outcome(job: Job) -> Job:
    assert job.wait(20)
    return job


def test_a_chat_takes_the_offer_and_is_offered_more_when_it_outgrows_it(engine: Engine) -> None:
    chat = ChatSession(engine, PRESETS["safe"])
    refusal = outcome(chat.send("x" * 600, GREEDY)).error
    assert engine.scalings_for(refusal.num_tokens) == refusal.offers
    assert chat.scaling is None
    chat.change_scaling(refusal.offers[0])
    assert outcome(chat.send("x" * 600, GREEDY)).state is JobState.DONE
    assert chat.scaling == RopeScaling(factor=5)
    again = outcome(chat.send("And then?", GREEDY)).error
    assert again.context_length == 5 * TRAINED
    chat.change_scaling(again.offers[0])
    assert outcome(chat.send("And then?", GREEDY)).state is JobState.DONE
    assert chat.turns[-1].usage.num_seen_tokens > 5 * TRAINED
    # what was said before the refusal is still there
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
