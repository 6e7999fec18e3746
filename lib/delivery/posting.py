"""One attempt to hand one message to its target, and what came of it. Neither waits nor remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from aiohttp import ClientConnectorCertificateError, ClientError

from lib.clock import Clock
from lib.delivery.schedules import Schedule, Verdict, retry_after_s
from lib.delivery.signatures import HEADERS, UnusableSecret
from lib.errors import UnsafeInput
from lib.jobs.model import OutboxItem, WebhookScheme
from lib.storage.http import GuardedHttp


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """``cause`` says why it failed, in words that name neither the URL nor a secret. ``*_at``: aware UTC."""

    item: OutboxItem
    verdict: Verdict
    begun_at: datetime
    ended_at: datetime
    status: int | None = None
    cause: str = ""
    retry_after_s: float | None = None


class Posts:
    """POSTs messages, signed in their scheme's way, behind the address guard."""

    def __init__(self, *, http: GuardedHttp, schedules: Mapping[WebhookScheme, Schedule], clock: Clock) -> None:
        self._http = http
        self._schedules = schedules
        self._clock = clock

    async def post(self, item: OutboxItem) -> Attempt:
        """Try once; failures are in the answer, never raised."""
        untried = Attempt(item=item, verdict=Verdict.AGAIN, begun_at=(now := self._clock.now()), ended_at=now)
        return replace(await self._tried(untried), ended_at=self._clock.now())

    async def _tried(self, attempt: Attempt) -> Attempt:
        item, target = attempt.item, attempt.item.target
        schedule = self._schedules[target.scheme]
        try:
            headers = {"Content-Type": "application/json"} | HEADERS[target.scheme](item, attempt.begun_at)
            answer = await self._http.answer_to(
                target.url, body=item.body, headers=headers, timeout_s=target.timeout_s, trusted=target.operator
            )
        except UnusableSecret as error:
            return replace(attempt, verdict=Verdict.REFUSED, cause=f"the secret {error}")
        except UnsafeInput as error:
            return replace(attempt, verdict=Verdict.REFUSED, cause=error.message)
        except ClientConnectorCertificateError:
            verdict = Verdict.AGAIN if schedule.persistent else Verdict.REFUSED
            return replace(attempt, verdict=verdict, cause="the certificate is not valid")
        except (ClientError, OSError) as error:  # TimeoutError is an OSError
            return replace(attempt, cause=type(error).__name__)
        verdict = schedule.judge(answer.status)
        return replace(
            attempt,
            verdict=verdict,
            status=answer.status,
            cause="" if verdict is Verdict.DELIVERED else f"status {answer.status}",
            retry_after_s=retry_after_s(answer.headers.get("Retry-After"), self._clock.now()),
        )
