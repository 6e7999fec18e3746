"""Plain web servers that take files by PUT: one request a file, streamed from disk, behind the address guard."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from aiohttp import ClientConnectorCertificateError, ClientConnectorSSLError, ClientError

from lib.errors import StorageFailed, UnsafeInput
from lib.storage.blobs import Published
from lib.storage.http import GuardedHttp

WHO = frozenset({"401", "403"})
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")


class WebFolder:
    """A ``BlobStore`` over everything below a URL; ``headers`` (the operator's, secret) go with each file. ``hint`` is
    added where the server wants to know who we are."""

    def __init__(
        self, *, http: GuardedHttp, url_prefix: str, headers: Mapping[str, str], timeout_s: float, hint: str = ""
    ) -> None:
        self._http = http
        self._prefix = url_prefix.rstrip("/")
        self._headers = headers
        self._timeout_s = timeout_s
        self._hint = hint

    async def publish(self, path: Path, *, key: str, mime_type: str, expires_s: int) -> Published:
        url = f"{self._prefix}/{quote(key)}"
        headers = {"Content-Type": mime_type, **self._headers}
        try:
            await put_file(self._http, url, path=path, headers=headers, timeout_s=self._timeout_s)
        except StorageFailed as error:
            if self._hint and error.details["reason"] in WHO:
                raise StorageFailed(f"{error.message}; {self._hint}", details=error.details) from error
            raise
        return Published(url=url)


async def put_file(http: GuardedHttp, url: str, *, path: Path, headers: Mapping[str, str], timeout_s: float) -> None:
    """PUT a file; any 2xx is success. Messages name the host and nothing else of the URL. Raises: StorageFailed."""
    host = urlsplit(url).hostname or ""
    try:
        status, body = await http.put(url, path=path, headers=headers, timeout_s=timeout_s)
    except UnsafeInput as error:
        raise _failed(error.message, host, "UnsafeEndpoint") from error
    except TimeoutError as error:
        raise _failed(f"no answer within {timeout_s:g} s", host, "Timeout", passing=True) from error
    except (ClientConnectorCertificateError, ClientConnectorSSLError) as error:
        raise _failed("the TLS handshake or the certificate is wrong", host, "TLSFailed") from error
    except ClientError as error:
        raise _failed("no connection, or it broke off", host, "ConnectionFailed", passing=True) from error
    except OSError as error:
        raise _failed(f"the file can't be read: {error.strerror}", host, "LocalFile") from error
    if not 200 <= status < 300:
        raise _refused(status, body, host)


def _refused(status: int, body: bytes, host: str) -> StorageFailed:
    code = _CODE.search(body)
    text = f"status {status}" + (f", {code[1].decode()}" if code else "")
    if 300 <= status < 400:
        text += "; redirects are not followed"
    return _failed(text, host, str(status), passing=status >= 500 or status in (408, 425, 429))


def _failed(text: str, host: str, reason: str, *, passing: bool = False) -> StorageFailed:
    failed = StorageFailed(f"PUT to {host!r} failed: {text}", details={"reason": reason, "host": host})
    failed.retryable = passing
    return failed
