"""The autoscaler's public keys: fetched from each of its addresses at start, and again when a signature fails.

So a router may change its key without a restart of its workers.
"""

import asyncio
import logging

import aiohttp
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from lib.clock import Clock
from lib.fleet.uplink import Uplink
from lib.protocol.auth import load_public_key

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
REFRESH_INTERVAL_S = 10.0
"""Bad signatures make us fetch the keys again no more often than this."""


class PubkeySource:
    """Implements ``lib.protocol.auth.KeySource``: one key an address, the last one that was fetched from there."""

    def __init__(self, uplink: Uplink, *, clock: Clock) -> None:
        self._uplink = uplink
        self._clock = clock
        self._by_address: dict[str, RSAPublicKey] = {}
        self._keys: tuple[RSAPublicKey, ...] = ()
        self._lock = asyncio.Lock()
        self._fetched_at: float | None = None
        self.problem: str | None = "the autoscaler's public key is not loaded yet" if uplink.addresses else None
        """Why there is no key; ``None`` when there is one."""

    @property
    def keys(self) -> tuple[RSAPublicKey, ...]:
        return self._keys

    async def load(self) -> None:
        """Fetch until there is a key, for ever if need be, with growing pauses. Run it as a task."""
        pause_s = FIRST_PAUSE_S
        while self._uplink.addresses:
            await self._fetch()
            if self._keys:
                return
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def refresh(self) -> None:
        """Fetch the keys again; callers at the same time share one fetch, and one lately done is enough."""
        if self._uplink.addresses and not self._recent():
            await self._fetch(unless_recent=True)

    async def _fetch(self, *, unless_recent: bool = False) -> None:
        async with self._lock:
            if unless_recent and self._recent():
                return
            async with asyncio.TaskGroup() as group:
                for address in self._uplink.addresses:
                    group.create_task(self._fetch_from(address))
            self._fetched_at = self._clock.monotonic()
            self._take()

    async def _fetch_from(self, address: str) -> None:
        try:
            self._by_address[address] = load_public_key(await self._uplink.get_key(address))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self.problem = f"no public key from {address}/pubkey/: {type(error).__name__}: {error}"
            log.warning(
                "public key was not fetched",
                extra={"event": "pubkey.failed", "address": address, "reason": f"{type(error).__name__}: {error}"},
            )

    def _take(self) -> None:
        keys = tuple(self._by_address[address] for address in self._uplink.addresses if address in self._by_address)
        if keys:
            self.problem = None
        if keys != self._keys:
            self._keys = keys
            log.info("public keys loaded", extra={"event": "pubkey.loaded", "count": len(keys)})

    def _recent(self) -> bool:
        return self._fetched_at is not None and self._clock.monotonic() - self._fetched_at < REFRESH_INTERVAL_S
