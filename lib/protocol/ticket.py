"""Tickets: what a router of ours gives for one request to one worker, good once and for a short time. Pure.

Form: ``v1.<payload>.<signature>.<certificate>.<signature of the certificate>``, each part base64url without padding.
``payload`` is the JSON ``{"exp": <epoch s>, "jti": "<random>", "url": "<worker>", "idx": <request_idx>}``, with ``sub``
and ``base`` for a request that the router relays; it is signed (its part of the text, with ``v1.`` before it) with an
Ed25519 key. ``certificate`` is the JSON ``{"exp": <epoch s>, "key": "<base64url of that public key>"}``; it is signed
(its part of the text, with ``pyworker-ticket.`` before it) with the router's RSA key, PKCS#1 v1.5 over SHA-256. So a
worker needs no key but that of ``/pubkey/``, and a ticket costs a fraction of an RSA signature. It comes in
``auth_data["ticket"]``, or, below ``/relay/``, in the header ``X-Pyworker-Ticket``.
"""

import base64
import binascii
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from lib.errors import Unauthorized
from lib.protocol.auth import SignatureCheck

TICKET_FIELD = "ticket"
TICKET_HEADER = "X-Pyworker-Ticket"
LEEWAY_S = 30.0
"""Clocks of routers and workers may differ so much."""
LONGEST_TEXT = 4096
_VERSION = "v1"
_PURPOSE = "pyworker-ticket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A ticket whose signatures fit. Times are epoch seconds. ``sub`` owns what is done with it (a tenant's name space,
    ``images/studio``) and ``base`` is what links in the answer begin with; each is "" for none."""

    id: str
    url: str
    request_idx: int
    expires_at: float
    sub: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketKey:
    """Signs tickets until ``expires_at``; the router makes a new one in time, and keeps none on disk."""

    key: Ed25519PrivateKey = field(repr=False)
    certificate: str
    expires_at: float

    def issue(self, *, url: str, request_idx: int, now: float, life_s: float, sub: str = "", base: str = "") -> str:
        """Return a new ticket; ``sub`` and ``base`` as ``Ticket`` says."""
        payload = {"exp": int(now + life_s), "jti": secrets.token_urlsafe(12), "url": url, "idx": request_idx}
        payload |= {name: text for name, text in (("sub", sub), ("base", base)) if text}
        signed = f"{_VERSION}.{_packed(json.dumps(payload, separators=(',', ':')).encode())}"
        return f"{signed}.{_packed(self.key.sign(signed.encode()))}.{self.certificate}"


def new_ticket_key(rsa: RSAPrivateKey, *, now: float, life_s: float) -> TicketKey:
    """Make a key for tickets, vouched for by the router's own."""
    key = Ed25519PrivateKey.generate()
    told = {"exp": int(now + life_s), "key": _packed(key.public_key().public_bytes_raw())}
    part = _packed(json.dumps(told, separators=(",", ":")).encode())
    signature = rsa.sign(f"{_PURPOSE}.{part}".encode(), PKCS1v15(), SHA256())
    return TicketKey(key=key, certificate=f"{part}.{_packed(signature)}", expires_at=now + life_s)


class Vouched:
    """Remembers ticket keys that a router's key vouched for: every ticket of a day brings the same one along."""

    MOST = 16

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[tuple[RSAPublicKey, ...], Ed25519PublicKey, float]] = OrderedDict()

    def key(self, part: str, signature: str, keys: tuple[RSAPublicKey, ...], *, now: float) -> Ed25519PublicKey:
        """Return the key of a certificate. Raises: ValueError, KeyError, TypeError."""
        name = f"{part}.{signature}"
        known = self._known.get(name)
        if known is None or known[0] != keys:
            known = (keys, *_vouched(part, _unpacked(signature), keys))
            self._known[name] = known
            if len(self._known) > self.MOST:
                self._known.popitem(last=False)
        if known[2] + LEEWAY_S < now:
            raise ValueError("its certificate is over")
        return known[1]


