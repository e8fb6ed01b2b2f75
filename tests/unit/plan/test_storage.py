"""Sizes of volumes."""

from __future__ import annotations

import pytest

from sluice.plan.storage import Grow, Keep, Refuse, quantity, resize


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1Gi", 2**30),
        ("1.5Gi", 3 * 2**29),
        ("500M", 500_000_000),
        ("1024", 1024),
        ("1Ti", 2**40),
        ("2e9", 2 * 10**9),
        ("1500m", 1),
    ],
)
def test_quantities(text: str, size: int) -> None:
    assert quantity(text) == size


@pytest.mark.parametrize("text", ["", "big", "1XB", "-1Gi"])
def test_what_is_no_quantity_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="isn't a quantity"):
        quantity(text)


def test_volumes_grow_and_never_shrink() -> None:
    assert resize("data-a", "1Gi", "1024Mi") == Keep()
    assert resize("data-a", "1Gi", "2Gi") == Grow("2Gi")
    refused = resize("data-a", "2Gi", "1Gi")
    assert isinstance(refused, Refuse)
    assert "data-a has 2Gi" in refused.message
