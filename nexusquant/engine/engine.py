"""The engine: one model, one thread, and what conversations need of both.

Knows how the parts of this package fit together. Must not know documents or widgets.
"""

from __future__ import annotations

import gc
from collections.abc import Generator as Events
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

from nexusquant.config import CompressionConfig, RopeScaling
from nexusquant.engine.chat_template import well_formed
from nexusquant.engine.conversation import Conversation
from nexusquant.engine.decode_graph import RecordingTrial
from nexusquant.engine.default_model import MODEL_NAME, default_model_dir, prepare_default_model
from nexusquant.engine.devices import cap_gpu_memory, choose_device, devices_of
from nexusquant.engine.downloads import fetch_model, fetched_dir
from nexusquant.engine.events import LoadProgress, SelfTestProgress
from nexusquant.engine.hub import NoConnectionError
from nexusquant.engine.measurements import Measurements
from nexusquant.engine.memory import MemoryReading, read_memory
from nexusquant.engine.messages import Message
from nexusquant.engine.model_info import ModelInfo, describe
from nexusquant.engine.model_loader import LoadedModel, check_loadable, load_model
from nexusquant.engine.models import damage_of, understood
from nexusquant.engine.on_disk import ModelOnDisk, folder_of, models_on_disk
from nexusquant.engine.self_test import SelfTestReport
from nexusquant.engine.turns import Order
from nexusquant.engine.worker import Job, Work, Worker
from nexusquant.errors import CacheStateError


@dataclass(frozen=True)
class _HowToLoad:
    device: str
    dtype: str
    offload: bool
    # what the present model holds of each device, and gives back
    freed_bytes: Mapping[str, int]

    def check(self, folder: Path) -> None:
        check_loadable(
            folder, self.device, self.dtype, offload=self.offload, freed_bytes=self.freed_bytes
        )


