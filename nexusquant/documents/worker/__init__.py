"""A process that reads one file: it may hang, crash or swell without harm to the app.

Knows processes, limits and lines of JSON. Must not know PDFium, formats or widgets.
"""

from nexusquant.documents.worker.process import ReaderEndedError, Reading, ReadingStoppedError
from nexusquant.documents.worker.turns import Turns

__all__ = ["ReaderEndedError", "Reading", "ReadingStoppedError", "Turns"]
