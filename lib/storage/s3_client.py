"""boto3, as we use it: its client and transfer manager, without its resource layer. Blocking, for threads only;
importing this module costs 0.3 s and 25 MB, so ``s3.py`` does it late.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.model import OperationModel
from botocore.parsers import ResponseParserError
from s3transfer.manager import TransferConfig, TransferManager
from yarl import URL

from lib.errors import StorageFailed, UnsafeInput
from lib.storage.guard import AddressGuard
from lib.storage.proxies import Proxies
from lib.storage.s3 import S3Place, fits_host
from lib.storage.s3_guarded import AWS_DOMAIN, GuardedSession

MULTIPART_BYTES = 16 << 20
PART_BYTES = 8 << 20
PART_THREADS = 4
DEFAULT_REGION = "us-east-1"
_SIGNED_REGION = re.compile(r"Credential=[^,]*/\d{8}/([^/,]+)/s3/aws4_request")
_CONNECTION = {
    ConnectTimeoutError: ("ConnectTimeout", "the connection was not accepted in time"),
    ReadTimeoutError: ("ReadTimeout", "no answer in time"),
    EndpointConnectionError: ("ConnectionFailed", "no connection"),
    SSLError: ("TLSFailed", "the TLS handshake or the certificate is wrong"),
    ParamValidationError: ("InvalidParameter", "the bucket name or another parameter is not valid"),
    NoCredentialsError: ("NoCredentials", "this machine has no AWS keys"),
    ResponseParserError: ("NotS3", "the endpoint does not answer like S3"),
}


class S3Clients:
    """Makes clients. They share one botocore session, and so one copy of the service model (10 MB). Not thread-safe;
    the clients are."""

    def __init__(self, guard: AddressGuard, proxies: Proxies | None = None) -> None:
        self._guard = guard
        self._proxies = proxies or Proxies()
        self._session = botocore.session.Session()

    def make(self, place: S3Place) -> "S3Client":
        """A client for ``place``; connects to nothing yet. Raises: StorageFailed."""
        return S3Client(place, open_client=self._open, guard=self._guard)

    def _open(self, place: S3Place) -> Any:
        # Keys, region and endpoint are explicit: nothing of the environment's AWS configuration gets into a caller's.
        # A trusted place without keys is that of whoever this machine is.
        ambient = place.trusted and not place.access_key_id
        client = self._session.create_client(
            "s3",
            aws_access_key_id=None if ambient else place.access_key_id,
            aws_secret_access_key=None if ambient else place.secret_access_key,
            aws_session_token=place.session_token,
            region_name=place.region or DEFAULT_REGION,
            endpoint_url=place.endpoint_url,
            config=_config(place).merge(Config(proxies=self._on_the_way(place))),
        )
        client.meta.events.register_last("before-call.s3", _without_expect)
        if not place.trusted:
            verify = self._session.get_config_variable("ca_bundle") or True  # AWS_CA_BUNDLE: a private authority
            timeout = (place.connect_timeout_s, place.read_timeout_s)
            proxies = self._on_the_way(place)
            guarded = GuardedSession(self._guard, timeout=timeout, verify=verify, proxies=proxies)
            client.meta.events.register("before-send.s3", guarded.send_guarded)
        return client

    def _on_the_way(self, place: S3Place) -> dict[str, str]:
        """The proxy for a place, by scheme; botocore's own choice would send loopback through it, too."""
        endpoint = URL(place.endpoint_url or f"https://s3.{place.region or DEFAULT_REGION}{AWS_DOMAIN}")
        proxy = self._proxies.for_(endpoint)
        return {} if proxy is None else {endpoint.scheme: str(proxy)}


