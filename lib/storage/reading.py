"""One GET of a source, with the rights that it is read with: signed where it is a storage's, refusals told apart.

What comes is the caller's to keep; ``lib.storage.downloads`` does for inputs.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import MappingProxyType

from aiohttp import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorSSLError,
    ClientPayloadError,
    ClientResponse,
)
from yarl import URL

from lib.errors import InputFetchFailed
from lib.storage.http import GuardedHttp
from lib.storage.problems import Transient, connection_text
from lib.storage.s3_read import ERROR_BYTES, named_region, refusal, signed_url
from lib.storage.sources import Source

RETRIED = frozenset({408, 425, 429})
ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "AuthorizationQueryParametersError", "PermanentRedirect"})
"""S3's codes for a bucket that is in another region than the one signed for."""
_HINTS = {401: "; it wants credentials", 403: "; it wants other credentials", 404: "; nothing is there"}
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Reader:
    """Opens sources; ``redirects`` are followed at most."""

    def __init__(self, http: GuardedHttp, *, redirects: int) -> None:
        self._http = http
        self._redirects = redirects

    @asynccontextmanager
    async def opened(
        self, source: Source, *, headers: Mapping[str, str] = _NOTHING, passing: Collection[int] = ()
    ) -> AsyncIterator[ClientResponse]:
        """GET it with further ``headers`` (``If-None-Match``, ``Range``); yield the response with its body unread. Its
        status is 2xx, or one of ``passing``.

        Raises: UnsafeInput; InputFetchFailed, it was refused; Transient, another attempt may succeed; StorageFailed, a
        storage's package or key is no good; aiohttp.ClientError.
        """
        async with AsyncExitStack() as stack:
            try:
                yield await self._answer(stack, source, headers, passing)
            except (ClientConnectorCertificateError, ClientConnectorSSLError):
                raise
            except (ClientConnectionError, ClientPayloadError) as error:
                raise Transient(connection_text(error)) from error

    def host(self, source: Source) -> str:
        """Whom to name for a source in messages. Raises: UnsafeInput."""
        return _place_name(source) or self._http.guard.check_url(source.url).host or ""

    async def _answer(
        self, stack: AsyncExitStack, source: Source, headers: Mapping[str, str], passing: Collection[int]
    ) -> ClientResponse:
        if source.blob is not None:
            url, private = await asyncio.to_thread(source.blob.request)
            got = self._get(url, headers, private=private, trusted=True)
            return _checked(source, await stack.enter_async_context(got), passing)
        if source.place is None:
            got = self._get(source.asked_url, headers, private=dict(source.headers))
            return _checked(source, await stack.enter_async_context(got), passing)
        region = None
        for _ in range(2):
            url = await asyncio.to_thread(signed_url, source.place, source.key, region=region)
            got = self._get(url, headers, trusted=source.place.trusted)
            response = await stack.enter_async_context(got)
            code, region = await _s3_reason(response, passing)
            if region is None:
                return _checked(source, response, passing, code=code)
            await stack.aclose()
        raise Transient("names one region after the other")

    def _get(
        self, url: str, headers: Mapping[str, str], *, private: Mapping[str, str] = _NOTHING, trusted: bool = False
    ) -> AbstractAsyncContextManager[ClientResponse]:
        redirects = self._redirects
        return self._http.stream(url, max_redirects=redirects, headers=headers, private=private, trusted=trusted)


def _checked(source: Source, response: ClientResponse, passing: Collection[int], *, code: str = "") -> ClientResponse:
    if _passes(response, passing):
        return response
    if response.status >= 500 or response.status in RETRIED:
        raise Transient(f"answered with status {response.status}")
    host = told_host(source, response)
    said = f" ({code})" if code else _HINTS.get(response.status, "")
    details = {"reason": code or "status", "status": response.status, "host": host}
    raise InputFetchFailed(f"host {host!r} answered with status {response.status}{said}", details=details)


def _passes(response: ClientResponse, passing: Collection[int]) -> bool:
    return 200 <= response.status < 300 or response.status in passing


def told_host(source: Source, response: ClientResponse) -> str:
    """Whom to name in a message: of ``s3://`` it is the bucket, the operator's endpoint being nobody's business."""
    return _place_name(source) or response.url.host or ""


def _place_name(source: Source) -> str:
    if source.place is not None:
        return f"s3://{source.place.bucket_name}"
    return URL(source.url).host or "" if source.blob is not None else ""


async def _s3_reason(response: ClientResponse, passing: Collection[int]) -> tuple[str, str | None]:
    """S3's own code for a refusal, and the region to ask instead, where it says that the bucket is elsewhere."""
    if _passes(response, passing):
        return "", None
    code, region = refusal(await response.content.read(ERROR_BYTES))
    region = named_region(response.headers.get("x-amz-bucket-region")) or region
    return code, region if code in ELSEWHERE else None