class Engine:
    """Owns the device: loads one model at a time and runs jobs one after the other.

    Args:
        data_dir: Where models and what was measured of them are kept.
        device: "auto", "cpu" or "cuda".
        dtype: "auto" or a name of `model_loader.DTYPES`.
        gpu_share: Most of each GPU's memory that this program takes, in (0, 1].
        offload: Let layers for which the GPUs are too small wait in the computer's memory.
        cuda_graph: Record the steps of an answer as a CUDA graph where a model allows it.

    Attributes:
        info: The loaded model in figures; None without one.
    """

    def __init__(
        self,
        data_dir: Path,
        device: str = "auto",
        dtype: str = "auto",
        *,
        gpu_share: float = 1.0,
        offload: bool = False,
        cuda_graph: bool = True,
    ) -> None:
        self._data_dir, self._device, self._dtype = data_dir, device, dtype
        self._gpu_share, self._offload, self._cuda_graph = gpu_share, offload, cuda_graph
        self._worker = Worker()
        self._loaded: LoadedModel | None = None
        self._measurements = Measurements(data_dir)
        self._reports: dict[RopeScaling | None, SelfTestReport] = {}
        self.info: ModelInfo | None = None

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return self._worker.num_waiting

    @property
    def has_gpu(self) -> bool:
        """Whether models run on a GPU."""
        return choose_device(self._device)[0].type == "cuda"

    def room_bytes(self) -> tuple[int, ...]:
        """Memory that another model may take of each device: what is free or would be freed."""
        held = self.info.weight_bytes_by_device if self.info else {}
        devices = devices_of(choose_device(self._device)[0])
        return tuple(
            read_memory(device).after_freeing(held.get(str(device), 0)).usable_bytes
            for device in devices
        )

    def models_on_disk(self) -> tuple[ModelOnDisk, ...]:
        """Models that can be loaded without a network, besides the embedded one."""
        return models_on_disk(self._data_dir)

    def load(
        self,
        name: str | None = None,
        dtype: str | None = None,
        *,
        token: str | None = None,
        offload: bool | None = None,
    ) -> Job:
        """Load a model in place of the present one; fetch it first if it is not on this disk.

        Args:
            name: Hugging Face id or local folder, as people paste them; None means the embedded
                default model.
            dtype: What its weights are held in, as `Engine` takes it; None: as the engine was made.
            token: Tells the hub who asks for a gated or private model; it is not kept.
            offload: As `Engine` takes it; None: as the engine was made.

        Returns:
            A job with `LoadProgress` events and a `ModelInfo` as result. If it fails, the model
            before it is gone too: two rarely fit.
        """
        how = _HowToLoad(
            self._device,
            dtype or self._dtype,
            self._offload if offload is None else offload,
            self.info.weight_bytes_by_device if self.info else {},
        )
        return self.submit(lambda: self._load(name, how, token), Order(is_alone=True))

    def self_test(self, scaling: RopeScaling | None = None) -> Job:
        """Measure every preset on the present model while nothing else is to be done.

        Args:
            scaling: How positions are scaled meanwhile; None: not at all.

        Returns:
            A job with `SelfTestProgress` events and a `SelfTestReport` as result, which is then
            `report_for(scaling)` too and kept on disk. A cancelled one keeps nothing.

        Raises:
            CacheStateError: No model is loaded.
        """
        loaded = self._model()
        return self._worker.submit(lambda: self._test(loaded, scaling), in_background=True)

    def report_for(self, scaling: RopeScaling | None) -> SelfTestReport | None:
        """How the presets do on the present model; None while that is not measured."""
        return self._reports.get(scaling)

    @property
    def report(self) -> SelfTestReport | None:
        """How the presets do on the present model as it is."""
        return self.report_for(None)

    def submit(self, work: Work, order: Order | None = None) -> Job:
        """Run `work()`, an iterator of events, on the engine's thread when its turn has come.

        Args:
            work: Other work goes on between any two of its events.
            order: Whose it is, and beside whom it may run.

        Raises:
            TooManyJobsError: Its owner has too many already.
        """
        return self._worker.submit(work, order)

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

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        moment: datetime | None = None,
    ) -> str:
        """Write messages the way the model was taught to read them; see `ChatTemplate.render`."""
        return self._model().chat_template.render(
            messages, add_generation_prompt=add_generation_prompt, moment=moment
        )

    def harmless(self, text: str, before: str = "", after: str = "") -> str:
        """Give a text in which no string acts as a control token of the present model.

        Args:
            text: What was typed, or stands in a document.
            before: What will stand in front of it.
            after: What will follow it.
        """
        return self._model().chat_template.harmless(text, before, after)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones not added."""
        ids = self._model().tokenizer(well_formed(text), add_special_tokens=False)["input_ids"]
        return len(ids)

    def token_offsets(self, text: str) -> list[int]:
        """First character of each token of a text, ascending."""
        encoded = self._model().tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        return [start for start, _ in encoded["offset_mapping"]]

    def memory(self) -> MemoryReading:
        """Memory of the devices in use."""
        if self._loaded is not None:
            return self._loaded.memory()
        return read_memory(choose_device(self._device)[0])

    def close(self) -> None:
        """Cancel what waits and end the thread."""
        self._worker.close()

    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise CacheStateError("No model is loaded yet.")
        return self._loaded

    def _load(
        self, name: str | None, how: _HowToLoad, token: str | None
    ) -> Events[LoadProgress, None, ModelInfo]:
        if choose_device(self._device)[0].type == "cuda":
            cap_gpu_memory(self._gpu_share)
        name = name and understood(name)
        source = yield from self._folder_of(name, how, token)
        label = name or MODEL_NAME
        self._loaded = self.info = None
        self._reports = {}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield LoadProgress(f"Loading {label}", 0.0)
        loaded = load_model(source, how.device, how.dtype, offload=how.offload)
        loaded = replace(loaded, trial=RecordingTrial(is_wanted=self._cuda_graph))
        self._loaded = yield from self._measurements.with_profile(loaded)
        known = self._measurements.report(self._loaded)
        self._reports = {None: known} if known else {}
        self.info = describe(label, self._loaded)
        yield LoadProgress(f"{label} is ready", 1.0)
        return self.info

    def _folder_of(
        self, name: str | None, how: _HowToLoad, token: str | None
    ) -> Events[LoadProgress, None, Path]:
        """Where a model is on this disk; it is fetched if it is not there."""
        if name is None:
            yield from prepare_default_model(self._data_dir)
            return default_model_dir(self._data_dir)
        found = folder_of(name, self._data_dir)
        # what was fetched here can be fetched again; what lies elsewhere is not ours to change
        is_ours = found is not None and found == fetched_dir(self._data_dir, name)
        damage = damage_of(found) if is_ours else None
        if found is not None and damage is None:
            return found
        if damage is not None:
            yield LoadProgress(f"{name} on this disk is damaged ({damage}); it is fetched again", 0)
        try:
            fetching = fetch_model(
                name, self._data_dir, token, how.check, is_damaged=damage is not None
            )
            return (yield from fetching)
        except NoConnectionError as error:
            there = ", ".join(model.name for model in self.models_on_disk())
            raise NoConnectionError(
                f"{error} On this disk: {there or 'only the model that comes along'}."
            ) from error

    def _test(
        self, loaded: LoadedModel, scaling: RopeScaling | None
    ) -> Events[SelfTestProgress, None, SelfTestReport]:
        report = scaling and self._measurements.report(loaded, scaling)
        report = report or (yield from self._measurements.self_test(loaded, scaling))
        if loaded is self._loaded:
            self._reports[scaling] = report
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