def read_ticket(text: str, keys: Iterable[RSAPublicKey], *, now: float, vouched: Vouched | None = None) -> Ticket:
    """Return a ticket that one of these routers' keys vouches for, and that is not over. Raises: Unauthorized."""
    parts = text.split(".")
    if len(text) > LONGEST_TEXT or len(parts) != 5 or parts[0] != _VERSION:
        raise Unauthorized("This is no ticket.")
    try:
        key = (vouched or Vouched()).key(parts[3], parts[4], tuple(keys), now=now)
        key.verify(_unpacked(parts[2]), f"{_VERSION}.{parts[1]}".encode())
        payload = json.loads(_unpacked(parts[1]))
        ticket = Ticket(
            id=str(payload["jti"]),
            url=str(payload["url"]),
            request_idx=int(payload["idx"]),
            expires_at=float(payload["exp"]),
            sub=str(payload.get("sub") or ""),
            base=str(payload.get("base") or ""),
        )
    except (InvalidSignature, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Unauthorized("The ticket's signature does not fit; ask /route/ for a new one.") from error
    if ticket.expires_at + LEEWAY_S < now:
        raise Unauthorized("The ticket is over; ask /route/ for a new one.")
    return ticket


class SpentTickets:
    """Remembers tickets until they are over, so that each is good once."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def spend(self, ticket: Ticket, *, now: float) -> None:
        """Raises: Unauthorized for one that was spent."""
        if ticket.id in self._until:
            raise Unauthorized("The ticket was used before; ask /route/ for a new one.")
        self._until[ticket.id] = ticket.expires_at + LEEWAY_S
        oldest = next(iter(self._until))
        while self._until[oldest] < now:
            del self._until[oldest]
            oldest = next(iter(self._until), ticket.id)


class TicketCheck:
    """Says yes or no to tickets for this worker, each once. Keys and own URLs are those of its ``SignatureCheck``."""

    def __init__(self, signatures: SignatureCheck, *, now: Callable[[], float] = time.time) -> None:
        self._signatures = signatures
        self._now = now
        self._spent = SpentTickets()
        self._vouched = Vouched()

    async def spend(self, text: str, *, request_idx: int | None = None) -> Ticket:
        """Return the ticket, which is used up then; with ``request_idx`` it must be that request's. Raises:
        Unauthorized."""
        ticket = await self._read(text)
        self._signatures.check_own_url(ticket.url)
        if request_idx is not None and ticket.request_idx != request_idx:
            raise Unauthorized("The ticket is another request's.")
        self._spent.spend(ticket, now=self._now())
        return ticket

    async def _read(self, text: str) -> Ticket:
        """Fetch the routers' keys again when it does not fit: they may have changed."""
        keys = self._signatures.keys
        try:
            return read_ticket(text, keys.keys, now=self._now(), vouched=self._vouched)
        except Unauthorized:
            before = keys.keys
            await keys.refresh()
            if keys.keys is before:
                raise
        return read_ticket(text, keys.keys, now=self._now(), vouched=self._vouched)


def ticket_of(auth_data: Mapping[str, Any]) -> str:
    """The ticket in ``auth_data``, "" if there is none."""
    value = auth_data.get(TICKET_FIELD)
    return value if isinstance(value, str) else ""


def _vouched(part: str, signature: bytes, keys: tuple[RSAPublicKey, ...]) -> tuple[Ed25519PublicKey, float]:
    """Return the key of a certificate, and its end."""
    text = f"{_PURPOSE}.{part}".encode()
    if not any(_fits(key, signature, text) for key in keys):
        raise ValueError("no key vouches for it")
    told = json.loads(_unpacked(part))
    return Ed25519PublicKey.from_public_bytes(_unpacked(str(told["key"]))), float(told["exp"])


def _fits(key: RSAPublicKey, signature: bytes, text: bytes) -> bool:
    try:
        key.verify(signature, text, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpacked(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
