"""How a webhook's body is signed, by scheme; and which secrets a scheme can use.

A secret is text as its owner wrote it. The key that signs is what the scheme makes of it.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from standardwebhooks import Webhook

from lib.errors import InvalidRequest
from lib.jobs.model import OutboxItem, WebhookScheme

PREFIX = "whsec_"
MOST_KEYS = 8
"""Each one signs every attempt, on the event loop."""
SECRET = ("body", "input", "webhook", "secret")

_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")

Headers = Callable[[OutboxItem, datetime], dict[str, str]]


class UnusableSecret(Exception):
    """The scheme can't sign with this secret; the text says why, without it."""


def raw_signature(body: bytes, secret: str) -> str:
    """The API wrapper's ``X-Webhook-Signature``: HMAC-SHA256 over the exact body, keyed with the raw secret."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def standard_keys(secret: str) -> tuple[bytes, ...]:
    """Return the keys of a Standard Webhooks secret: base64, ``whsec_`` before it or not, several separated by blanks
    while one replaces the other. Raises: UnusableSecret."""
    parts = secret.split(maxsplit=MOST_KEYS)
    if len(parts) > MOST_KEYS:
        raise UnusableSecret(f"has more than {MOST_KEYS} keys")
    keys = tuple(_decoded(part.removeprefix(PREFIX)) for part in parts)
    if not keys or not all(keys):
        raise UnusableSecret("is empty")
    return keys


def check_secret(secret: str, *, loc: Sequence[str] = SECRET) -> None:
    """Refuse a secret that Standard Webhooks can't use; ``loc`` is where the request has it. Raises: InvalidRequest."""
    try:
        standard_keys(secret)
    except UnusableSecret as error:
        field = ".".join(loc[1:])
        message = f"{field} {error}: Standard Webhooks want base64, for example whsec_ and 24 random bytes in base64"
        problem = {"loc": list(loc), "msg": message, "type": "value_error"}
        raise InvalidRequest(message, details={"field": field, "errors": [problem]}) from None


def lenient_key(secret: str) -> bytes:
    """Return the key of a secret as Salad's API reads it: base64 decoded by Node, which never complains. ``whsec_`` is
    taken off, which Salad forgets, so that secrets in the usual form verify with the usual libraries."""
    text = secret.removeprefix(PREFIX).partition("=")[0].replace("-", "+").replace("_", "/")
    kept = _NOT_BASE64.sub("", text)
    whole = kept[:-1] if len(kept) % 4 == 1 else kept
    return base64.b64decode(whole + "=" * (-len(whole) % 4))


def standard_headers(*, message_id: str, at: datetime, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """Return ``webhook-id``, ``webhook-timestamp`` and, with keys, ``webhook-signature`` with one signature a key."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(at.timestamp()))}
    if keys:
        text = body.decode()
        headers["webhook-signature"] = " ".join(Webhook(key).sign(message_id, at, text) for key in keys)
    return headers


def salad_headers(*, message_id: str, at: datetime, body: bytes, secret: str) -> dict[str, str]:
    """Return the same headers for Salad's API. Always signed: an operator without a secret has the empty key."""
    key = lenient_key(secret)
    headers = standard_headers(message_id=message_id, at=at, body=body, keys=(key,) if key else ())
    if not key:  # the library refuses it
        text = f"{message_id}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(b"", text, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _wrapper(item: OutboxItem, at: datetime) -> dict[str, str]:
    secret = item.target.secret
    return {"X-Webhook-Signature": raw_signature(item.body, secret)} if secret else {}


def _standard(item: OutboxItem, at: datetime) -> dict[str, str]:
    keys = standard_keys(item.target.secret) if item.target.secret else ()
    return standard_headers(message_id=item.message_id, at=at, body=item.body, keys=keys)


def _salad_signed(item: OutboxItem, at: datetime) -> dict[str, str]:
    name = item.target.message_name or item.message_id
    return salad_headers(message_id=name, at=at, body=item.body, secret=item.target.secret or "")


def _unsigned(item: OutboxItem, at: datetime) -> dict[str, str]:
    return {}


HEADERS: Mapping[WebhookScheme, Headers] = {
    WebhookScheme.WRAPPER: _wrapper,
    WebhookScheme.STANDARD: _standard,
    WebhookScheme.RUNPOD: _unsigned,
    WebhookScheme.SALAD: _unsigned,
    WebhookScheme.SALAD_SIGNED: _salad_signed,
}
"""What each scheme adds to a message that is sent now. Raises: UnusableSecret."""


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise UnusableSecret("is not valid base64") from None
