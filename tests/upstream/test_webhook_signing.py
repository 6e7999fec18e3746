"""The API wrapper's webhook: headers, body and signature as its receivers check them."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from lib.delivery.posting import Posts
from lib.delivery.schedules import Verdict, schedules
from lib.dialects.wrapper.render import render_webhook
from lib.jobs.model import JobEvent, OutboxItem, WebhookTarget
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from tests.fakes.clock import START, FakeClock
from tests.fakes.http_hosts import Names, Seen, WebHost
from tests.upstream.stand_ins import DONE

SECRET = "a secret of the receiver's"
SIGNATURE = "X-Webhook-Signature"


async def received(*, secret: str | None, extra: Mapping[str, Any] | None = None) -> Seen:
    """What arrives at a receiver on loopback."""
    guard = AddressGuard(allow=["hooks.example"], lookup=Names(hooks_example=[["127.0.0.1"]]))
    async with WebHost() as host, GuardedHttp(guard) as http:
        target = WebhookTarget(url=host.url("/hook", host="hooks.example"), secret=secret, extra_params=extra or {})
        item = OutboxItem(
            message_id="msg_1",
            job_id=DONE.job_id,
            owner="",
            event=JobEvent.COMPLETED,
            target=target,
            body=render_webhook(DONE, target),
            created_at=START,
            next_at=START,
        )
        posts = Posts(http=http, schedules=schedules(DeliverySettings()), clock=FakeClock())
        assert (await posts.post(item)).verdict is Verdict.DELIVERED
        (seen,) = host.seen
        return seen


def verifies(body: bytes, headers: Mapping[str, str], secret: str) -> bool:
    """A receiver's check, as ``docs/dialects/wrapper.md`` shows it."""
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, headers.get(SIGNATURE, ""))


async def test_without_a_secret_there_is_no_signature() -> None:
    """The type of the body is told."""
    seen = await received(secret=None)
    assert SIGNATURE not in seen.headers
    assert seen.headers["Content-Type"] == "application/json"
    assert json.loads(seen.body)["status"] == "completed"


async def test_the_signature_is_of_the_exact_bytes() -> None:
    """Lowercase hex of HMAC-SHA256, under the raw secret."""
    seen = await received(secret=SECRET)
    digest = hmac.new(SECRET.encode(), seen.body, hashlib.sha256).hexdigest()
    assert seen.headers[SIGNATURE] == f"sha256={digest}"


async def test_a_tampered_byte_fails() -> None:
    """Anywhere in the body, or another secret."""
    seen = await received(secret=SECRET)
    for at in (0, len(seen.body) // 2, len(seen.body) - 1):
        tampered = seen.body[:at] + bytes([seen.body[at] ^ 1]) + seen.body[at + 1 :]
        assert not verifies(tampered, seen.headers, SECRET)
    assert not verifies(seen.body, seen.headers, SECRET + "!")


async def test_extra_parameters_are_under_their_own_key_and_signed() -> None:
    """They can't stand in for a field of ours."""
    seen = await received(secret=SECRET, extra={"order": 7, "status": "failed"})
    body = json.loads(seen.body)
    assert (body["extra"], body["status"]) == ({"order": 7, "status": "failed"}, "completed")
    assert verifies(seen.body, seen.headers, SECRET)
    assert not verifies(seen.body.replace(b'"order":7', b'"order":8'), seen.headers, SECRET)


async def test_the_documented_recipe_verifies() -> None:
    """What the page tells receivers to do."""
    seen = await received(secret=SECRET)
    assert verifies(seen.body, seen.headers, SECRET)
    assert set(json.loads(seen.body)) == {"id", "status", "message", "output", "timings"}
