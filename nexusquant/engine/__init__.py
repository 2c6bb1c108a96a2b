"""Tokens: loading a model, prefill, the decode loop, and the thread that owns the device."""

from nexusquant.cache import CacheUsage
from nexusquant.engine.chat import ChatSession, Message
from nexusquant.engine.conversation import Conversation
from nexusquant.engine.engine import Engine, ModelInfo, load_embedded_model
from nexusquant.engine.events import (
    Event,
    Finished,
    FinishReason,
    LoadProgress,
    PrefillProgress,
    RereadProgress,
    SelfTestProgress,
    TextDelta,
)
from nexusquant.engine.generator import Generator
from nexusquant.engine.memory import MemoryReading
from nexusquant.engine.model_loader import LoadedModel, load_model
from nexusquant.engine.profiling import build_profile
from nexusquant.engine.reading import prefill, read_chunks
from nexusquant.engine.self_test import (
    DEFAULT_PRESET,
    KL_LIMIT,
    PresetReport,
    SelfTestReport,
)
from nexusquant.engine.stats import GenerationStats
from nexusquant.engine.worker import Job, JobState, Worker

__all__ = [
    "DEFAULT_PRESET",
    "KL_LIMIT",
    "CacheUsage",
    "ChatSession",
    "Conversation",
    "Engine",
    "Event",
    "FinishReason",
    "Finished",
    "GenerationStats",
    "Generator",
    "Job",
    "JobState",
    "LoadProgress",
    "LoadedModel",
    "MemoryReading",
    "Message",
    "ModelInfo",
    "PrefillProgress",
    "PresetReport",
    "RereadProgress",
    "SelfTestProgress",
    "SelfTestReport",
    "TextDelta",
    "Worker",
    "build_profile",
    "load_embedded_model",
    "load_model",
    "prefill",
    "read_chunks",
]
