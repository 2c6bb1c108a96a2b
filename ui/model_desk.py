"""Which model is there, which is coming, and whether a message may go. Knows no widget."""

from __future__ import annotations

from nexusquant.engine import Engine, LoadProgress, ModelInfo
from nexusquant.errors import NexusquantError
from ui.following import Follower, Phase, Snapshot
from ui.presenters import explain


class ModelMissingError(NexusquantError):
    """There is no model to answer with; the message says what can be done."""


class ModelDesk:
    """Loads models one after another and remembers how the newest load went.

    Args:
        engine: The engine that holds the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loading: Follower | None = None

    @property
    def info(self) -> ModelInfo | None:
        """The model in use, or None."""
        return self._engine.info

    @property
    def is_loading(self) -> bool:
        """True while a load has not ended."""
        return self._loading is not None and not self._loading.is_over

    def load(self, name: str | None) -> Follower:
        """Start loading `name` (None: the default model); refused while another is loading.

        Raises:
            ValueError: A model is being loaded already.
        """
        if self.is_loading:
            raise ValueError("A model is being loaded. Wait for it, or stop it first.")
        self._loading = Follower(lambda: self._engine.load(name))
        return self._loading

    def stop(self) -> None:
        """Give up the load in progress, if any."""
        if self._loading is not None:
            self._loading.stop()

    def wait(self) -> None:
        """Block until no model is being loaded."""
        if self._loading is not None:
            self._loading.wait()

    def may_begin(self) -> bool:
        """True when a request can be started now, False while a model is on its way.

        Raises:
            ModelMissingError: No model is there and none is coming.
        """
        if self.is_loading:
            return False
        if self._engine.info is None:
            raise ModelMissingError(self._why_missing())
        return True

    def progress(self) -> LoadProgress | None:
        """How far the load in progress is, or None when none is."""
        loading = self._loading
        if loading is None or loading.is_over:
            return None
        newest = loading.snapshot().progress
        return newest if isinstance(newest, LoadProgress) else LoadProgress("Loading the model", 0)

    def failure(self) -> str | None:
        """Why the newest load failed or stopped, in plain words; None when it did not."""
        if self._loading is None:
            return None
        return _failure_of(self._loading.snapshot())

    def _why_missing(self) -> str:
        why = self.failure() or "No model is loaded."
        return f"{why} Choose a model in Settings, then send again."


def _failure_of(snapshot: Snapshot) -> str | None:
    if snapshot.phase is Phase.FAILED and snapshot.error is not None:
        return f"The model could not be loaded: {explain(snapshot.error)}"
    if snapshot.phase is Phase.STOPPED:
        return "Loading the model was stopped."
    return None
