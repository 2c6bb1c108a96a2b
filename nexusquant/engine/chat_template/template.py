"""The chat template of a model: messages in, the text that the model was taught to read out.

Knows roles, thoughts and what templates differ in. Must not know models, caches or pages.

A template never sees what people wrote. It is given numbers in place of texts and writes the words
around them; the texts, made harmless, are put in afterwards. So nothing in a text can change what
the template does, a long document costs a template nothing, and the tokens that act are its own.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from nexusquant.engine.chat_template.harmless_text import HarmlessText, well_formed
from nexusquant.engine.chat_template.process import (
    TemplateError,
    TemplateExcessError,
    TemplateProcess,
)
from nexusquant.engine.messages import Message
from nexusquant.engine.models import printable
from nexusquant.errors import UnsupportedModelError

_ROLES = ("system", "user", "assistant")
_MAX_NAMED = 4
# how models without a template are asked
_PLAIN = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}{{ '\n' }}"
    "{% if add_generation_prompt or not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
# digits, which no template turns into others, and which no text is likely to be
_PLACE = "7301948265"
_NUMBERED = re.compile(rf"{_PLACE}(\d{{6}})")
# a template that repeats what is said many times over is not meant to be used
_MAX_REPEATED = 4
_MAX_OWN_CHARACTERS = 1_000_000
_MAX_TOKEN = 4096
_MAX_REASON = 400

# a model's thought at the beginning of its answer; a prompt may have opened it
_THOUGHT = re.compile(r"(\s*<think>)?(.*?)(</think>)", re.DOTALL)
_OPEN_THOUGHT = re.compile(
    r"(?P<open>[<\[◁]\|?)(?P<name>[\w:]*(?:think|thought|reason)\w*)(?P<close>\|?[>\]▷])\s*\Z",
    re.IGNORECASE,
)
_BEGINNINGS = {"START_": "END_", "begin_of_": "end_of_"}
_OPEN_CHANNEL = re.compile(r"<\|channel>thought\s*\Z")
# words in a template's code by which a user switches a way of answering on or off
_SWITCH = re.compile(r"""["'](/\w{1,32})["']""")

_MARKS = (
    re.compile(r"<{1,2}[^<>\s]{1,60}>{1,2}"),
    re.compile(r"\[/?[A-Za-z_]{2,40}\]"),
    # "USER:", "### Response:" in front of what is said
    re.compile(r"(?:#+ ?)?[A-Za-z]\w{0,30}:(?=\s*\Z)"),
)


def thought_closing(prompt: str) -> str:
    """Give what must stand between a prompt and an answer that is begun for the model.

    Args:
        prompt: As a template writes it. It may end with the beginning of a thought.

    Returns:
        The end of that thought; empty if none is open.
    """
    if _OPEN_CHANNEL.search(prompt):
        return "<channel|>"
    found = _OPEN_THOUGHT.search(prompt)
    if found is None:
        return ""
    name = found["name"]
    beginning = next((word for word in _BEGINNINGS if name.startswith(word)), "")
    end = _BEGINNINGS.get(beginning, "/") + name.removeprefix(beginning)
    return f"\n{found['open']}{end}{found['close']}\n\n"


@dataclass(frozen=True)
class _Habits:
    """What a template turned out to do.

    Args:
        process: Runs it.
        switches: Words in a system prompt that it looks for.
        is_in_parts: A message's content is a list of parts, as for models that take pictures.
        has_system: A system prompt is written once, before what the user says first.
        frames: What it writes around texts.
        after_answer: What it writes after an answer.
    """

    process: TemplateProcess
    switches: tuple[str, ...]
    is_in_parts: bool
    has_system: bool
    frames: tuple[str, ...]
    after_answer: str


class ChatTemplate:
    """Writes chats for one model. Its template is tried when it is first needed.

    Args:
        tokenizer: Of the model, with its template.
        name: What to call the model in messages.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name
        self._texts = HarmlessText(tokenizer)
        self._lock = threading.Lock()
        self._habits: _Habits | None = None

    @property
    def end_ids(self) -> frozenset[int]:
        """The control token that the template writes after an answer, if it writes one.

        Raises:
            UnsupportedModelError: The template cannot be used; the message says why.
        """
        end = self._texts.leading_control(self._known().after_answer)
        return frozenset() if end is None else frozenset({end})

    def harmless(self, text: str, before: str = "", after: str = "") -> str:
        """Give a text in which no string acts as a control token; see `HarmlessText.of`."""
        self._known()
        return self._texts.of(text, before, after)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        moment: datetime | None = None,
    ) -> str:
        """Write messages the way the model was taught to read them.

        Args:
            messages: In order, as they were typed.
            add_generation_prompt: End with the beginning of an answer.
            moment: What a template that prints date or time prints; None: now. Texts that are to
                begin alike need the same.

        Raises:
            ValueError: An unknown role.
            UnsupportedModelError: The template fails, does not end, or leaves a message out.
        """
        habits, texts = self._known(), _Texts()
        dicts = [
            _as_dict(role, said, habits.is_in_parts)
            for role, said in _turns(messages, habits, texts)
        ]
        try:
            written = habits.process.render(
                dicts,
                add_generation_prompt=add_generation_prompt,
                moment=moment or datetime.now(),
            )
            return self._put_in(texts, well_formed(written))
        except TemplateError as error:
            raise self._unusable(error) from error

    def _put_in(self, texts: _Texts, written: str) -> str:
        """Put texts in place of their numbers."""
        first, *rest = _NUMBERED.split(written)
        numbers, frames = [int(number) for number in rest[::2]], rest[1::2]
        if not texts.needed <= set(numbers):
            raise TemplateError("leaves out or alters what a message says")
        wanted = [texts.said[number] for number in numbers if number < len(texts.said)]
        most = _MAX_REPEATED * sum(map(len, texts.said)) + _MAX_OWN_CHARACTERS
        if sum(map(len, wanted)) > most:
            raise TemplateError("repeats what a message says again and again")
        parts, end = [first], first
        for number, frame in zip(numbers, frames, strict=True):
            said = texts.said[number] if number < len(texts.said) else ""
            said = self._texts.of(said, end, frame)
            parts += [said, frame]
            # longer than any token
            end = (end + said + frame)[-_MAX_TOKEN:]
        return "".join(parts)

    def _known(self) -> _Habits:
        with self._lock:
            if self._habits is None:
                habits = self._learn()
                self._texts.break_up_also(_marks(habits.frames))
                self._habits = habits
            return self._habits

    def _learn(self) -> _Habits:
        failure: TemplateError | None = None
        variables = self._tokenizer.special_tokens_map
        for source in _sources(self._tokenizer.chat_template):
            try:
                return _learn_habits(source, TemplateProcess(source, variables))
            except TemplateError as error:
                failure = failure or error
        raise self._unusable(failure or TemplateError("is not a text"))

    def _unusable(self, error: TemplateError) -> UnsupportedModelError:
        # a template words its own refusals, and a folder may have any name
        name, reason = printable(self._name), printable(str(error), _MAX_REASON)
        return UnsupportedModelError(
            f"The chat template of {name} {reason}. Choose another model, or replace its template."
        )


class _Texts:
    """What is said in a chat, by the numbers that stand for it.

    Attributes:
        said: The texts; the place in the list is the number.
        needed: Numbers that a template must write.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.needed: set[int] = set()

    def number(self, text: str, *, is_needed: bool = True) -> str:
        """Give the number of a text, with the blanks around it, which templates may take away."""
        said = text.strip()
        if not said:
            return text
        start, number = text.index(said), len(self.said)
        self.said.append(said)
        if is_needed:
            self.needed.add(number)
        return f"{text[:start]}{_place(number)}{text[start + len(said) :]}"


def _place(number: int) -> str:
    return f"{_PLACE}{number:06d}"


def _turns(
    messages: Sequence[Message], habits: _Habits, texts: _Texts
) -> Iterator[tuple[str, str]]:
    """Give role and numbered content; a template without a system role has it before the user's."""
    waiting = ""
    for message in messages:
        if message.role not in _ROLES:
            raise ValueError(f"Role {message.role!r} is unknown; give one of {', '.join(_ROLES)}.")
        if message.role == "assistant":
            yield "assistant", _numbered_answer(message.content, texts)
        elif message.role == "system" and not habits.has_system:
            waiting += f"{texts.number(message.content)}\n\n"
        elif message.role == "system":
            yield "system", _numbered_instructions(message.content, habits, texts)
        else:
            yield "user", waiting + texts.number(message.content)
            waiting = ""
    if waiting:
        yield "user", waiting.rstrip()


def _numbered_answer(text: str, texts: _Texts) -> str:
    """Leave the marks of a model's thought in place: templates take past thoughts out by them."""
    found = _THOUGHT.match(text)
    if found is None:
        return texts.number(text)
    thought = texts.number(found[2], is_needed=False)
    return f"{found[1] or ''}{thought}{found[3]}{texts.number(text[found.end() :])}"


def _numbered_instructions(text: str, habits: _Habits, texts: _Texts) -> str:
    words = set(text.split())
    switches = [switch for switch in habits.switches if switch in words]
    return " ".join([texts.number(text), *switches])


def _as_dict(role: str, content: str, is_in_parts: bool) -> dict[str, object]:
    parts = [{"type": "text", "text": content}]
    return {"role": role, "content": parts if is_in_parts else content}


def _sources(template: object) -> list[str]:
    """List the templates to try, the likeliest first."""
    if template is None:
        return [_PLAIN]
    named = template if isinstance(template, dict) else {"default": template}
    names = sorted(named, key=lambda name: (name != "default", name in ("tool_use", "rag")))
    sources = [named[name] for name in names if isinstance(named[name], str)]
    return sources[:_MAX_NAMED]


class _Trial:
    """Short chats, written with a template that is not known yet."""

    def __init__(self, process: TemplateProcess) -> None:
        self._process = process
        self.is_in_parts = False

    def write(self, *roles: str) -> str:
        """Write a chat of these roles; what the message at place n says is its number."""
        messages = [_as_dict(role, _place(n), self.is_in_parts) for n, role in enumerate(roles)]
        return self._process.render(messages, add_generation_prompt=True, moment=datetime.now())

    def attempt(self, *roles: str) -> str:
        """Write a chat of these roles; empty if the template refuses it."""
        try:
            return self.write(*roles)
        except TemplateExcessError:
            raise
        except TemplateError:
            return ""

    def find_form(self) -> str:
        """Find the form of messages that the template reads; return a question in it."""
        for self.is_in_parts in (False, True):
            question = self.attempt("user")
            if _place(0) in question:
                return question
        self.is_in_parts = False
        # if the template refuses a question, then in its own words
        self.write("user")
        raise TemplateError("leaves out or alters what a message says")


def _learn_habits(source: str, process: TemplateProcess) -> _Habits:
    """Try a template on short chats."""
    trial = _Trial(process)
    question = trial.find_form()
    chat = trial.attempt("user", "assistant", "user")
    told, has_system = _try_system(trial)
    after_answer = chat.partition(_place(1))[2].partition(_place(2))[0]
    return _Habits(
        process,
        switches=tuple(dict.fromkeys(_SWITCH.findall(source))),
        is_in_parts=trial.is_in_parts,
        has_system=has_system,
        frames=tuple(frame for text in (question, chat, told) for frame in _frames(text)),
        after_answer=after_answer,
    )


def _try_system(trial: _Trial) -> tuple[str, bool]:
    """Write a chat with a system prompt; tell whether it stands first, once, as one of its own."""
    for rest in (("user", "assistant", "user"), ("user",)):
        told = trial.attempt("system", *rest)
        if told:
            order = _NUMBERED.findall(told)
            is_first = order[:1] == ["000000"] and order.count("000000") == 1
            # a template that knows two roles takes whatever is not the one for the other
            taken_for = [trial.attempt(role, *rest) for role in ("user", "assistant")]
            return told, is_first and told not in taken_for
    return "", False


def _frames(written: str) -> list[str]:
    return _NUMBERED.split(written)[::2]


def _marks(frames: Sequence[str]) -> set[str]:
    """Find what a template writes around texts to tell turns apart."""
    return {mark for frame in frames for pattern in _MARKS for mark in pattern.findall(frame)}
