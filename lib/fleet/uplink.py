"""Talking to the autoscaler's addresses: in order, until one takes it.

The schedule (3 attempts an address, 10 s each, 2 s between) is the protocol's, on the worker's own clock.
"""

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import aiohttp

from lib.clock import Clock
from lib.protocol.status import ROUTER_HEADER

log = logging.getLogger(__name__)

ATTEMPTS = 3
ATTEMPT_TIMEOUT_S = 10.0
PAUSE_S = 2.0
TELLING = ("/pubkey/", "/worker_status/")
"""Paths of the answers in which a router of ours says so."""
_JSON = {"Content-Type": "application/json"}
_MOST_KEY_BYTES = 64 * 1024


class Uplink:
    """An HTTP client for ``REPORT_ADDR``; an async context manager that owns its connections.

    Addresses have no trailing slash and may have a path (``https://router/e/name``). ``routers`` are those at which a
    router of ours answered.
    """

    def __init__(self, addresses: Sequence[str], *, clock: Clock, attempt_timeout_s: float = ATTEMPT_TIMEOUT_S) -> None:
        self.addresses = tuple(address.rstrip("/") for address in addresses)
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=attempt_timeout_s)
        self._http: aiohttp.ClientSession | None = None
        self.routers: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def post(
        self,
        path: str,
        body: bytes,
        *,
        for_routers: bytes | None = None,
        skip: frozenset[str] = frozenset(),
        attempts: int = ATTEMPTS,
    ) -> bool:
        """POST a JSON body to the first address that answers 2xx; return whether one did. Routers of ours get another
        body where there is one."""
        for address in self.addresses:
            if address in skip:
                continue
            told = body if for_routers is None or address not in self.routers else for_routers
            if await self._post_to(address, path, told, attempts):
                return True
        return False

    async def get_key(self, address: str) -> bytes:
        """Return the body of ``GET <address>/pubkey/``. Raises OSError, TimeoutError, aiohttp.ClientError."""
        async with self._client.get(f"{address}/pubkey/") as response:
            response.raise_for_status()
            self._note(address, response)
            return await response.content.read(_MOST_KEY_BYTES)

    async def _post_to(self, address: str, path: str, body: bytes, attempts: int) -> bool:
        url = address + path
        for attempt in range(1, attempts + 1):
            if attempt > 1:
                await self._clock.sleep(PAUSE_S)
            reason = await self._attempt(address, path, body)
            if reason is None:
                return True
            log.warning(
                "report was not taken",
                extra={"event": "report.failed", "url": url, "attempt": attempt, "reason": reason},
            )
        return False

    async def _attempt(self, address: str, path: str, body: bytes) -> str | None:
        """Return ``None`` on success, else why not."""
        try:
            async with self._client.post(address + path, data=body, headers=_JSON) as response:
                if not 200 <= response.status < 300:
                    return f"HTTP {response.status}"
                self._note(address, response)
                return None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"

    def _note(self, address: str, response: aiohttp.ClientResponse) -> None:
        """Who answers there may change: one that no longer says so is taken for Vast's."""
        if ROUTER_HEADER in response.headers:
            self.routers |= {address}
        elif response.url.path.endswith(TELLING):
            self.routers -= {address}

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("the uplink is not open")
        return self._http
