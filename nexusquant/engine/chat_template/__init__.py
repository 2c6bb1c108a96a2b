"""Messages to the text that a model reads, with nothing in it that users can forge roles with."""

from nexusquant.engine.chat_template.harmless_text import HarmlessText, well_formed
from nexusquant.engine.chat_template.process import (
    TemplateError,
    TemplateExcessError,
    TemplateProcess,
)
from nexusquant.engine.chat_template.template import ChatTemplate, thought_closing

__all__ = [
    "ChatTemplate",
    "HarmlessText",
    "TemplateError",
    "TemplateExcessError",
    "TemplateProcess",
    "thought_closing",
    "well_formed",
]
