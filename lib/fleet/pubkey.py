"""The autoscaler's public keys: fetched from each of its addresses at start, and again when a signature fails.

So a router may change its key without a restart of its workers.
"""

import asyncio
import logging
from collections.abc import Callable
from itertools import count

import aiohttp
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from lib.clock import Clock
from lib.fleet.uplink import Uplink
from lib.protocol.auth import load_public_key

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
FAILURES_TOLD = 5
"""After so many failed rounds at the start the missing key is a trouble of this worker: it can serve nobody."""
REFRESH_INTERVAL_S = 10.0
"""Bad signatures make us fetch the keys again no more often than this."""


class PubkeySource:
    """Implements ``lib.protocol.auth.KeySource``: one key an address, the last one that was fetched from there.

    ``on_trouble`` hears why there is still no key after ``FAILURES_TOLD`` rounds, and ``None`` once there is one.
    """

    def __init__(self, uplink: Uplink, *, clock: Clock, on_trouble: Callable[[str | None], None] | None = None) -> None:
        self._uplink = uplink
        self._clock = clock
        self._by_address: dict[str, RSAPublicKey] = {}
        self._keys: tuple[RSAPublicKey, ...] = ()
        self._lock = asyncio.Lock()
        self._fetched_at: float | None = None
        self._on_trouble = on_trouble
        self._failure = ""

    @property
    def keys(self) -> tuple[RSAPublicKey, ...]:
        return self._keys

    async def load(self) -> None:
        """Fetch until there is a key, for ever if need be, with growing pauses. Run it as a task."""
        pause_s = FIRST_PAUSE_S
        for failures in count(1) if self._uplink.addresses else ():
            await self._fetch()
            if self._keys:
                if failures > FAILURES_TOLD:
                    self._tell(None)
                return
            if failures == FAILURES_TOLD:
                self._tell(self._failure)
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
            reason = f"{type(error).__name__}: {error}"
            self._failure = f"no public key from {address}/pubkey/: {reason}"
            log.warning(
                "public key was not fetched", extra={"event": "pubkey.failed", "address": address, "reason": reason}
            )

    def _take(self) -> None:
        keys = tuple(self._by_address[address] for address in self._uplink.addresses if address in self._by_address)
        if keys != self._keys:
            self._keys = keys
            log.info("public keys loaded", extra={"event": "pubkey.loaded", "count": len(keys)})

    def _tell(self, trouble: str | None) -> None:
        if self._on_trouble is not None:
            self._on_trouble(trouble)

    def _recent(self) -> bool:
        return self._fetched_at is not None and self._clock.monotonic() - self._fetched_at < REFRESH_INTERVAL_S
