"""lib.jobs.attempts: how long an execution may take; the rest is seen through the service and the pipeline."""

import pytest

from lib.jobs.attempts import limit_s
from tests.fakes.jobs import spec


@pytest.mark.parametrize(
    ("asked_s", "operators_s", "ours_s", "strangers_s"),
    [(None, None, None, None), (None, 60, 60, 60), (5, None, 5, 5), (5, 60, 5, 5), (600, 60, 600, 60)],
)
def test_a_stranger_only_lowers_the_operators_limit(
    asked_s: float | None, operators_s: float | None, ours_s: float | None, strangers_s: float | None
) -> None:
    """Whoever is no stranger is believed in both directions."""
    assert limit_s(spec(timeout_s=asked_s), operators_s) == ours_s
    assert limit_s(spec(timeout_s=asked_s, stranger=True), operators_s) == strangers_s
