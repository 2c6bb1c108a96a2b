"""The process that runs a model's chat template: one line of JSON in, one line of JSON out.

A template is a program that came with a model. It may loop without end or ask for all memory, and
one operation in C cannot be interrupted from outside, so it runs in a process that can be ended.
This file is started by its path and imports nothing of the package: it must know neither torch nor
the engine, so that it starts at once. What templates may use is what transformers gives them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TextIO

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_MEMORY_LIMIT = 1024**3
# what an honest template writes besides the messages, and how often it repeats them
_MAX_OWN_CHARACTERS = 1_000_000
_MAX_GROWTH = 4


class _Clock:
    """Answers what a template asks for the time: always the same moment within one text."""

    def __init__(self) -> None:
        self.moment = datetime.now()

    def strftime_now(self, format: str) -> str:
        return self.moment.strftime(format)


class _Dict:
    """Makes dictionaries without handing out the class itself."""

    def __call__(self, *args: object, **values: object) -> dict[str, object]:
        return dict(*args, **values)

    def fromkeys(self, *args: object) -> dict[str, object]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """A namespace that takes no name with an underscore in front."""

    def __setitem__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise TemplateError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


class _Generation(Extension):
    """The block `{% generation %}` marks answers for training; here its content is enough."""

    tags = {"generation"}  # noqa: RUF012  # jinja reads it from the class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: object) -> None:
    raise TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _first(values: Sequence[object]) -> object:
    return next(iter(values), "")


def make_environment(clock: _Clock) -> ImmutableSandboxedEnvironment:
    """Make the sandbox: nothing in it depends on chance, or on a clock but the one given."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    del environment.globals["lipsum"]
    environment.filters |= {"tojson": _to_json, "random": _first}
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": clock.strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


def run(requests: Iterator[str], output: TextIO) -> None:
    """Answer every line of `requests` with a line in `output`.

    Args:
        requests: First {"template", "variables"}, then one {"messages", "add_generation_prompt",
            "moment"} for each text.
        output: Receives {"text"}, {"error"} or {"excess"} for each, the first with an empty text.
    """
    clock, template, variables = _Clock(), None, {}
    for line in requests:
        request = json.loads(line)
        # whatever a template does to Python ends in a sentence
        try:
            if template is None:
                variables = request["variables"]
                template, text = make_environment(clock).from_string(request["template"]), ""
            else:
                clock.moment = datetime.fromisoformat(request.pop("moment"))
                text = template.render(variables | {"tools": None, "documents": None} | request)
                _check_length(text, line)
            _send(output, {"text": text})
        except MemoryError:
            _send(output, {"excess": "needs too much memory"})
        except RecursionError:
            _send(output, {"excess": "calls itself too often"})
        except Exception as error:
            _send(output, {"error": f"fails: {_first_line(error)}"})


def _check_length(text: str, request: str) -> None:
    if len(text) > _MAX_GROWTH * len(request) + _MAX_OWN_CHARACTERS:
        raise TemplateError(f"it makes {len(text):,} characters of {len(request):,}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _send(output: TextIO, message: dict[str, Any]) -> None:
    output.write(json.dumps(message, ensure_ascii=False) + "\n")
    output.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        # Windows has no such limit; the parent watches the size of this process as well
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))


if __name__ == "__main__":
    _limit_memory()
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8", errors="replace", newline="\n")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    run(iter(sys.stdin), sys.stdout)
