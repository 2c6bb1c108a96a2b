"""What the handlers work with, made once per process. Knows the engine and the desks; no widget."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from nexusquant.config import PRESETS, SamplingParams
from nexusquant.documents import Document, FileReader
from nexusquant.engine import DEFAULT_PRESET, Engine, MemoryReading, SelfTestReport
from ui.chat_desk import ChatDesk
from ui.compare_desk import CompareDesk
from ui.document_desk import DocumentDesk
from ui.model_desk import ModelDesk
from ui.sessions import GRACE_S, SessionStore, Workspace
from ui.state.uploads import Uploads

LOCAL_OWNER = "local"
Extract = Callable[..., Document]
"""`FileReader.extract` of `nexusquant.documents`, or a stand-in for it."""


@dataclass(frozen=True, kw_only=True)
class InitialSettings:
    """What a new workspace starts with.

    Args:
        preset: Compression as asked for at the start; None takes the strongest that is safe.
        sampling: How its answers are drawn.
        model_name: What was asked for at the start; None is the embedded default model.
        data_dir: Where models and uploads are kept; shown in Settings.
        offload: Whether layers may wait in the computer's memory.
    """

    preset: str | None
    sampling: SamplingParams
    model_name: str | None
    data_dir: Path
    offload: bool = False


class Services:
    """The engine, the file reader, and everybody's workspaces.

    Args:
        engine: The one engine of this process.
        initial: What a new workspace starts with.
        extract: Turns a file into a document; None reads one file at a time for all.
        grace_s: Seconds that work goes on after its page has left.
    """

    def __init__(
        self,
        engine: Engine,
        initial: InitialSettings,
        *,
        extract: Extract | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.engine = engine
        self.extract = extract or FileReader().extract
        self.initial = initial
        self.uploads = Uploads(initial.data_dir / "uploads")
        self.models = ModelDesk(engine, at_loaded=self._settle_presets)
        self.sessions = SessionStore(self._new_workspace, grace_s=grace_s)

    def workspace(self, workspace_id: str, request: gr.Request | None) -> Workspace:
        """The workspace of an open page, after checking that it is this person's.

        Raises:
            gr.Error: The page has none yet; the person is told.
        """
        if not workspace_id:
            raise gr.Error(
                "The page is still opening. Try again in a moment.", print_exception=False
            )
        return self.sessions.get(workspace_id, owner_of(request))

    def memory(self) -> MemoryReading | None:
        """Memory now, or None before there is a model to ask for."""
        return self.engine.memory() if self.engine.info is not None else None

    def default_preset(self) -> str:
        """The preset that a workspace opened now begins with."""
        report = self.models.report
        return self.initial.preset or (report.best_preset if report else DEFAULT_PRESET)

    def report_of(self, workspace: Workspace) -> SelfTestReport | None:
        """What the presets do to this person's texts: with their scaled positions, if measured."""
        for scaling in (workspace.chat.scaling, workspace.documents.scaling):
            measured = self.models.report_for(scaling) if scaling else None
            if measured is not None:
                return measured
        return self.models.report

    def close(self) -> None:
        """Stop everything that runs."""
        self.sessions.close()
        self.models.stop()
        self.models.stop_tests()
        self.uploads.close()

    def _settle_presets(self) -> None:
        # whoever opened the page while the model was loading begins as if it had been there
        config = PRESETS[self.default_preset()]
        for workspace in self.sessions.all():
            if workspace.waits_for_default:
                workspace.use_config(config)

    def _new_workspace(self, workspace_id: str, owner: str) -> Workspace:
        config = PRESETS[self.default_preset()]
        # where nobody logs in, pages take turns instead of people
        turn = workspace_id if owner == LOCAL_OWNER else owner
        return Workspace(
            id=workspace_id,
            owner=owner,
            config=config,
            sampling=self.initial.sampling,
            chat=ChatDesk(self.engine, self.models, config, turn),
            documents=DocumentDesk(self.engine, self.models, turn),
            compare=CompareDesk(self.engine, self.models, turn),
            turn=turn,
            waits_for_default=self.models.is_loading,
        )


def owner_of(request: gr.Request | None) -> str:
    """The name the person logged in with, or the one name there is without logins."""
    return getattr(request, "username", None) or LOCAL_OWNER


def is_at_this_computer(request: gr.Request | None) -> bool:
    """True for the person at the machine itself, who alone may change the model."""
    client = getattr(request, "client", None)
    if client is None:
        return False
    try:
        return ipaddress.ip_address(client.host).is_loopback
    except ValueError:
        return False
