"""When a webhook is tried again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.delivery.schedules import RUNPOD, STANDARD, Verdict, retry_after_s, schedules, short
from lib.jobs.model import WebhookScheme
from lib.settings import DeliverySettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def waits(schedule_of: WebhookScheme, attempts: int = 3) -> list[float]:
    """Seconds after each failure, without the random part."""
    schedule = schedules(DeliverySettings(WEBHOOK_ATTEMPTS=attempts))[schedule_of]
    found: list[float] = []
    while (at := schedule.next_at(failures=len(found) + 1, now=NOW, chance=0.0)) is not None:
        found.append((at - NOW).total_seconds())
    return found


def test_every_scheme_has_a_schedule() -> None:
    """None is forgotten."""
    assert set(schedules(DeliverySettings())) == set(WebhookScheme)


def test_the_wrappers_schedule_is_short() -> None:
    """As many attempts as configured, seconds apart, a minute at most."""
    assert waits(WebhookScheme.WRAPPER, 3) == [1, 2]
    assert waits(WebhookScheme.WRAPPER, 1) == []
    assert waits(WebhookScheme.WRAPPER, 10)[-3:] == [60, 60, 60]


def test_the_standard_schedule_takes_three_days() -> None:
    """Ten attempts: at once, and after the published waits."""
    hour = 3600
    expected = [5, 300, 1800, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
    assert waits(WebhookScheme.STANDARD) == expected


def test_runpods_schedule_is_exact() -> None:
    """Three attempts, ten seconds apart, whatever chance says."""
    assert waits(WebhookScheme.RUNPOD) == [10, 10]
    late = RUNPOD.next_at(failures=1, now=NOW, chance=1.0)
    assert late is not None
    assert (late - NOW).total_seconds() == 10


@pytest.mark.parametrize("scheme", [WebhookScheme.SALAD, WebhookScheme.SALAD_SIGNED])
def test_salads_schedule(scheme: WebhookScheme) -> None:
    """As many attempts in all as ``PROMPT_WEBHOOK_RETRIES`` says, from a second on apart, whatever failed."""
    schedule = schedules(DeliverySettings(PROMPT_WEBHOOK_RETRIES=4))[scheme]
    assert schedule.waits_s == (1, 2, 4)
    assert schedule.judge(404) is Verdict.AGAIN
    assert schedules(DeliverySettings(PROMPT_WEBHOOK_RETRIES=1))[scheme].waits_s == ()


@pytest.mark.parametrize(
    ("status", "brief", "patient", "exact"),
    [
        (200, Verdict.DELIVERED, Verdict.DELIVERED, Verdict.DELIVERED),
        (201, Verdict.DELIVERED, Verdict.DELIVERED, Verdict.AGAIN),
        (204, Verdict.DELIVERED, Verdict.DELIVERED, Verdict.AGAIN),
        (302, Verdict.REFUSED, Verdict.AGAIN, Verdict.AGAIN),
        (400, Verdict.REFUSED, Verdict.AGAIN, Verdict.AGAIN),
        (408, Verdict.AGAIN, Verdict.AGAIN, Verdict.AGAIN),
        (410, Verdict.REFUSED, Verdict.GONE, Verdict.AGAIN),
        (429, Verdict.AGAIN, Verdict.AGAIN, Verdict.AGAIN),
        (500, Verdict.AGAIN, Verdict.AGAIN, Verdict.AGAIN),
        (503, Verdict.AGAIN, Verdict.AGAIN, Verdict.AGAIN),
    ],
)
def test_what_an_answer_means(status: int, brief: Verdict, patient: Verdict, exact: Verdict) -> None:
    """The wrapper's scheme repeats what may pass; Standard Webhooks take 2xx for yes and 410 for never; RunPod takes
    200 alone for yes."""
    assert short(3).judge(status) is brief
    assert STANDARD.judge(status) is patient
    assert RUNPOD.judge(status) is exact


@given(st.integers(1, 9), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1e9)))
def test_waits_are_spread_and_bounded(failures: int, chance: float, asked_s: float | None) -> None:
    """Never earlier than the schedule says, at most a fifth later, and never over an hour for the target's sake."""
    at = STANDARD.next_at(failures=failures, now=NOW, chance=chance, retry_after_s=asked_s)
    assert at is not None
    wait_s, planned_s = (at - NOW).total_seconds(), STANDARD.waits_s[failures - 1]
    assert planned_s <= wait_s <= max(planned_s * 1.2, 3600) + 0.001
    if asked_s is not None:
        assert wait_s >= min(asked_s, 3600) - 0.001


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 00:01:00 -0000", 60.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("9" * 400, 99999999999999999999.0),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    """Seconds or a date; nonsense is as good as nothing, whatever its size."""
    assert retry_after_s(header, NOW) == expected
    assert short(2).next_at(failures=1, now=NOW, chance=0, retry_after_s=expected) is not None
