"""Parameters of RunPod's routes, in milliseconds."""

import pytest

from lib.dialects.runpod import queries
from lib.errors import InvalidRequest


@pytest.mark.parametrize(
    ("given", "waited_s"),
    [("2000", 2.0), ("1500.5", 1.5005), ("1e3", 1.0), ("0.5", 1.0), ("0", 1.0), ("9" * 40, 300.0)],
)
def test_a_wait_is_any_number(given: str, waited_s: float) -> None:
    """Out of range it is the nearest one in it."""
    assert queries.wait_s({"wait": given}, usual_s=7.0) == waited_s
    assert queries.wait_s({}, usual_s=7.0) == 7.0


def test_a_life_is_a_week_at_most() -> None:
    """However large the number; without one it stays as it is."""
    assert queries.ttl_s({"ttl": "9" * 300}) == queries.WEEK_MS / 1000
    assert queries.ttl_s({"ttl": "0.5"}) == 0.0005
    assert queries.ttl_s({}) is None


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "1e999", "soon", "0x10", ""])
def test_what_is_no_number_is_refused(given: str) -> None:
    """With the parameter's name."""
    for read in (queries.wait_s, queries.ttl_s):
        with pytest.raises(InvalidRequest, match="milliseconds"):
            read({"wait": given, "ttl": given})
