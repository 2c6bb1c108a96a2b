"""What the Documents tab does when something is pressed, as plain generators of views.

Knows desks and pieces of HTML; must not know the widgets they go to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import gradio as gr

from nexusquant.documents import Fit, PasswordError, ReadingStoppedError, format_page_ranges
from nexusquant.errors import DocumentError
from ui import gauge, page_views
from ui.document_desk import DocumentDesk, OpenDocument
from ui.following import Phase, Snapshot
from ui.presenters import explain
from ui.services import Services
from ui.sessions import Workspace
from ui.state.fields import message_of
from ui.state.uploads import Upload, UploadError
from ui.views.messages import drawn_messages


@dataclass(frozen=True)
class DocumentView:
    """What the tab shows; None leaves a part as it is."""

    card: str | None = None
    pages_text: str | None = None
    fit: str | None = None
    fitting_button: str | None = None
    """What the button that chooses fewer pages says; "" hides it."""
    offer: str | None = None
    """What the button that scales positions says; "" hides it."""
    wants_password: bool | None = None
    is_open: bool | None = None
    is_read: bool | None = None
    is_busy: bool | None = None
    status: str | None = None
    spoken: str | None = None
    gauge: str | None = None
    strip: str | None = None
    messages: list[dict[str, str]] | None = None
    figures: str | None = None
    cited: tuple[int, ...] | None = None
    all_pages: tuple[int, ...] | None = None
    page: str | None = None
    draft: str | None = None


CLOSED = DocumentView(
    card="",
    pages_text="",
    fit="",
    fitting_button="",
    offer="",
    wants_password=False,
    is_open=False,
    is_read=False,
    is_busy=False,
    status="",
    strip="",
    messages=[],
    figures="",
    cited=(),
    all_pages=(),
    page="",
)


class DocumentHandlers:
    """One method per button; each yields or returns views."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def open_file(
        self, upload_id: str | None, workspace_id: str, request: gr.Request
    ) -> Iterator[DocumentView]:
        """Open an uploaded file; count its pages and tokens before anything is read."""
        workspace = self._services.workspace(workspace_id, request)
        workspace.documents.close()
        if upload_id is None:
            yield replace(CLOSED, gauge=self._gauge(workspace))
            return
        try:
            upload = self._services.uploads.find(upload_id, workspace.owner)
        except UploadError as error:
            yield replace(CLOSED, status=gauge.notice(str(error), "error"))
            return
        workspace.documents.pending_upload = upload.id
        yield replace(CLOSED, status=gauge.notice(f"Opening {upload.name}", "busy"))
        yield from self._extract(workspace, upload, None)

    def open_with_password(
        self, password: str, workspace_id: str, request: gr.Request
    ) -> Iterator[DocumentView]:
        """Try the waiting file again with its password."""
        workspace = self._services.workspace(workspace_id, request)
        try:
            upload = self._services.uploads.find(
                workspace.documents.pending_upload, workspace.owner
            )
        except UploadError as error:
            yield DocumentView(status=gauge.notice(str(error), "error"))
            return
        yield DocumentView(status=gauge.notice("Opening the file", "busy"))
        yield from self._extract(workspace, upload, password)

    def choose_pages(self, pages_text: str, workspace_id: str, request: gr.Request) -> DocumentView:
        """Say whether the pages in the picker fit."""
        workspace = self._services.workspace(workspace_id, request)
        return self._fit_view(workspace.documents, pages_text)

    def choose_fitting(
        self, pages_text: str, workspace_id: str, request: gr.Request
    ) -> DocumentView:
        """Put the first pages that fit into the picker; the person still presses Read."""
        desk = self._services.workspace(workspace_id, request).documents
        fit = desk.fit(pages_text)
        if fit is None or not fit.num_pages_that_fit:
            return DocumentView()
        fewer = format_page_ranges(desk.chosen(pages_text)[: fit.num_pages_that_fit])
        return replace(self._fit_view(desk, fewer), pages_text=fewer)

    def take_offer(self, pages_text: str, workspace_id: str, request: gr.Request) -> DocumentView:
        """Scale the document's positions so that the pages fit; the person still presses Read."""
        desk = self._services.workspace(workspace_id, request).documents
        desk.scaling = desk.offer(desk.fit(pages_text)) or desk.scaling
        self._services.models.test_scaled(desk.scaling)
        return self._fit_view(desk, pages_text)

    def read(
        self, pages_text: str, workspace_id: str, request: gr.Request
    ) -> Iterator[DocumentView]:
        """Read the chosen pages into a compressed cache and show how far it is."""
        workspace = self._services.workspace(workspace_id, request)
        try:
            workspace.documents.start_reading(pages_text, workspace.config)
        except ValueError as error:
            yield DocumentView(status=gauge.notice(explain(error), "warn"))
            return
        yield DocumentView(is_read=False, messages=[], cited=(), strip="", figures="")
        yield from self._stream(workspace)

    def ask(self, question: str, workspace_id: str, request: gr.Request) -> Iterator[DocumentView]:
        """Ask the pages that were read and follow the answer."""
        workspace = self._services.workspace(workspace_id, request)
        try:
            message = message_of(question)
            if not message:
                yield DocumentView()
                return
            workspace.documents.start_asking(message, workspace.sampling)
        except ValueError as error:
            yield DocumentView(status=gauge.notice(explain(error), "warn"))
            return
        yield DocumentView(draft="", is_busy=True, cited=())
        yield from self._stream(workspace)

    def follow(self, workspace_id: str, request: gr.Request) -> Iterator[DocumentView]:
        """Show the desk as it stands; if something runs, follow it to its end."""
        workspace = self._services.workspace(workspace_id, request)
        desk = workspace.documents
        if desk.opened is None:
            yield replace(CLOSED, gauge=self._gauge(workspace))
            return
        yield self._opened_view(desk, desk.opened)
        yield from self._stream(workspace)

    def stop(self, workspace_id: str, request: gr.Request) -> DocumentView:
        """Ask the engine to stop; what is shown until it has."""
        workspace = self._services.workspace(workspace_id, request)
        workspace.documents.stop()
        return self._running(workspace, workspace.documents.snapshot())

    def after_stop(self, workspace_id: str, request: gr.Request) -> Iterator[DocumentView]:
        """Wait for the engine to let go and show the desk as it was left."""
        yield from self._stream(self._services.workspace(workspace_id, request))

    def forget_questions(self, workspace_id: str, request: gr.Request) -> DocumentView:
        """Empty the list of questions; the pages stay read."""
        workspace = self._services.workspace(workspace_id, request)
        workspace.documents.forget_questions()
        return self._resting(workspace)

    def show_page(self, number: int | None, workspace_id: str, request: gr.Request) -> DocumentView:
        """Show the text of one page."""
        desk = self._services.workspace(workspace_id, request).documents
        if desk.opened is None or number is None:
            return DocumentView(page="")
        pages = {page.number: page for page in desk.opened.document.pages}
        if int(number) not in pages:
            return DocumentView(page=gauge.notice(f"There is no page {int(number)}.", "warn"))
        shares = dict(desk.read.shares) if desk.read else {}
        return DocumentView(page=page_views.page_text(pages[int(number)], shares.get(int(number))))

    def _extract(
        self, workspace: Workspace, upload: Upload, password: str | None
    ) -> Iterator[DocumentView]:
        desk = workspace.documents
        try:
            document = self._services.extract(
                upload.path,
                password=password or None,
                is_wanted=lambda: desk.pending_upload == upload.id and workspace.is_looked_at,
                name=upload.name,
                owner=workspace.turn,
            )
        except ReadingStoppedError:
            # whatever took its place shows itself
            return
        except DocumentError as error:
            wants_password = isinstance(error, PasswordError)
            yield DocumentView(
                status=gauge.notice(str(error), "warn" if wants_password else "error"),
                wants_password=wants_password,
            )
            return
        opened = desk.open(document)
        view = self._opened_view(desk, opened)
        yield replace(view, status="", gauge=self._gauge(workspace))
        if self._services.models.is_loading:
            # tokens can be counted only with the model that is on its way
            self._services.models.wait()
            if desk.opened is opened:
                yield self._opened_view(desk, opened)

    def _opened_view(self, desk: DocumentDesk, opened: OpenDocument) -> DocumentView:
        document = opened.document
        numbers = tuple(page.number for page in document.pages)
        pages_text = format_page_ranges(desk.chosen(opened.pages_text))
        return replace(
            self._fit_view(desk, pages_text),
            card=page_views.document_card(document, desk.counts()),
            pages_text=pages_text,
            wants_password=False,
            is_open=True,
            is_read=desk.is_read,
            all_pages=numbers,
        )

    def _fit_view(self, desk: DocumentDesk, pages_text: str) -> DocumentView:
        try:
            fit, num_chosen = desk.fit(pages_text), len(desk.chosen(pages_text))
        except ValueError as error:
            return DocumentView(fit=gauge.notice(str(error), "warn"), fitting_button="", offer="")
        if fit is None:
            text = "Tokens are counted as soon as the model is loaded."
            return DocumentView(fit=gauge.notice(text, "busy"), fitting_button="", offer="")
        return DocumentView(
            fit=page_views.fit_line(fit, num_chosen) + gauge.scaled_positions(desk.scaling),
            fitting_button=_fewer_pages(fit),
            offer=gauge.offer_label(desk.offer(fit)),
        )

    def _stream(self, workspace: Workspace) -> Iterator[DocumentView]:
        phase = None
        for now in workspace.documents.snapshots():
            if now.phase.is_over:
                break
            view = self._running(workspace, now)
            yield view if now.phase is not phase else replace(view, spoken=None)
            phase = now.phase
        self._services.sessions.make_room()
        yield self._resting(workspace)

    def _running(self, workspace: Workspace, now: Snapshot) -> DocumentView:
        desk = workspace.documents
        progress = desk.read_progress(now)
        status = gauge.request_status(now)
        if progress is not None and desk.read is not None and now.phase is Phase.READING:
            status = page_views.reading(progress, desk.read.config)
        return DocumentView(
            status=status,
            is_busy=True,
            messages=_as_dicts(desk) if desk.is_asking else None,
            spoken=gauge.spoken(now.phase, 0),
        )

    def _resting(self, workspace: Workspace) -> DocumentView:
        desk, now = workspace.documents, workspace.documents.snapshot()
        read = desk.read if desk.is_read else None
        status = gauge.request_status(now)
        if now.phase is Phase.STOPPED and not desk.is_asking:
            status = gauge.notice(
                "Reading was stopped. Nothing is kept; press Read to start again.", "info"
            )
        return DocumentView(
            status=status,
            is_busy=desk.is_busy,
            is_read=read is not None,
            messages=_as_dicts(desk),
            gauge=self._gauge(workspace),
            strip=page_views.page_strip(read.shares, read.config) if read else "",
            figures=gauge.figures(read.last.stats if read and read.last else None),
            cited=read.cited if read else (),
            spoken=gauge.spoken(now.phase, len(now.text.split())) if desk.is_asking else None,
        )

    def _gauge(self, workspace: Workspace) -> str:
        services = self._services
        desk = workspace.documents
        info = gauge.with_scaling(services.engine.info, desk.scaling)
        return gauge.gauge(desk.usage(), info, services.memory(), "after reading")


def _as_dicts(desk: DocumentDesk) -> list[dict[str, str]]:
    return drawn_messages(desk.messages())


def _fewer_pages(fit: Fit) -> str:
    if fit.fits or not fit.num_pages_that_fit:
        return ""
    number = fit.num_pages_that_fit
    return f"Choose the first {number} pages" if number > 1 else "Choose the first page"
