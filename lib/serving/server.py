"""Listening: one bound port with its application, as an async context manager."""

import errno
import logging
import os
import socket
import ssl
from pathlib import Path
from typing import Self

from aiohttp import web

log = logging.getLogger(__name__)

BACKLOG = 4096
KEEPALIVE_S = 75.0
_TRIES = 200
ANY = "::"
"""Every address of this host, IPv4 and IPv6."""
_ANY_V4 = "0.0.0.0"  # noqa: S104 - asked for


class PortTaken(OSError):
    """The port, or the address, can't be had; its text says what to do."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make a server's TLS context from PEM files. Reads them: call it before the loop serves, or in a thread.

    Raises: OSError, ssl.SSLError.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


class Listener:
    """Serves ``app`` on ``host`` and ``port`` while it is entered.

    With ``next_free`` a taken port is passed over for the next one; else the error names the ``setting`` that moves it,
    or ``host_setting`` where the address is the trouble.
    The host ``::`` takes IPv4 too. A client that disconnects cancels its handler.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        name: str,
        host: str,
        port: int,
        setting: str = "",
        host_setting: str = "",
        next_free: bool = False,
        tls: ssl.SSLContext | None = None,
        shutdown_timeout_s: float = 2.0,
    ) -> None:
        self.name = name
        self.host = host
        self._wanted = port
        self._setting = setting
        self._host_setting = host_setting
        self._next_free = next_free
        self._tls = tls
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=shutdown_timeout_s,
        )

    @property
    def port(self) -> int:
        """The port that is really bound."""
        return int(self._runner.addresses[0][1])

    @property
    def url(self) -> str:
        """The base URL for somebody on this host, without a trailing slash."""
        host = "127.0.0.1" if self.host in (ANY, _ANY_V4) else self.host
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await self._bind()
        except BaseException:
            await self._runner.cleanup()
            raise
        log.info("listening", extra={"event": "http.listening", "listener": self.name, "url": self.url})
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def _bind(self) -> None:
        last = min(self._wanted + _TRIES, 65535) if self._next_free and self._wanted else self._wanted
        for port in range(self._wanted, last + 1):
            try:
                await self._start(port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise self._refused(port, error) from error
                if port == last:
                    raise self._taken(port) from error
                log.warning("port is taken", extra={"event": "http.port_taken", "listener": self.name, "port": port})
            else:
                return

    async def _start(self, port: int) -> None:
        bound = _every_address(port) if self.host == ANY else None
        site: web.BaseSite
        if bound is not None:
            site = web.SockSite(self._runner, bound, ssl_context=self._tls, backlog=BACKLOG)
        else:
            site = web.TCPSite(self._runner, self.host, port, ssl_context=self._tls, backlog=BACKLOG)
        try:
            await site.start()
        except OSError:
            await site.stop()
            if bound is not None:
                bound.close()
            raise

    def _taken(self, port: int) -> PortTaken:
        remedy = f"stop it, or choose another port with {self._setting}" if self._setting else "stop it"
        return PortTaken(f"the {self.name} listener can't have port {port}: another program listens there; {remedy}")

    def _refused(self, port: int, error: OSError) -> PortTaken:
        """It is no address of this machine, or no port for who we are."""
        setting = self._setting if error.errno == errno.EACCES else self._host_setting
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        remedy = f"; change {setting}" if setting else ""
        return PortTaken(f"the {self.name} listener can't have {self.host}, port {port}: {reason}{remedy}")


def _every_address(port: int) -> socket.socket:
    """Bind a socket that takes both protocols: asyncio's own takes ``::`` for IPv6 alone. Raises: OSError."""
    if socket.has_dualstack_ipv6():
        return _bound(socket.AF_INET6, (ANY, port))
    log.warning("this host has no IPv6, so :: is IPv4 alone", extra={"event": "http.no_ipv6"})
    return _bound(socket.AF_INET, (_ANY_V4, port))


def _bound(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made
