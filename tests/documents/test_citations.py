"""Citations: every usual form counts, pages that do not exist do not."""

from __future__ import annotations

import pytest

from nexusquant.documents.citations import find_cited_pages


@pytest.mark.parametrize(
    ("answer", "pages"),
    [
        ("So it is [p. 3].", (3,)),
        ("So it is (p.3).", (3,)),
        ("Page 3 says so, and page 1 too.", (3, 1)),
        ("See pages 3-5.", (3, 4, 5)),
        ("See pp. 3–5, 8 and 9", (3, 4, 5, 8, 9)),
        ("[page 3] [page 3]", (3,)),
        ("According to page 12, it is 7.", (12,)),
        ("Pages 1 & 2", (1, 2)),
        ("no citation, but 3 apples, a homepage 4 and step 5", ()),
        ("p", ()),
    ],
)
def test_usual_forms_are_found(answer: str, pages: tuple[int, ...]) -> None:
    assert find_cited_pages(answer, range(1, 20)) == pages


def test_made_up_pages_are_left_out() -> None:
    answer = "See page 99, pages 2-9999999 and p. 5000000000000."
    assert find_cited_pages(answer, {2, 4}) == (2, 4)
