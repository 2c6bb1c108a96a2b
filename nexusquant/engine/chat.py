"""A chat: turns of a user and a model on one growing conversation.

Knows roles and turns. Must not know widgets. Reading again what the cache lost (another preset,
an edited turn) happens inside `Conversation`, by comparing texts.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

from nexusquant.cache import CacheUsage
from nexusquant.chat_config import chat_config
from nexusquant.config import CompressionConfig, RopeScaling, SamplingParams
from nexusquant.engine.chat_template import well_formed
from nexusquant.engine.events import Event, Finished, TextDelta
from nexusquant.engine.messages import Message
from nexusquant.engine.stats import GenerationStats
from nexusquant.engine.turns import LARGE_CHARACTERS, Order
from nexusquant.engine.worker import Job
from nexusquant.errors import TooManyJobsError

if TYPE_CHECKING:
    from nexusquant.engine.conversation import Conversation
    from nexusquant.engine.engine import Engine


class ChatSession:
    """Turns on one growing compressed cache.

    Args:
        engine: Runs the turns.
        config: What to compress.
        system_prompt: Said to the model before everything else; empty leaves it out.
        scaling: How positions are scaled, for a chat beyond the trained length; None: not at all.
        moment: What a chat template that prints date or time prints. It stays the same for the
            whole chat, so that what was read stays its beginning; None: the first question's.
        owner: Whose chat it is, for turns between users; "" is nobody's.

    Attributes:
        moment: As given, or found with the first question; None before it.
    """

    def __init__(
        self,
        engine: Engine,
        config: CompressionConfig,
        *,
        system_prompt: str = "",
        scaling: RopeScaling | None = None,
        moment: datetime | None = None,
        owner: str = "",
    ) -> None:
        self.moment = moment
        self._engine, self._owner = engine, owner
        self._config, self._scaling = config, scaling
        self._system = [Message("system", well_formed(system_prompt))] if system_prompt else []
        self._conversation = self._new_conversation()
        self._messages: list[Message] = []
        self._turns: list[GenerationStats] = []

    @property
    def messages(self) -> list[Message]:
        """User and assistant messages so far; a stopped answer stays, as far as it got."""
        return list(self._messages)

    @property
    def turns(self) -> list[GenerationStats]:
        """Figures of every finished turn, in order."""
        return list(self._turns)

    @property
    def config(self) -> CompressionConfig:
        """What is compressed."""
        return self._config

    def send(self, text: str, params: SamplingParams) -> Job:
        """Ask; the job's events are the answer. A question without an answer gives way to this.

        Raises:
            TooManyJobsError: The owner has asked for too much; nothing has changed.
        """
        before = self.messages
        if self._messages and self._messages[-1].role == "user":
            self._messages.pop()
        self._messages.append(Message("user", well_formed(text)))
        return self._submit(params, before)

    def regenerate(self, params: SamplingParams) -> Job:
        """Answer the last question again, forgetting its answer.

        Raises:
            ValueError: No question was asked yet.
            TooManyJobsError: The owner has asked for too much; nothing has changed.
        """
        before = self.messages
        if self._messages and self._messages[-1].role == "assistant":
            self._messages.pop()
        if not self._messages:
            raise ValueError("There is no question to answer again.")
        return self._submit(params, before)

    def _submit(self, params: SamplingParams, before: list[Message]) -> Job:
        is_large = len(self._messages[-1].content) >= LARGE_CHARACTERS
        order = Order(owner=self._owner, is_large=is_large)
        try:
            return self._engine.submit(lambda: self._answer(params), order)
        except TooManyJobsError:
            self._messages[:] = before
            raise

    def change_config(self, config: CompressionConfig) -> None:
        """Compress otherwise from the next turn on, which reads the conversation again."""
        if config != self._config:
            self._config = config
            self.release()

    @property
    def scaling(self) -> RopeScaling | None:
        """How positions are scaled; None: not at all."""
        return self._scaling

    def change_scaling(self, scaling: RopeScaling | None) -> None:
        """Scale positions otherwise from the next turn on, which reads the conversation again."""
        if scaling != self._scaling:
            self._scaling = scaling
            self.release()

    def clear(self) -> None:
        """Forget everything, and free the cache."""
        self._messages, self._turns, self.moment = [], [], None
        self.release()

    def release(self) -> None:
        """Free the cache and keep the words: the next turn reads them again."""
        self._conversation = self._new_conversation()

    def usage(self) -> CacheUsage | None:
        """The cache at the end of the last finished turn; None before the first."""
        return self._turns[-1].usage if self._turns else None

    def _new_conversation(self) -> Conversation:
        return self._engine.new_conversation(chat_config(self._config), self._scaling)

    def _answer(self, params: SamplingParams) -> Events[Event, None, None]:
        conversation, messages = self._conversation, self._messages
        moment = self.moment = self.moment or datetime.now()
        prompt = self._engine.render(
            [*self._system, *messages], add_generation_prompt=True, moment=moment
        )
        answer, is_finished = "", False
        try:
            with closing(conversation.reply(prompt, params, self._pinned_of(prompt))) as events:
                for event in events:
                    if isinstance(event, TextDelta):
                        answer += event.text
                    elif isinstance(event, Finished):
                        is_finished = True
                        self._turns.append(event.stats)
                    yield event
        finally:
            # a clear() meanwhile has put another list in place: this answer belongs to the old one
            if answer or is_finished:
                messages.append(Message("assistant", answer))

    def _pinned_of(self, prompt: str) -> str:
        """The prompt up to the end of what the model is told first."""
        told = self._engine.harmless(self._system[0].content.strip()) if self._system else ""
        return prompt[: prompt.find(told) + len(told)] if told and told in prompt else ""
