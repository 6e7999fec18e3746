"""How a caller's own S3 endpoint is reached: by botocore, through the address guard.

botocore lets a ``before-send`` handler do the sending. Ours sends by botocore's own HTTP session, with connections that
look the host up through the guard and connect to the addresses vetted there. So TLS names, virtual-host buckets, region
corrections and retries stay botocore's, and no connection, the first or a later one, goes anywhere that was not vetted.
A proxy of the operator's connects where the guard can't see; what it is asked for is checked as far as that goes.
"""

import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import urllib3
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
    AWSPreparedRequest,
    AWSResponse,
)
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from lib.errors import UnsafeInput
from lib.storage.guard import AddressGuard

AWS_DOMAIN = ".amazonaws.com"


class GuardedSession(URLLib3Session):  # type: ignore[misc]
    """botocore's HTTP session, connecting only where the guard lets it."""

    def __init__(
        self, guard: AddressGuard, *, timeout: tuple[float, float], verify: str | bool, proxies: Mapping[str, str]
    ) -> None:
        super().__init__(proxies=dict(proxies), timeout=timeout, verify=verify)
        self._guard = guard
        self._proxied = bool(proxies)
        if not isinstance(self._manager, urllib3.PoolManager):  # fail closed should botocore be rebuilt
            raise TypeError("botocore's HTTP session has changed; the address guard does not fit")

        class Plain(AWSHTTPConnection):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                return _connect(self, guard)

        class Secure(AWSHTTPSConnection):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                return _connect(self, guard)

        class PlainPool(AWSHTTPConnectionPool):  # type: ignore[misc]
            ConnectionCls = Plain

        class SecurePool(AWSHTTPSConnectionPool):  # type: ignore[misc]
            ConnectionCls = Secure

        self._manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def send_guarded(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """botocore's ``before-send`` hook: an answer returned here is used instead of sending.

        A redirect is an error at a custom endpoint; botocore would ask its target for the bucket's region, for ever.
        """
        if self._proxied:
            try:
                self._guard.check_proxied(self._guard.check_url(request.url))
            except UnsafeInput as error:
                raise HTTPClientError(error=error) from error
        answer = self.send(request)
        host = urlsplit(request.url).hostname or ""
        if answer.status_code in (301, 302, 303, 307, 308) and not host.endswith(AWS_DOMAIN):
            raise HTTPClientError(error=RecursionError())
        return answer


def _connect(connection: Any, guard: AddressGuard) -> socket.socket:
    """Connect to a vetted address of the connection's host; urllib3's own errors, so that botocore retries."""
    host, port, timeout = connection.host, connection.port, connection.timeout
    try:
        addresses = guard.resolve(host, port)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    except OSError as error:
        raise NewConnectionError(connection, str(error)) from error
    failure: OSError | None = None
    for address in addresses:
        try:
            return create_connection((address, port), timeout, socket_options=connection.socket_options)
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, "timed out") from error
        except OSError as error:
            failure = error
    raise NewConnectionError(connection, f"failed to connect: {failure}") from failure
