"""HTTP for the sake of callers, behind the address guard: reading their URLs, posting to their webhooks, putting files
where they said.

Redirects are followed by hand, one guarded hop at a time. No cookies, the host name stays in TLS and in ``Host``. A
proxy of the operator's connects where the guard can't see: what it is asked for is checked as far as that goes
(``AddressGuard.check_proxied``), and the rest is the proxy's own business.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from lib.errors import InputFetchFailed, UnsafeInput
from lib.storage.guard import AddressGuard
from lib.storage.proxies import Proxies

USER_AGENT = "comfyui-pyworker"
LOOKUP_THREADS = 4
"""Look-ups block and can't be cancelled, so they get threads of their own: a dead name server stops nothing else."""
PORTION_BYTES = 1 << 20
ANSWER_BYTES = 4096
HEADER_BYTES = 32768
"""Signed ``Location`` headers outgrow aiohttp's 8 KiB."""


class _GuardedResolver(AbstractResolver):
    """Gives the connector vetted addresses only."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self._threads, self._guard.resolve, host, port)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def check_proxied(self, url: URL) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._guard.check_proxied, url)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a POST was answered with; names of ``headers`` have no case."""

    status: int
    headers: Mapping[str, str]


class GuardedHttp:
    """An HTTP client whose every connection passes the guard; an async context manager."""

    def __init__(
        self,
        guard: AddressGuard,
        *,
        proxies: Proxies | None = None,
        connect_timeout_s: float = 15.0,
        read_timeout_s: float = 30.0,
    ) -> None:
        self.guard = guard
        self._proxies = proxies or Proxies()
        self._timeout = ClientTimeout(total=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._resolver = resolver = _GuardedResolver(self.guard)
        guarded = TCPConnector(resolver=resolver, use_dns_cache=False, limit=0)
        self._guarded = await self._stack.enter_async_context(_session(guarded, self._timeout))
        self._trusted = await self._stack.enter_async_context(_session(TCPConnector(limit=0), self._timeout))
        self._stack.push_async_callback(resolver.close)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        *,
        max_redirects: int = 5,
        headers: Mapping[str, str] | None = None,
        private: Mapping[str, str] | None = None,
        trusted: bool = False,
    ) -> AsyncIterator[ClientResponse]:
        """GET ``url``, following redirects; yield the last response with its body unread.

        ``private`` headers (credentials) are sent to the URL's own scheme, host and port only. ``trusted`` (an
        operator's own place) passes without the guard and is not redirected.

        Raises: UnsafeInput (this or a later hop is refused), InputFetchFailed (too many hops), aiohttp.ClientError.
        """
        if trusted:
            target = URL(url, encoded=True)
            own = {**(headers or {}), **(private or {})}
            async with self._trusted.get(
                target, headers=own, allow_redirects=False, proxy=self._proxies.for_(target)
            ) as response:
                yield response
            return
        target = self.guard.check_url(url)
        origin = target.origin()
        for _ in range(max_redirects + 1):
            given = {**(headers or {}), **(private or {})} if target.origin() == origin else headers
            session, proxy = await self._way(target)
            async with session.get(target, headers=given, allow_redirects=False, proxy=proxy) as response:
                location = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or not location:
                    yield response
                    return
                target = self.guard.check_url(_absolute(target, location))
        raise InputFetchFailed(
            f"more than {max_redirects} redirects", details={"reason": "too_many_redirects", "host": target.host}
        )

    async def post(
        self, url: str, *, body: bytes, headers: Mapping[str, str], timeout_s: float, trusted: bool = False
    ) -> int:
        """POST as ``answer_to`` does and return the status."""
        answer = await self.answer_to(url, body=body, headers=headers, timeout_s=timeout_s, trusted=trusted)
        return answer.status

    async def answer_to(
        self, url: str, *, body: bytes, headers: Mapping[str, str], timeout_s: float, trusted: bool = False
    ) -> Answer:
        """POST ``body`` and return how it was answered; redirects are not followed, the answer's body is not read.

        ``trusted`` (an operator's own target) and our own URLs pass without the guard.

        Raises: UnsafeInput, aiohttp.ClientError, TimeoutError.
        """
        free = trusted or self.guard.is_own(url)
        target = URL(url) if free else self.guard.check_url(url)
        timeout = ClientTimeout(total=timeout_s)
        session, proxy = await self._way(target, free=free)
        async with session.post(
            target, data=body, headers=headers, timeout=timeout, allow_redirects=False, proxy=proxy
        ) as response:
            return Answer(status=response.status, headers=response.headers)

    async def put(self, url: str, *, path: Path, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
        """PUT the file at ``path``, streamed from disk; return the status and the beginning of the answer's body.
        Redirects are not followed.

        Raises: UnsafeInput, aiohttp.ClientError, TimeoutError, OSError (the file can't be read).
        """
        target = self.guard.check_url(url)
        with await asyncio.to_thread(path.open, "rb") as file:
            size = (await asyncio.to_thread(os.fstat, file.fileno())).st_size
            sent = {**headers, "Content-Length": str(size)}
            timeout = ClientTimeout(total=timeout_s)
            body = _portions(file, size)
            session, proxy = await self._way(target)
            async with session.put(
                target, data=body, headers=sent, timeout=timeout, allow_redirects=False, proxy=proxy
            ) as response:
                return response.status, await response.content.read(ANSWER_BYTES)

    async def _way(self, target: URL, *, free: bool = False) -> tuple[ClientSession, URL | None]:
        """The session that connects, and the proxy that it connects to. Raises: UnsafeInput."""
        proxy = self._proxies.for_(target)
        if proxy is None:
            return (self._trusted if free else self._guarded), None
        if not free:
            await self._resolver.check_proxied(target)
        return self._trusted, proxy


async def _portions(file: BinaryIO, size: int) -> AsyncIterator[bytes]:
    while size > 0 and (portion := await asyncio.to_thread(file.read, min(size, PORTION_BYTES))):
        size -= len(portion)
        yield portion


def _session(connector: TCPConnector, timeout: ClientTimeout) -> ClientSession:
    return ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=DummyCookieJar(),
        trust_env=False,
        headers={"User-Agent": USER_AGENT},
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
    )


def _absolute(base: URL, location: str) -> str:
    try:
        return str(base.join(URL(location, encoded=True)))
    except ValueError as error:
        raise UnsafeInput("a redirect leads to an unusable URL", details={"reason": "invalid_url"}) from error
