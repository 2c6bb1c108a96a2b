"""Tokens: loading a model, prefill, the decode loop, and the thread that owns the device."""

from nexusquant.cache import CacheUsage
from nexusquant.engine.chat import ChatSession
from nexusquant.engine.chat_template import thought_closing
from nexusquant.engine.conversation import Conversation
from nexusquant.engine.devices import default_gpu_share
from nexusquant.engine.engine import Engine, load_embedded_model
from nexusquant.engine.events import (
    BlockProgress,
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
from nexusquant.engine.memory_plan import MemoryPlan, plan_memory
from nexusquant.engine.messages import Message
from nexusquant.engine.model_info import ModelInfo
from nexusquant.engine.model_list import FitLabel, ListedModel, ModelFit, fit_of, listed_models
from nexusquant.engine.model_loader import LoadedModel, load_model
from nexusquant.engine.on_disk import ModelOnDisk
from nexusquant.engine.plan_text import as_table, refusal
from nexusquant.engine.profiling import build_profile
from nexusquant.engine.reading import prefill, read_chunks
from nexusquant.engine.self_test import (
    DEFAULT_PRESET,
    KL_LIMIT,
    PresetReport,
    SelfTestReport,
)
from nexusquant.engine.stats import GenerationStats
from nexusquant.engine.turns import Order
from nexusquant.engine.weights import Precision, WeightCount, count_weights
from nexusquant.engine.worker import Job, JobState, Worker

__all__ = [
    "DEFAULT_PRESET",
    "KL_LIMIT",
    "BlockProgress",
    "CacheUsage",
    "ChatSession",
    "Conversation",
    "Engine",
    "Event",
    "FinishReason",
    "Finished",
    "FitLabel",
    "GenerationStats",
    "Generator",
    "Job",
    "JobState",
    "ListedModel",
    "LoadProgress",
    "LoadedModel",
    "MemoryPlan",
    "MemoryReading",
    "Message",
    "ModelFit",
    "ModelInfo",
    "ModelOnDisk",
    "Order",
    "Precision",
    "PrefillProgress",
    "PresetReport",
    "RereadProgress",
    "SelfTestProgress",
    "SelfTestReport",
    "TextDelta",
    "WeightCount",
    "Worker",
    "as_table",
    "build_profile",
    "count_weights",
    "default_gpu_share",
    "fit_of",
    "listed_models",
    "load_embedded_model",
    "load_model",
    "plan_memory",
    "prefill",
    "read_chunks",
    "refusal",
    "thought_closing",
]
