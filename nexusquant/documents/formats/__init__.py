"""Files that are no PDFs: what they are, their encodings, and the text in them.

One reader a file. They run in the reader process, which must start at once: nothing here may
import torch, the engine, PDFium or a widget.
"""
