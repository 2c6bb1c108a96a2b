"""The engine: one model, one thread, and what conversations need of both.

Knows how the parts of this package fit together. Must not know documents or widgets.
"""

from __future__ import annotations

import gc
from collections.abc import Generator as Events
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nexusquant.cache import head_dims
from nexusquant.config import CompressionConfig, RopeScaling
from nexusquant.engine.chat import Message
from nexusquant.engine.conversation import Conversation
from nexusquant.engine.default_model import MODEL_NAME, default_model_dir, prepare_default_model
from nexusquant.engine.events import LoadProgress, SelfTestProgress
from nexusquant.engine.measurements import Measurements
from nexusquant.engine.memory import MemoryReading, read_memory
from nexusquant.engine.model_loader import LoadedModel, choose_device, load_model
from nexusquant.engine.self_test import SelfTestReport
from nexusquant.engine.worker import Job, Work, Worker
from nexusquant.errors import CacheStateError


@dataclass(frozen=True)
class ModelInfo:
    """The loaded model in figures.

    Args:
        name: As the user gave it.
        context_length: Most tokens it was made for.
        num_parameters: Weights, shared ones counted once.
        weight_bytes: Their bytes in memory.
        num_layers: Attention layers.
        num_kv_heads: Heads of keys and values in each.
        head_dim: Values of one key; the largest where layers differ.
        device: "cpu" or "cuda".
        device_name: As the driver calls it.
        dtype: Type of the weights, such as "float32".
        notes: What is not as it was asked for, in sentences.
    """

    name: str
    context_length: int
    num_parameters: int
    weight_bytes: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    device: str
    device_name: str
    dtype: str
    notes: tuple[str, ...] = ()


class Engine:
    """Owns the device: loads one model at a time and runs jobs one after the other.

    Args:
        data_dir: Where the embedded model is kept.
        device: "auto", "cpu" or "cuda".
        dtype: "auto" or a name of `model_loader.DTYPES`.

    Attributes:
        info: The loaded model in figures; None without one.
        report: How the presets did on it; None until that was measured.
    """

    def __init__(self, data_dir: Path, device: str = "auto", dtype: str = "auto") -> None:
        self._data_dir, self._device, self._dtype = data_dir, device, dtype
        self._worker = Worker()
        self._loaded: LoadedModel | None = None
        self._measurements = Measurements(data_dir)
        self.info: ModelInfo | None = None
        self.report: SelfTestReport | None = None

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return self._worker.num_waiting

    @property
    def has_gpu(self) -> bool:
        """Whether models run on a GPU."""
        return choose_device(self._device)[0].type == "cuda"

    def room_bytes(self) -> int:
        """Memory that another model may take: what is free, and what the present one would free."""
        held = self.info.weight_bytes if self.info else 0
        return self.memory().device_free_bytes + held

    def load(self, name: str | None = None, dtype: str | None = None) -> Job:
        """Load a model in place of the present one.

        Args:
            name: Hugging Face id or local folder; None means the embedded default model.
            dtype: What its weights are held in, as `Engine` takes it; None: as the engine was made.

        Returns:
            A job with `LoadProgress` events and a `ModelInfo` as result. If it fails, the model
            before it is gone too: two rarely fit.
        """
        return self.submit(lambda: self._load(name, dtype or self._dtype))

    def self_test(self) -> Job:
        """Measure every preset on the present model while nothing else is to be done.

        Returns:
            A job with `SelfTestProgress` events and a `SelfTestReport` as result, which is then
            `report` too and kept on disk. A cancelled one keeps nothing.

        Raises:
            CacheStateError: No model is loaded.
        """
        loaded = self._model()
        return self._worker.submit(lambda: self._test(loaded), in_background=True)

    def submit(self, work: Work) -> Job:
        """Run `work()`, an iterator of events, on the engine's thread after what waits already."""
        return self._worker.submit(work)

    def new_conversation(
        self, config: CompressionConfig, scaling: RopeScaling | None = None
    ) -> Conversation:
        """An empty conversation with the present model; no work is done yet.

        Args:
            config: What to compress.
            scaling: How its positions are scaled; None: not at all.

        Raises:
            CacheStateError: No model is loaded.
        """
        return Conversation(self._model(), config, scaling)

    def scalings_for(self, num_tokens: int) -> tuple[RopeScaling, ...]:
        """Scalings of positions that make room for so many tokens and an answer, best first.

        Raises:
            CacheStateError: No model is loaded.
        """
        return self._model().scalings_for(num_tokens)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Write messages the way the model was taught to read them.

        Args:
            messages: In order.
            add_generation_prompt: End with the beginning of an answer.
        """
        tokenizer = self._model().tokenizer
        if tokenizer.chat_template is None:
            lines = [f"{message.role.capitalize()}: {message.content}\n" for message in messages]
            return "\n".join([*lines, "Assistant:"] if add_generation_prompt else lines)
        return tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones not added."""
        return len(self._model().tokenizer(text, add_special_tokens=False)["input_ids"])

    def token_offsets(self, text: str) -> list[int]:
        """First character of each token of a text, ascending."""
        encoded = self._model().tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        return [start for start, _ in encoded["offset_mapping"]]

    def memory(self) -> MemoryReading:
        """Memory of the device in use."""
        device = self._loaded.device if self._loaded else choose_device(self._device)[0]
        return read_memory(device)

    def close(self) -> None:
        """Cancel what waits and end the thread."""
        self._worker.close()

    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise CacheStateError("No model is loaded yet.")
        return self._loaded

    def _load(self, name: str | None, dtype: str) -> Events[LoadProgress, None, ModelInfo]:
        source: str | Path = name or default_model_dir(self._data_dir)
        if name is None:
            yield from prepare_default_model(self._data_dir)
        label = name or MODEL_NAME
        self._loaded = self.info = self.report = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield LoadProgress(f"Loading {label}", 0.0)
        loaded = load_model(source, self._device, dtype)
        self._loaded = yield from self._measurements.with_profile(loaded)
        self.report = self._measurements.report(self._loaded)
        self.info = _describe(label, self._loaded)
        yield LoadProgress(f"{label} is ready", 1.0)
        return self.info

    def _test(self, loaded: LoadedModel) -> Events[SelfTestProgress, None, SelfTestReport]:
        report = yield from self._measurements.self_test(loaded)
        if loaded is self._loaded:
            self.report = report
        return report


def load_embedded_model(data_dir: Path, device: str = "auto") -> LoadedModel:
    """Load the default model, fetching it into `data_dir` the first time.

    Args:
        data_dir: Where it is kept.
        device: "auto", "cpu" or "cuda".

    Raises:
        NexusquantError: It cannot be fetched; the message says why.
    """
    for _ in prepare_default_model(data_dir):
        pass
    return load_model(default_model_dir(data_dir), device)


def _describe(name: str, loaded: LoadedModel) -> ModelInfo:
    model = loaded.model
    config = model.config.get_text_config(decoder=True)
    parameters = list(model.parameters())
    heads = config.num_attention_heads
    return ModelInfo(
        name=name,
        context_length=loaded.context_length,
        num_parameters=sum(parameter.numel() for parameter in parameters),
        weight_bytes=sum(parameter.nbytes for parameter in parameters),
        num_layers=config.num_hidden_layers,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=max(head_dims(model.config)),
        device=loaded.device.type,
        device_name=read_memory(loaded.device).device_name,
        dtype=str(model.dtype).removeprefix("torch."),
        notes=loaded.notes,
    )
