"""What was measured of each model, on disk: its profile, and how every preset did.

Knows files and when to measure. Must not know how.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import torch

from nexusquant.cache import fingerprint, load_profile, save_profile
from nexusquant.config import RopeScaling
from nexusquant.engine.events import LoadProgress, SelfTestProgress
from nexusquant.engine.model_loader import LoadedModel
from nexusquant.engine.profiling import builtin_texts, profile_steps
from nexusquant.engine.self_test import SelfTestReport, self_test_steps
from nexusquant.errors import CacheStateError, UnsupportedModelError

_LOG = logging.getLogger(__name__)


class Measurements:
    """Measurements under one folder, by what a model's weights are.

    Args:
        data_dir: The program's data; the folder is made when needed.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir / "profiles"

    def with_profile(self, loaded: LoadedModel) -> Generator[LoadProgress, None, LoadedModel]:
        """Give a model its profile: from disk, or measured now and kept."""
        path = self._path(loaded, ".safetensors")
        try:
            return replace(loaded, profile=load_profile(path, loaded.model))
        except CacheStateError as error:
            # one that is there and cannot be used is worth a word: measuring takes a while
            level = logging.WARNING if path.exists() else logging.DEBUG
            _LOG.log(level, "the model is measured anew: %s", error)
        try:
            profile = yield from profile_steps(loaded.model, builtin_texts(loaded.tokenizer))
        except (UnsupportedModelError, ValueError, torch.OutOfMemoryError) as error:
            _LOG.warning("no profile: %s", error)
            return replace(loaded, notes=(*loaded.notes, _why_unmeasured(error)))
        try:
            save_profile(profile, path)
        except OSError as error:
            _LOG.warning("the profile is not kept: %s", error)
        return replace(loaded, profile=profile)

    def report(
        self, loaded: LoadedModel, scaling: RopeScaling | None = None
    ) -> SelfTestReport | None:
        """How the presets did on this model and device; None when that was not measured."""
        return SelfTestReport.load(self._report_path(loaded, scaling))

    def self_test(
        self, loaded: LoadedModel, scaling: RopeScaling | None = None
    ) -> Generator[SelfTestProgress, None, SelfTestReport]:
        """Measure every preset, and keep the figures."""
        report = yield from self_test_steps(loaded, scaling)
        try:
            report.save(self._report_path(loaded, scaling))
        except OSError as error:
            _LOG.warning("the figures are not kept: %s", error)
        return report

    def _report_path(self, loaded: LoadedModel, scaling: RopeScaling | None) -> Path:
        scaled = f".{scaling.kind}-{scaling.factor:g}" if scaling else ""
        return self._path(loaded, f".{loaded.device.type}{scaled}.json")

    def _path(self, loaded: LoadedModel, ending: str) -> Path:
        return self._dir / (fingerprint(loaded.model) + ending)


def _why_unmeasured(error: Exception) -> str:
    why = "there was not enough memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
    return (
        "The model could not be measured, so keys are coded as each text suggests, which is less "
        f"exact ({why.rstrip('.')})."
    )
