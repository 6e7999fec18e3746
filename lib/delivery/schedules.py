"""When a webhook's message is tried again, and when it is given up; pure decisions. A scheme is a line of data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus

from lib.jobs.model import WebhookScheme
from lib.settings import DeliverySettings

MINUTE_S = 60.0
HOUR_S = 3600.0
RETRY_AFTER_MAX_S = HOUR_S
"""A target may ask for patience, not for its message to be forgotten."""
SHORT_MAX_S = 60.0
TRANSIENT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class Verdict(StrEnum):
    """What an attempt came to: taken, worth another attempt, useless to repeat, or wanted never again."""

    DELIVERED = "delivered"
    AGAIN = "again"
    REFUSED = "refused"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """``waits_s``: seconds after the first, second, ... failed attempt; none left = given up. ``spread`` lengthens each
    one by a random part of itself, so that a target that comes back is not met by everybody at once.

    ``persistent``: every failure is worth another attempt, 410 alone means never again. Otherwise only those are that
    pass by themselves (408, 429, 5xx, no answer). ``exact``: 200 alone delivers, and no other answer is more than a
    failed attempt."""

    waits_s: tuple[float, ...]
    spread: float = 0.2
    persistent: bool = False
    exact: bool = False

    def judge(self, status: int) -> Verdict:
        """Say what an answer means. Only 2xx delivers; redirects are not followed, so they fail."""
        if self.exact:
            return Verdict.DELIVERED if status == HTTPStatus.OK else Verdict.AGAIN
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return Verdict.DELIVERED
        if self.persistent:
            return Verdict.GONE if status == HTTPStatus.GONE else Verdict.AGAIN
        transient = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in TRANSIENT
        return Verdict.AGAIN if transient else Verdict.REFUSED

    def next_at(
        self, *, failures: int, now: datetime, chance: float, retry_after_s: float | None = None
    ) -> datetime | None:
        """When to try again after so many failures, ``None`` = give up. ``chance`` (0 to 1) is drawn by the caller."""
        if failures > len(self.waits_s):
            return None
        wait_s = self.waits_s[failures - 1] * (1.0 + self.spread * chance)
        return now + timedelta(seconds=max(wait_s, min(retry_after_s or 0.0, RETRY_AFTER_MAX_S)))


def short(attempts: int) -> Schedule:
    """So many attempts within seconds: 1, 2, 4, ... seconds between them, a minute at most."""
    return Schedule(waits_s=tuple(min(2.0**number, SHORT_MAX_S) for number in range(attempts - 1)))


STANDARD = Schedule(
    waits_s=(
        5.0,
        5 * MINUTE_S,
        30 * MINUTE_S,
        2 * HOUR_S,
        5 * HOUR_S,
        10 * HOUR_S,
        14 * HOUR_S,
        20 * HOUR_S,
        24 * HOUR_S,
    ),
    persistent=True,
)
"""What Standard Webhooks suggest: ten attempts over three days."""

RUNPOD = Schedule(waits_s=(10.0, 10.0), spread=0.0, persistent=True, exact=True)
"""As RunPod documents it: three attempts, ten seconds apart, and the receiver has to answer 200."""


def schedules(settings: DeliverySettings) -> Mapping[WebhookScheme, Schedule]:
    """Return the schedule of each scheme. Salad's tries whatever failed again, as often as the wrapper's tries what may
    pass."""
    salad = replace(short(settings.salad_webhook_attempts), persistent=True)
    return {
        WebhookScheme.WRAPPER: short(settings.webhook_attempts),
        WebhookScheme.STANDARD: STANDARD,
        WebhookScheme.RUNPOD: RUNPOD,
        WebhookScheme.SALAD: salad,
        WebhookScheme.SALAD_SIGNED: salad,
    }


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Read a ``Retry-After`` header: seconds or a date; what is neither counts as not given."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value[:20])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max((at - now).total_seconds(), 0.0)
