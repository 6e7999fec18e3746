"""Reading from S3 as a plain GET: a URL signed for it, and what S3 says when it refuses one.

The file then comes by the guarded HTTP client like any other, streamed, capped and revalidated, and no thread waits for
it. Of botocore only the signing is loaded.
"""

import re
from urllib.parse import quote, urlsplit

from lib.storage.s3 import S3Place, fits_host

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
    from botocore.credentials import Credentials

    region = region or place.region or DEFAULT_REGION
    request = AWSRequest(method="GET", url=_object_url(place, key, region))
    keys = Credentials(place.access_key_id, place.secret_access_key, place.session_token)
    S3SigV4QueryAuth(keys, "s3", region, expires=SIGNED_S).add_auth(request)
    return str(request.url)


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
