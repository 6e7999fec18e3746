"""What the URL of an S3 endpoint says: server, region, bucket, folder. Pure.

People write it in every form. The bucket may be in the host (``https://<bucket>.s3.<region>.amazonaws.com``,
``https://<bucket>.<region>.digitaloceanspaces.com``), in the path (``https://<account>.r2.cloudflarestorage.com/<bucket>``)
or nowhere; on a server of somebody's own the path may be the server's.
"""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_IN_HOST = r"(?:(?P<bucket>.+)\.)?"
_EVERYWHERE = "s3.amazonaws.com"
_AWS = re.compile(
    _IN_HOST + r"(?P<server>s3(?:-fips|-accelerate)?(?:\.dualstack)?"
    r"(?:[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d+))?\.amazonaws\.com(?:\.cn)?)"
)
_PUBLISHED = (
    _AWS,
    re.compile(
        _IN_HOST + r"(?P<server>(?P<region>[a-z0-9-]+)\.(?:digitaloceanspaces|linodeobjects|vultrobjects)\.com)"
    ),
    re.compile(_IN_HOST + r"(?P<server>[0-9a-f]{32}\.(?:(?:eu|fedramp)\.)?r2\.cloudflarestorage\.com)"),
    re.compile(_IN_HOST + r"(?P<server>storage\.googleapis\.com)"),
)
"""Servers whose host names are published, and whose paths begin with a bucket."""
_USUAL = re.compile(_IN_HOST + r"(?P<server>s3\.(?P<region>[a-z0-9-]+)\.[a-z0-9-]+(?:\.[a-z0-9-]+)+)")
"""As Backblaze, Wasabi, Scaleway and others call theirs; but somebody's own server may be called so, too."""
_ONE_REGION = "auto"
"""What R2 and Google's store are signed for."""


class Unclear(Exception):
    """This is no endpoint's URL, or it names another bucket; the text goes on after the field's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """``url`` ``None``: AWS, in a region that the URL does not tell. ``folder`` is what the URL has behind its bucket;
    it ends in "/" unless it is empty."""

    url: str | None
    bucket_name: str | None = None
    region: str | None = None
    folder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """``published``: the whole path is bucket and key. ``everywhere``: AWS, whatever the region."""

    server: str
    bucket_name: str | None = None
    region: str | None = None
    published: bool = False
    everywhere: bool = False


def read_endpoint(url: str, *, bucket_name: str | None = None) -> Endpoint:
    """Read an endpoint's URL. ``bucket_name``: the bucket that is meant, where the request or a setting names one.

    Raises: Unclear.
    """
    parts = _split(url)
    host = _host(parts.hostname or "", bucket_name)
    path = [part for part in parts.path.split("/") if part]
    if bucket_name is not None and host.bucket_name is None and not host.published:
        own = path[:-1] if path[-1:] == [bucket_name] else path
        return Endpoint(url=_url(parts, host.server, own), bucket_name=bucket_name, region=host.region)
    named, folders = (host.bucket_name, path) if host.bucket_name else (path[0] if path else None, path[1:])
    if bucket_name is not None and named not in (None, bucket_name):
        raise Unclear(f"names the bucket {named!r}, not {bucket_name!r}")
    if named is not None and not is_bucket(named):
        raise Unclear(f"names a bucket that can't be one: {named!r}")
    return Endpoint(
        url=None if host.everywhere else _url(parts, host.server),
        bucket_name=named or bucket_name,
        region=host.region,
        folder="".join(f"{unquote(part)}/" for part in folders),
    )


def is_bucket(name: str) -> bool:
    """Whether a bucket may be called so."""
    return _BUCKET.fullmatch(name) is not None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Unclear("must be the http or https URL of an S3 server")
    if parts.username is not None or parts.query or parts.fragment:
        raise Unclear("must be a plain URL: no user name, no query")
    return parts


def _host(name: str, bucket_name: str | None) -> _Host:
    for form in _PUBLISHED:
        if found := form.fullmatch(name):
            return _Host(
                server=found["server"],
                bucket_name=found["bucket"],
                region=found["region"] if "region" in form.groupindex else _ONE_REGION,
                published=True,
                everywhere=found["server"] == _EVERYWHERE,
            )
    found = _USUAL.fullmatch(name)
    if found is None or (bucket_name is not None and found["bucket"] not in (None, bucket_name)):
        return _Host(server=name)
    return _Host(server=found["server"], bucket_name=found["bucket"], region=found["region"])


def _url(parts: SplitResult, server: str, path: list[str] | None = None) -> str:
    host = f"[{server}]" if ":" in server else server
    port = f":{parts.port}" if parts.port is not None else ""
    return "/".join([f"{parts.scheme}://{host}{port}", *(path or ())])