class S3Client:
    """One place's client; thread-safe."""

    def __init__(self, place: S3Place, *, open_client: Callable[[S3Place], Any], guard: AddressGuard) -> None:
        self._place = place
        self._open = open_client
        self._host = urlsplit(place.endpoint_url).hostname if place.endpoint_url else "s3.amazonaws.com"
        try:
            if not place.trusted and place.endpoint_url:
                guard.check_url(place.endpoint_url)
            self._s3: Any = open_client(place)
            self._presigner = self._s3
            self._region = place.region or DEFAULT_REGION
            self._s3.meta.events.register_first("before-send.s3", self._follow_region)
        except (BotoCoreError, ValueError, UnsafeInput) as error:
            raise self._failed(error) from error

    def upload(self, path: Path, *, key: str, mime_type: str) -> None:
        """Stream a file up: one PUT, or parts in parallel for a large one. Raises: StorageFailed."""
        try:
            if path.stat().st_size < MULTIPART_BYTES:
                self._put(path, key=key, mime_type=mime_type)
            else:
                self._put_parts(path, key=key, mime_type=mime_type)
        except (BotoCoreError, ClientError, ResponseParserError, OSError, RecursionError) as error:
            raise self._failed(error) from error

    def presign(self, key: str, *, expires_s: int) -> str:
        """A GET URL (Signature Version 4); no connection is made."""
        params = {"Bucket": self._place.bucket_name, "Key": key}
        try:
            return str(self._presigner.generate_presigned_url("get_object", Params=params, ExpiresIn=expires_s))
        except BotoCoreError as error:
            raise self._failed(error) from error

    def _follow_region(self, request: AWSPreparedRequest, **_: object) -> None:
        """Note the region that a request is signed for. boto3 corrects a wrong one for uploads, but not when it
        presigns, and a URL signed for the wrong region is refused."""
        found = _SIGNED_REGION.search(str(request.headers.get("Authorization", "")))
        if found and found[1] not in (self._region, self._place.region or DEFAULT_REGION):
            self._region = found[1]
            self._presigner = self._open(replace(self._place, region=self._region))

    def _put(self, path: Path, *, key: str, mime_type: str) -> None:
        with path.open("rb") as body:
            answer = self._s3.put_object(Bucket=self._place.bucket_name, Key=key, Body=body, ContentType=mime_type)
        if not answer.get("ETag"):  # a web server that says 200 to everything
            raise ResponseParserError("no ETag")

    def _put_parts(self, path: Path, *, key: str, mime_type: str) -> None:
        config = TransferConfig(
            multipart_threshold=MULTIPART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_request_concurrency=PART_THREADS,
            max_submission_concurrency=1,
        )
        with TransferManager(self._s3, config) as transfers:
            extra = {"ContentType": mime_type}
            transfers.upload(str(path), self._place.bucket_name, key, extra_args=extra).result()

    def _failed(self, error: Exception) -> StorageFailed:
        reason, text = self._explain(error)
        details = {"reason": reason, "bucket_name": self._place.bucket_name, "host": self._host}
        failed = StorageFailed(f"S3 upload failed: {reason}: {text}", details=details)
        failed.retryable = _may_pass(error)
        return failed

    def _explain(self, error: Exception) -> tuple[str, str]:
        """S3's own code and sentence, or ours for what never reached S3; never a URL or a key."""
        if isinstance(error, ClientError):
            answer = error.response.get("Error", {})
            code = str(answer.get("Code") or "Unknown")
            if code.isdigit():  # botocore's makeshift: the status, where the body had no S3 error
                return "NotS3", f"host {self._host!r} answered with status {code}, not like S3"
            return code, str(answer.get("Message") or "no reason given")[:300]
        cause = error.kwargs.get("error") if isinstance(error, HTTPClientError) else error
        if isinstance(cause, UnsafeInput):
            return "UnsafeEndpoint", cause.message
        if isinstance(cause, RecursionError):
            return "Redirected", f"host {self._host!r} redirects elsewhere; give its final address (https?)"
        for kind, (reason, text) in _CONNECTION.items():
            if isinstance(error, kind):
                return reason, f"{text} (host {self._host!r})"
        if isinstance(error, OSError):
            return "LocalFile", f"the file can't be read: {error.strerror or type(error).__name__}"
        return type(error).__name__, f"the request could not be made (host {self._host!r})"


def _may_pass(error: Exception) -> bool:
    """Whether a later attempt may succeed: no connection, a server's own error, too many requests."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        return status >= 500 or status in (408, 425, 429)
    if isinstance(error, HTTPClientError) and isinstance(error.kwargs.get("error"), UnsafeInput | RecursionError):
        return False
    return isinstance(error, BotoConnectionError | HTTPClientError) and not isinstance(error, SSLError)


def _without_expect(model: OperationModel, params: dict[str, Any], **_: object) -> None:
    """Send small files at once. boto3 would ask ``Expect: 100-continue`` first: a round trip for each, and a server
    that refuses then and keeps the connection takes the next request for the missing body."""
    if model.name == "PutObject":
        params["headers"].pop("Expect", None)


def _config(place: S3Place) -> Config:
    # boto3's own choice on a custom endpoint would be Signature Version 2 for presigned URLs.
    return Config(
        signature_version="s3v4",
        connect_timeout=place.connect_timeout_s,
        read_timeout=place.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": place.attempts},
        request_checksum_calculation=place.checksums,
        response_checksum_validation=place.checksums,
        s3={"addressing_style": _addressing(place)},
        ignore_configured_endpoint_urls=True,
        tcp_keepalive=True,
    )


def _addressing(place: S3Place) -> str:
    """``auto``: the bucket in the host on AWS, where boto3's own choice would presign URLs for the host of no region,
    which does not know new buckets; in the path on any other endpoint, where no DNS entry is needed."""
    if place.addressing != "auto":
        return place.addressing
    host = urlsplit(place.endpoint_url).hostname or "" if place.endpoint_url else AWS_DOMAIN
    if not host.removesuffix(".cn").endswith(AWS_DOMAIN):
        return "path"
    return "virtual" if fits_host(place.bucket_name) else "auto"
