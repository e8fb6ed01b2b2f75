"""Whoever looks a reason up finds it, and what to do about it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from sluice.api.base import Reason

GUIDES: Final = Path(__file__).resolve().parents[3] / "docs" / "guides"
TEXT: Final = (GUIDES / "troubleshooting.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    """Rows of the tables of reasons: reason, what is so, what to do."""
    _, _, after = TEXT.partition("## Reasons\n")
    section, _, _ = after.partition("\n## ")
    found = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in cells] for cells in found]


def test_every_reason_has_one_row_and_no_row_is_about_another() -> None:
    listed = Counter(cells[0].strip("`") for cells in rows())
    assert listed == Counter(reason.value for reason in Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_row_says_what_is_so_and_what_to_do(reason: Reason) -> None:
    (cells,) = (cells for cells in rows() if cells[0] == f"`{reason.value}`")
    assert len(cells) == 3
    assert all(cells)


def test_links_within_the_page_lead_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
