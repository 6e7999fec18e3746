"""S3 and what speaks like it, off the event loop: threads, a few clients kept, boto3 loaded at first use."""

import asyncio
import re
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from lib.storage.blobs import Published
from lib.storage.guard import AddressGuard
from lib.storage.proxies import Proxies

if TYPE_CHECKING:
    from lib.storage.s3_client import S3Client, S3Clients

_HOST_PART = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
KEPT_CLIENTS = 16
FOREIGN_THREADS = 4
"""Threads for callers' places, for each one of the operator's: as many as one job has files under way, so that one
whose endpoint hangs leaves threads to the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """A bucket and how to get at it. ``trusted`` places are the operator's own: no address guard. ``public_base_url``:
    the bucket is public under this URL, so that nothing needs to be presigned. ``plain``: files are told by
    ``s3://`` URLs, which have the key as it is, for people with keys of their own."""

    bucket_name: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    checksums: Literal["when_required", "when_supported"] = "when_required"
    connect_timeout_s: float = 60.0
    read_timeout_s: float = 60.0
    attempts: int = 3
    trusted: bool = False
    public_base_url: str | None = None
    plain: bool = False
    ambient: object = field(default=None, repr=False)
    """Where the keys of a trusted place without any come from (``s3_read.AmbientKeys``); uploads find them alone."""


def fits_host(bucket_name: str) -> bool:
    """Whether a bucket's name may be part of a host's, and of one that a certificate for ``*.<server>`` covers."""
    return _HOST_PART.fullmatch(bucket_name) is not None


class S3Bucket:
    """A ``BlobStore`` over one place."""

    def __init__(self, stores: "S3Stores", place: S3Place) -> None:
        self._stores = stores
        self._place = place

    async def publish(self, path: Path, *, key: str, mime_type: str, expires_s: int) -> Published:
        return await self._stores.publish(self._place, path, key=key, mime_type=mime_type, expires_s=expires_s)


class S3Stores:
    """Hands out buckets; owns their threads and clients. An async context manager.

    Callers' own places have threads apart from the operator's: an endpoint of theirs that hangs delays none of ours.
    """

    def __init__(self, *, guard: AddressGuard, proxies: Proxies | None = None, threads: int = 8) -> None:
        self._guard = guard
        self._proxies = proxies
        self._trusted = ThreadPoolExecutor(threads, thread_name_prefix="s3")
        self._foreign = ThreadPoolExecutor(FOREIGN_THREADS * threads, thread_name_prefix="s3-foreign")
        self._maker: S3Clients | None = None
        self._clients: OrderedDict[S3Place, S3Client] = OrderedDict()
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Start nothing more; uploads under way end in their threads, by themselves."""
        for threads in (self._trusted, self._foreign):
            threads.shutdown(wait=False, cancel_futures=True)

    def at(self, place: S3Place) -> S3Bucket:
        """The bucket at ``place``; connects to nothing yet."""
        return S3Bucket(self, place)

    async def publish(self, place: S3Place, path: Path, *, key: str, mime_type: str, expires_s: int) -> Published:
        """Upload and presign in one hop to a thread; see ``BlobStore.publish``."""

        def work() -> Published:
            client = self._client(place)
            client.upload(path, key=key, mime_type=mime_type)
            if place.plain:
                return Published(url=f"s3://{place.bucket_name}/{key}")
            if place.public_base_url is not None:
                return Published(url=f"{place.public_base_url.rstrip('/')}/{quote(key)}")
            return Published(url=client.presign(key, expires_s=expires_s), expires_s=expires_s)

        threads = self._trusted if place.trusted else self._foreign
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def _client(self, place: S3Place) -> "S3Client":
        from lib.storage.s3_client import S3Clients  # loads boto3, which an idle worker does not pay for

        with self._lock:
            self._maker = self._maker or S3Clients(self._guard, self._proxies)
            client = self._clients.pop(place, None) or self._maker.make(place)
            self._clients[place] = client
            while len(self._clients) > KEPT_CLIENTS:
                self._clients.popitem(last=False)
            return client
