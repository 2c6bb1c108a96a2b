"""The chat template of a model: messages in, the text that the model was taught to read out.

Knows roles, thoughts and what templates differ in. Must not know models, caches or pages. What users,
documents and past answers say adds no control token to the text, whatever the template does.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from nexusquant.engine.harmless_text import STRENGTHS, HarmlessText, well_formed
from nexusquant.engine.messages import Message
from nexusquant.engine.template_habits import Habits, Write, learn_habits
from nexusquant.engine.template_process import EndlessTemplateError, TemplateProcess
from nexusquant.errors import UnsupportedModelError

_ROLES = ("system", "user", "assistant")
_MAX_NAMED = 20
# words by which a user switches a way of answering on or off, which templates look for
_SWITCH = re.compile(r"(?<!\S)/\w{1,32}")


class ChatTemplate:
    """Writes chats for one model. Its template is looked at when it is first needed.

    Args:
        tokenizer: Of the model, with its template.
        name: What to call the model in messages.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name
        self._texts = HarmlessText(tokenizer)
        self._lock = threading.Lock()
        self._learned: tuple[Write, Habits] | None = None

    def check(self) -> None:
        """Try the template.

        Raises:
            UnsupportedModelError: It cannot be used; the message names it and says why.
        """
        self._known()

    @property
    def end_ids(self) -> frozenset[int]:
        """The token that the template writes after an answer, if it is one of the added ones."""
        following = self._known()[1].after_answer
        return frozenset(self._texts.controls(following)[:1])

    @property
    def answer_opening(self) -> str:
        """What stands between the end of a prompt and an answer that is begun for the model.

        It closes a thought that the prompt has opened, or names the channel of answers.
        """
        return self._known()[1].answer_opening

    def harmless(self, text: str) -> str:
        """Give a text in which no string acts as a control token; see `HarmlessText.of`."""
        self._known()
        return self._texts.of(text)

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
            UnsupportedModelError: The template fails, does not end, or makes control tokens of
                what the messages say.
        """
        write, habits = self._known()
        turns = _turns(messages, habits)
        when = moment or datetime.now()

        def rendered(contents: Iterable[_Turn]) -> str:
            dicts = [turn.as_template_wants_it(habits) for turn in contents]
            text = write(dicts, add_generation_prompt=add_generation_prompt, moment=when)
            return well_formed(text)

        wanted = self._texts.controls(rendered(turn.map(self._neutral) for turn in turns))
        for strength in STRENGTHS:
            text = rendered(turn.map(lambda said: self._texts.of(said, strength)) for turn in turns)
            if self._texts.controls(text) == wanted:
                return text
        raise UnsupportedModelError(
            f"The chat template of {self._name} makes control tokens of what this message says. "
            "Write it in other words, or choose another model."
        )

    def _neutral(self, text: str) -> str:
        """Words that make a template do what it does for `text`, and say nothing."""
        if not text.strip():
            return text
        return " ".join(["x", *dict.fromkeys(map(self._texts.of, _SWITCH.findall(text)))])

    def _known(self) -> tuple[Write, Habits]:
        with self._lock:
            if self._learned is None:
                self._learned = self._learn()
                self._texts.break_marks(_marks(self._learned[1].frames, self._texts))
            return self._learned

    def _learn(self) -> tuple[Write, Habits]:
        failure: UnsupportedModelError | None = None
        for write in _writers(self._tokenizer, self._name):
            try:
                return write, learn_habits(write, f"The chat template of {self._name}")
            except EndlessTemplateError:
                raise
            except UnsupportedModelError as error:
                failure = failure or error
        raise failure or UnsupportedModelError(f"{self._name} has no chat template that is a text.")


@dataclass(frozen=True)
class _Turn:
    """A message, with a model's thought apart from what it said."""

    role: str
    content: str
    thought: str | None = None

    def map(self, change: Callable[[str], str]) -> _Turn:
        thought = None if self.thought is None else change(self.thought)
        return _Turn(self.role, change(self.content), thought)

    def as_template_wants_it(self, habits: Habits) -> dict[str, object]:
        content = [{"type": "text", "text": self.content}] if habits.is_in_parts else self.content
        turn: dict[str, object] = {"role": self.role, "content": content}
        # the two names that templates know it by
        if self.thought is not None:
            turn |= {"reasoning_content": self.thought, "thinking": self.thought}
        return turn
