"""Which workers a reader is shown, in which order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import InvalidRequest
from router.model import Condition
from router.page.lens import Lens, Order, Row, Show


def row(number: int, **changes: Any) -> Row:
    facts = {
        "key": f"ep/{number}",
        "id": number,
        "endpoint": "ep",
        "gpu": "RTX 4090",
        "group": "big",
        "url": f"http://10.0.0.{number}:3000",
        "condition": Condition.READY,
        "trouble": "",
        "score": 100.0,
        "speed": 100.0,
        "slow": None,
        "held_count": 0,
        "foreign": 0.0,
        "free_at": None,
        "warm": None,
        "failed": 0,
        "heard_at": 0.0,
    }
    return Row.of(facts | changes)


def shown(lens: Lens, *rows: Row) -> list[int]:
    return [one.facts["id"] for one in lens.select(rows)[0]]


ROWS = (
    row(1, speed=50.0, score=50.0),
    row(2, held_count=1, free_at=20.0, failed=1, heard_at=9.0),
    row(3, condition=Condition.STALE, heard_at=-30.0),
    row(4, slow=0.5, foreign=10.0, free_at=30.0, warm=["photo-v3"]),
    row(5, condition=Condition.ERROR, trouble="CUDA error", endpoint="other"),
    row(6, condition=Condition.STARTING, gpu="H100"),
)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [5, 3, 4, 2, 1, 6]),
        ({"order": "speed"}, [2, 3, 4, 6, 5, 1]),
        ({"order": "load"}, [4, 2, 1, 3, 6, 5]),
        ({"order": "failed"}, [2, 1, 3, 4, 6, 5]),
        ({"order": "name"}, [1, 2, 3, 4, 6, 5]),
        ({"order": "heard"}, [3, 1, 4, 6, 5, 2]),
        ({"show": "ready"}, [4, 2, 1]),
        ({"show": "busy"}, [4, 2]),
        ({"show": "idle"}, [1]),
        ({"show": "trouble"}, [5, 3]),
        ({"show": "slow"}, [4]),
        ({"endpoint": "other"}, [5]),
        ({"q": " cuda "}, [5]),
        ({"q": "h100"}, [6]),
        ({"q": "PHOTO"}, [4]),
        ({"q": "nowhere"}, []),
        ({"most": "2"}, [5, 3]),
    ],
)
def test_a_lens_chooses_and_orders(query: dict[str, str], expected: list[int]) -> None:
    """By endpoint, text, condition, work and speed."""
    assert shown(Lens.read(query), *ROWS) == expected


@pytest.mark.parametrize("query", [{"show": "x"}, {"order": "x"}, {"most": "0"}, {"most": "501"}, {"most": "³"}])
def test_what_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    """With what would have been right."""
    with pytest.raises(InvalidRequest, match="must be"):
        Lens.read(query)


@given(st.sampled_from(Show), st.sampled_from(Order), st.integers(1, 8), st.permutations(ROWS))
def test_the_order_of_workers_never_depends_on_chance(show: Show, order: Order, most: int, rows: list[Row]) -> None:
    """Else lines would dance; and no more are shown than were asked for, of those that fit."""
    lens = Lens(show=show, order=order, most=most)
    chosen, matching = lens.select(rows)
    assert [one.facts["id"] for one in chosen] == shown(lens, *ROWS)
    assert len(chosen) == min(most, matching)
