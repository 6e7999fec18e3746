"""Reading from S3 as a plain GET: a URL signed for it, and what S3 says when it refuses one.

The file then comes by the guarded HTTP client like any other, streamed, capped and revalidated, and no thread waits for
it. Of botocore only the signing is loaded.
"""

import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from lib.errors import InputFetchFailed
from lib.storage.s3 import S3Place, fits_host

if TYPE_CHECKING:
    from botocore.credentials import Credentials

DEFAULT_REGION = "us-east-1"
SIGNED_S = 3600
ERROR_BYTES = 4096
"""So much of a refusal's body is read."""

_REGION = re.compile(r"[a-z0-9-]{1,40}")
_IN_BODY = re.compile(rb"<(Code|Region)>([A-Za-z0-9.-]{1,60})</")
_AWS = ".amazonaws.com"


def signed_url(place: S3Place, key: str, *, region: str | None = None) -> str:
    """A GET URL (Signature Version 4) for an object; blocks for botocore's import at first use.

    ``region`` is one that S3 named (``other_region``) after the place's own had been refused.
    """
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    region = region or place.region or DEFAULT_REGION
    request = AWSRequest(method="GET", url=_object_url(place, key, region))
    S3SigV4QueryAuth(_keys(place), "s3", region, expires=SIGNED_S).add_auth(request)
    return str(request.url)


class AmbientKeys:
    """The keys of whoever this machine is: its role, or its files, as AWS's own programs find them. Renewed when they
    end. Blocking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Credentials | None = None

    def current(self) -> "Credentials":
        """Raises: InputFetchFailed, there are none."""
        import botocore.session
        from botocore.exceptions import BotoCoreError

        try:
            with self._lock:
                if self._found is None:
                    self._found = botocore.session.Session().get_credentials()
            if self._found is not None:
                return self._found.get_frozen_credentials()
        except BotoCoreError as error:  # a file that can't be read, a role that was taken away
            raise _no_keys() from error
        raise _no_keys()


def _no_keys() -> InputFetchFailed:
    return InputFetchFailed("the worker's machine has no AWS keys", details={"reason": "no_credentials"})


def _keys(place: S3Place) -> "Credentials":
    from botocore.credentials import Credentials

    if isinstance(place.ambient, AmbientKeys):
        return place.ambient.current()
    return Credentials(place.access_key_id, place.secret_access_key, place.session_token)


def refusal(body: bytes) -> tuple[str, str | None]:
    """S3's own code for an error (``NoSuchKey``; empty where the body tells none), and the region it names."""
    found = {name: value.decode() for name, value in _IN_BODY.findall(body)}
    return found.get(b"Code", ""), named_region(found.get(b"Region"))


def named_region(text: str | None) -> str | None:
    return text if text and _REGION.fullmatch(text) else None


def _object_url(place: S3Place, key: str, region: str) -> str:
    path = quote(key, safe="/~")
    endpoint = place.endpoint_url or f"https://s3.{region}{_AWS}" + (".cn" if region.startswith("cn-") else "")
    parts = urlsplit(endpoint.rstrip("/"))
    on_aws = (parts.hostname or "").removesuffix(".cn").endswith(_AWS)
    if place.addressing == "virtual" or (place.addressing == "auto" and on_aws and fits_host(place.bucket_name)):
        return f"{parts.scheme}://{place.bucket_name}.{parts.netloc}{parts.path}/{path}"
    return f"{parts.scheme}://{parts.netloc}{parts.path}/{place.bucket_name}/{path}"
