"""Capabilities that we hand out: the token of a job, the signature of a link to a file. HMAC-SHA256 under one key.

Each kind of text is signed under its own name, so that one can never be taken for the other. Nothing is stored: who
changes the key takes every token and link back.
"""

import hashlib
import hmac
import json
from datetime import datetime
from urllib.parse import quote

LEAST_KEY_BYTES = 32
_MOST_DIGITS = 12


class Signer:
    """Makes and checks tokens and links. ``key`` is secret, random, and the same in each life of the worker."""

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_KEY_BYTES:
            raise ValueError(f"the signing key has {len(key)} bytes, expected at least {LEAST_KEY_BYTES}")
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)

    def job_token(self, job_id: str) -> str:
        """Return what lets its bearer see and cancel this job: 64 hex digits."""
        return self._sign("job", job_id)

    def job_token_valid(self, job_id: str, token: str) -> bool:
        """Whether ``token`` is this job's; compared in constant time."""
        return same(self.job_token(job_id), token)

    def output_url(self, base_url: str, job_id: str, name: str, *, expires_at: datetime) -> str:
        """Return a link to one file of a job: ``<base_url>/outputs/<job_id>/<name>?expires=<unix>&signature=<hex>``."""
        expires = str(int(expires_at.timestamp()))
        path = f"/outputs/{quote(job_id, safe='')}/{quote(name, safe='', errors='surrogatepass')}"
        return f"{base_url.rstrip('/')}{path}?expires={expires}&signature={self._sign('output', job_id, expires, name)}"

    def output_valid(self, job_id: str, name: str, expires: str, signature: str, now: datetime) -> bool:
        """Whether ``expires`` and ``signature`` of a link's query open this file now."""
        if not (expires.isascii() and expires.isdigit() and len(expires) <= _MOST_DIGITS):
            return False
        fits = same(self._sign("output", job_id, expires, name), signature)
        return fits and now.timestamp() < int(expires)

    def _sign(self, *parts: str) -> str:
        signing = self._keyed.copy()
        signing.update(json.dumps(parts).encode())
        return signing.hexdigest()


def same(wanted: str, given: str) -> bool:
    """Compare secrets in constant time; ``given`` may be what a header held that is no text."""
    return hmac.compare_digest(wanted.encode(), given.encode("utf-8", "surrogatepass"))
