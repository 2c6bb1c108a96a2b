"""The process that runs a model's chat template: one line of JSON in, one line of JSON out.

A template is a program that came with a model. It may loop without end or ask for all memory, and
one operation in C cannot be interrupted from outside, so it runs in a process that can be ended.
This file is started by its path and imports nothing of the package: it must know neither torch nor
the engine, so that it starts at once. What templates may use is what transformers gives them.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import IO, Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
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
    """A namespace that takes no name with an underscore in front: they lead out of the sandbox."""

    # as in jinja, so that a template may say namespace(self=...)
    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args
        held = dict(*rest, **values)
        for name in held:
            _check_name(name)
        Namespace.__init__(self, held)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


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


def run(requests: Iterable[bytes], output: IO[bytes]) -> None:
    """Answer every line of `requests` with a line in `output`.

    Args:
        requests: {"template", "variables", "messages", "add_generation_prompt", "moment",
            "limit_s"} each.
        output: Receives an empty line at once, then {"text"}, {"error"} or {"excess"} for each.
    """
    output.write(b"\n")
    output.flush()
    clock = _Clock()
    compiled = functools.lru_cache(maxsize=2)(make_environment(clock).from_string)
    for line in requests:
        request = json.loads(line)
        # not a thread of Python, which would wait for a long operation to end
        faulthandler.dump_traceback_later(request.pop("limit_s"), exit=True)
        clock.moment = datetime.fromisoformat(request.pop("moment"))
        answer = _answer(compiled, request, len(line))
        faulthandler.cancel_dump_traceback_later()
        output.write(json.dumps(answer).encode() + b"\n")
        output.flush()


def _answer(
    compiled: Callable[[str], Template], request: dict[str, Any], num_given: int
) -> dict[str, str]:
    source, variables = request.pop("template"), request.pop("variables")
    # whatever a template does to Python ends in a sentence
    try:
        text = compiled(source).render(variables | {"tools": None, "documents": None} | request)
        if len(text) > _MAX_OWN_CHARACTERS + _MAX_GROWTH * num_given:
            return {"excess": f"writes {len(text):,} characters around the messages"}
        return {"text": text}
    except MemoryError:
        return {"excess": "takes too much memory"}
    except RecursionError:
        return {"excess": "calls itself too often"}
    except Exception as error:  # noqa: BLE001  # the outermost boundary of this process
        return {"error": f"fails: {_first_line(error)}"}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        # Windows has no such limit; the parent watches the size of this process as well
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))


if __name__ == "__main__":
    _limit_memory()
    # its end is the parent's end
    run(sys.stdin.buffer, sys.stdout.buffer)
