"""The router's key, made once and kept; what it signs: routes, in the form that the worker's version expects, and
tickets for workers of ours.

A signature of form D covers the worker's URL alone, so one is made for each and kept. The older forms are signed in a
thread. Tickets are signed with a quick key of a day's life.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from lib.clock import Clock
from lib.lanes import Lane
from lib.protocol.auth import SignatureForm, sign
from lib.protocol.ticket import TICKET_FIELD, TicketKey, new_ticket_key
from lib.settings import SettingsError
from router.kept import write_private
from router.registry import Worker
from router.reports import form_of

FILE = "signing_key.pem"
KEY_BITS = 2048
SIGNATURES_KEPT = 20_000
TICKET_KEY_LIFE_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFields:
    """What a READY answer says of its request."""

    endpoint: str
    cost: float
    reqnum: int
    request_idx: int


class Signing:
    """Signs what clients take to workers."""

    def __init__(self, key: RSAPrivateKey, *, clock: Clock, ticket_life_s: float = 300.0) -> None:
        self._key = key
        self._clock = clock
        self._ticket_life_s = ticket_life_s
        self._signatures: OrderedDict[str, str] = OrderedDict()
        self._lane = Lane(1, name="router-signing")
        self._ticket_key: TicketKey | None = None
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public_pem = public.decode()

    async def ready(self, worker: Worker, fields: RouteFields) -> dict[str, Any]:
        """Return the signed part of a READY answer; one for a worker of ours has a ticket too."""
        url = worker.record.url
        answer: dict[str, Any] = {
            "url": url,
            "cost": fields.cost,
            "endpoint": fields.endpoint,
            "reqnum": fields.reqnum,
            "request_idx": fields.request_idx,
        }
        form = form_of(worker.record.report)
        if form is SignatureForm.D:
            answer["signature"] = self._url_signature(url)
        else:
            answer["signature"] = await self._lane.run(partial(sign, form, answer, self._key))
        if worker.is_ours:
            answer[TICKET_FIELD] = self.ticket(url, fields.request_idx)
        return answer

    def ticket(self, url: str, request_idx: int, *, sub: str = "", base: str = "") -> str:
        """Return a ticket for one request to the worker at this URL. With ``sub``, the tenant who owns what is done, it
        opens the worker's API below ``/relay/``; links in the answer begin with ``base``."""
        now = self._clock.now().timestamp()
        key = self._ticket_key
        if key is None or now > key.expires_at - 2 * self._ticket_life_s:
            key = self._ticket_key = new_ticket_key(
                self._key, now=now, life_s=max(TICKET_KEY_LIFE_S, 4 * self._ticket_life_s)
            )
        return key.issue(url=url, request_idx=request_idx, now=now, life_s=self._ticket_life_s, sub=sub, base=base)

    def _url_signature(self, url: str) -> str:
        signature = self._signatures.get(url)
        if signature is None:
            signature = self._signatures[url] = sign(SignatureForm.D, {"url": url}, self._key)
            if len(self._signatures) > SIGNATURES_KEPT:
                self._signatures.popitem(last=False)
        return signature


def load_signing_key(path: Path) -> RSAPrivateKey:
    """Read the key; make and write one (mode 0600) if it is not there. Blocks. Raises: SettingsError."""
    try:
        if not path.exists():
            key = generate_private_key(public_exponent=65537, key_size=KEY_BITS)
            write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            return key
        found = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SettingsError(f"ROUTER_SIGNING_KEY={path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"ROUTER_SIGNING_KEY={path}: expected an RSA key in PEM, without a password") from error
    if not isinstance(found, RSAPrivateKey):
        raise SettingsError(f"ROUTER_SIGNING_KEY={path}: expected an RSA key")
    return found
