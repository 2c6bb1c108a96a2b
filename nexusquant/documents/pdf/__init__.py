"""PDF files: pages of text with what forms and notes on them show.

`pages` runs in the app and asks the reader process; the other modules run in that process.
"""

from nexusquant.documents.pdf.pages import read_pdf

__all__ = ["read_pdf"]
