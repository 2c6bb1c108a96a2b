"""Which model is there, which is coming, how its self-test goes, and whether a message may go.

Knows the engine; no widget.
"""

from __future__ import annotations

from collections.abc import Callable

from nexusquant.config import RopeScaling
from nexusquant.engine import Engine, LoadProgress, ModelInfo, SelfTestReport
from nexusquant.errors import NexusquantError
from ui.following import Follower, Phase, Snapshot
from ui.presenters import explain


class ModelMissingError(NexusquantError):
    """There is no model to answer with; the message says what can be done."""


class ModelDesk:
    """Loads models one after another, has each tested once, and remembers how both went.

    Args:
        engine: The engine that holds the model.
        at_loaded: Called when a load has ended and a model is there, before a request may use it.
    """

    def __init__(self, engine: Engine, *, at_loaded: Callable[[], object] = lambda: None) -> None:
        self._engine = engine
        self._at_loaded = at_loaded
        self._loading: Follower | None = None
        self._test: Follower | None = None
        self._scaled_tests: dict[RopeScaling, Follower] = {}

    @property
    def info(self) -> ModelInfo | None:
        """The model in use, or None."""
        return self._engine.info

    @property
    def report(self) -> SelfTestReport | None:
        """What the presets do to the model in use; None until that was measured."""
        return self._engine.report

    def report_for(self, scaling: RopeScaling) -> SelfTestReport | None:
        """The same with scaled positions; None until `test_scaled` has measured it."""
        return self._engine.report_for(scaling)

    @property
    def is_loading(self) -> bool:
        """True while a load has not ended."""
        return self._loading is not None and not self._loading.is_over

    @property
    def is_testing(self) -> bool:
        """True while the presets are being measured; requests go on meanwhile."""
        return self._test is not None and not self._test.is_over

    def load(
        self,
        name: str | None,
        dtype: str | None = None,
        *,
        token: str | None = None,
        offload: bool | None = None,
    ) -> Follower:
        """Start loading `name` (None: the default model); refused while another is loading.

        Args:
            name: Hugging Face id or folder.
            dtype: What its weights are held in; None: as the program was started.
            token: Tells the hub who asks for it; it is not kept.
            offload: Whether layers may wait in the computer's memory; None: as the program was
                started.

        Raises:
            ValueError: A model is being loaded already.
        """
        if self.is_loading:
            raise ValueError("A model is being loaded. Wait for it, or stop it first.")
        self.stop_tests()
        before = self._engine.info
        tests = [test for test in (self._test, *self._scaled_tests.values()) if test is not None]
        self._loading = Follower(
            lambda: self._engine.load(name, dtype, token=token, offload=offload),
            # a test that still runs would hold the old model beside the new one
            may_begin=lambda: all(test.is_over for test in tests),
            at_end=lambda _: self._after_load(before),
        )
        return self._loading

    def stop(self) -> None:
        """Give up the load in progress, if any."""
        if self._loading is not None:
            self._loading.stop()

    def wait(self) -> None:
        """Block until no model is being loaded."""
        if self._loading is not None:
            self._loading.wait()

    def start_test(self) -> None:
        """Measure the presets on the model in use.

        Raises:
            ValueError: A test runs already, or there is no model to test.
        """
        if self.is_testing:
            raise ValueError("The presets are being tested.")
        if self.is_loading or self._engine.info is None:
            raise ValueError("There is no model to test yet.")
        self._begin_test()

    def test_scaled(self, scaling: RopeScaling | None) -> None:
        """Measure the presets with scaled positions, unless that was done or is being done."""
        if scaling is None:
            return
        running = self._scaled_tests.get(scaling)
        is_known = self.report_for(scaling) is not None
        if not is_known and (running is None or running.is_over) and self._engine.info is not None:
            self._scaled_tests[scaling] = Follower(lambda: self._engine.self_test(scaling))

    def stop_tests(self) -> None:
        """End every test that runs; nothing of them is kept."""
        self.stop_test()
        for test in self._scaled_tests.values():
            test.stop()

    def stop_test(self) -> None:
        """End the test that runs, if any; nothing of it is kept."""
        if self._test is not None:
            self._test.stop()

    def test_snapshot(self) -> Snapshot | None:
        """The newest test of the model in use now; None when there was none."""
        return self._test.snapshot() if self._test is not None else None

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

    def _after_load(self, before: ModelInfo | None) -> None:
        info = self._engine.info
        if info is not None:
            self._at_loaded()
        # a load that was given up left the model, and what is known of it, as they were
        if info is not before:
            self._test = None
            self._scaled_tests = {}
            if info is not None and self._engine.report is None:
                self._begin_test()

    def _begin_test(self) -> None:
        self._test = Follower(self._engine.self_test)

    def _why_missing(self) -> str:
        why = self.failure() or "No model is loaded."
        return f"{why} Choose a model in Settings, then send again."


def _failure_of(snapshot: Snapshot) -> str | None:
    if snapshot.phase is Phase.FAILED and snapshot.error is not None:
        return f"The model could not be loaded: {explain(snapshot.error)}"
    if snapshot.phase is Phase.STOPPED:
        return "Loading the model was stopped."
    return None
