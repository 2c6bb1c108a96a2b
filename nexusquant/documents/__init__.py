"""Documents: files to numbered pages of text, and questions answered from their cache.

Reading files needs no engine; sessions are given one.
"""

from nexusquant.documents.document import Document, Page, PasswordError
from nexusquant.documents.extract import FileReader, extract
from nexusquant.documents.page_ranges import format_page_ranges, parse_page_ranges
from nexusquant.documents.session import DocumentSession, ReadProgress
from nexusquant.documents.tokens import ANSWER_TOKENS, Fit, PageCount, count_pages, plan_fit
from nexusquant.documents.worker import ReadingStoppedError

__all__ = [
    "ANSWER_TOKENS",
    "Document",
    "DocumentSession",
    "FileReader",
    "Fit",
    "Page",
    "PageCount",
    "PasswordError",
    "ReadProgress",
    "ReadingStoppedError",
    "count_pages",
    "extract",
    "format_page_ranges",
    "parse_page_ranges",
    "plan_fit",
]
