"""Texts for widgets that draw Markdown: nothing becomes an element, nothing loses a sign."""

from __future__ import annotations

import html
import random
import re

import pytest
from markdown_it import MarkdownIt

from ui.views.safe_markdown import JOINER, as_answer, as_typed

ODD = [
    "<",
    ">",
    "&",
    "!",
    "[",
    "]",
    "(",
    ")",
    "*",
    "_",
    "`",
    "~",
    "#",
    "-",
    "+",
    "1.",
    "|",
    "$",
    "\\",
    "\n",
    " ",
    "    ",
    "\t",
    ":",
    "//",
    "http",
    "img",
    "a",
    "b",
    "2",
    "script",
    "mermaid",
    "www",
    ".",
    "=",
    "@",
    "9)",
    "e.vil",
    "```",
    "~~~",
    "<img src=x>",
    "![a](http://x.y)",
    "</",
    "<!--",
    "&lt;",
    "\r\n",
    "\u202e",
]


_PARSER = MarkdownIt("gfm-like", {"html": True, "linkify": False})


def drawn(text: str) -> str:
    """As a Markdown parser that lets HTML through draws it."""
    return _PARSER.render(text)


def words_of(markup: str) -> str:
    """What is read on the page: no tags, references resolved."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def lines_of(text: str) -> list[str]:
    """Lines, a tab as wide as it is drawn; an empty one is drawn as one blank."""
    lines = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return [line if line != " " else "" for line in lines]


def random_text(seed: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(ODD) for _ in range(rng.randrange(1, 60)))


@pytest.mark.parametrize("seed", range(200))
def test_what_a_person_typed_is_drawn_as_typed(seed):
    text = random_text(seed)
    assert lines_of(words_of(drawn(as_typed(text))).removesuffix("\n")) == lines_of(text)


@pytest.mark.parametrize("seed", range(200))
def test_what_a_person_typed_makes_no_element(seed):
    markup = drawn(as_typed(random_text(seed)))
    inside = markup.removeprefix("<p>").rstrip("\n").removesuffix("</p>")
    assert "<" not in inside.replace("<br />", "")


@pytest.mark.parametrize("seed", range(300))
def test_an_answer_brings_no_element_of_its_own_and_no_image(seed):
    markup = drawn(as_answer(random_text(seed)))
    for element in ("<img", "<script", "<!--", "<form", "<video", "<style", "<svg"):
        assert element not in markup


@pytest.mark.parametrize(
    "hostile",
    [
        "<img src=http://e.vil/x>",
        "![x](http://e.vil/x)",
        "![x][r]\n\n[r]: http://e.vil/x",
        "<svg><image href='http://e.vil/x'/></svg>",
        "<video poster=http://e.vil/x></video>",
        "<form action=/logout><button>Go on</button></form>",
        "<div style='position:fixed;inset:0'>over all</div>",
        "<style>*{background:url(http://e.vil/x)}</style>",
        "<link rel=stylesheet href=http://e.vil/x>",
        "<iframe src=http://e.vil/x></iframe>",
        "> <img src=http://e.vil/x>",
        "- ![x](http://e.vil/x)",
        "| a |\n|---|\n| <img src=x> |",
        "\\![x](http://e.vil/x)",
        "`a` ![x](http://e.vil/x) `b`",
        "``` <img src=x>",
        "    <img src=x>",
        "text\n    ![x](http://e.vil/x)",
    ],
)
def test_no_form_of_an_image_medium_style_or_form_is_left(hostile):
    markup = drawn(as_answer(hostile))
    for element in (
        "<img",
        "<svg",
        "<image",
        "<video",
        "<form",
        "<button",
        "<div",
        "<style",
        "<link",
        "<iframe",
    ):
        assert element not in markup


@pytest.mark.parametrize(
    "text",
    [
        "2*3*4 = 24",
        "a*b*c",
        "2**3**2",
        "x*(y+z)*2",
        "f(x)*g(x)*2",
        "about ~5 to ~6 mg",
        "1*2*3 and 4*5*6",
    ],
)
def test_numbers_keep_their_signs(text):
    assert words_of(drawn(as_answer(text))).strip() == text


def test_a_line_that_begins_with_a_greater_sign_and_a_number_is_no_quotation():
    assert "<blockquote>" not in drawn(as_answer(">5 mg is too much"))
    assert "<blockquote>" in drawn(as_answer("> quoted words"))


def test_what_an_answer_means_as_markdown_still_means_it():
    markup = drawn(as_answer("**bold** and *it* and `code`\n\n- one\n- two\n\n# Title"))
    for element in (
        "<strong>bold</strong>",
        "<em>it</em>",
        "<code>code</code>",
        "<li>one</li>",
        "<h1>",
    ):
        assert element in markup


def test_code_is_drawn_as_written():
    markup = drawn(as_answer("```python\nprint(2*3*4, a < b, ~5)\n```"))
    assert "print(2*3*4, a < b, ~5)" in words_of(markup).replace(JOINER, "")


def test_an_unfinished_answer_is_as_safe_as_a_whole_one():
    text = "See ![x](http://e.vil/x) and <img src=x> and ```\n<img src=y>\n``` then ![z][r]"
    for end in range(len(text)):
        assert "<img" not in drawn(as_answer(text[:end]))


@pytest.mark.parametrize(
    "text", ["The heron nests here.", "Is 7 - 2 = 5 (or not)?", 'a "b": c; d/e%']
)
def test_plain_words_are_left_as_they_are(text):
    assert as_typed(text) == text


@pytest.mark.parametrize(
    "blank", ["&Tab;", "&NewLine;", "&#9;", "&#0010;", "&#13;", "&#x9;", "&#X0A;"]
)
def test_no_blank_hides_the_scheme_of_an_address(blank):
    markup = drawn(
        as_answer(f"[x](java{blank}script:alert(1)) and [y](javascript{blank}:alert(1))")
    )
    assert "java\t" not in markup
    assert "javascript\t" not in markup
    assert "&amp;" in markup or "&#" in markup or "%26" in markup


@pytest.mark.parametrize("name", ["constructor", "__proto__", "toString", "mermaid"])
def test_no_fence_is_named_after_what_every_object_has(name):
    assert as_answer(f"```{name}\nx\n```").startswith("```" + JOINER)
