"""What went wrong with a caller's file, as errors of ours: named by field, reason and host, never by URL.

The one place where what the libraries raise while a file is fetched or stored becomes a ``ServiceError``.
"""

from aiohttp import ClientConnectorCertificateError, ClientConnectorSSLError, ClientError, ClientPayloadError

from lib.errors import InputFetchFailed, ServiceError, StorageFailed
from lib.storage.inline import NotInline
from lib.storage.local import Fetched
from lib.storage.media import SVG, UNKNOWN, NotMedia

EXPECTED = "an image, audio, video or 3D file"


class Transient(Exception):
    """An attempt failed in a way that the next one may not."""


def connection_text(error: Exception) -> str:
    """Name the cause of a broken connection without the library's text, which may hold the URL."""
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    if isinstance(error, ClientPayloadError):
        return "broke the transfer off"
    cause = getattr(error, "os_error", None)
    return f"can't be reached ({cause.strerror})" if cause is not None and cause.strerror else "can't be reached"


def problem(error: Exception, *, host: str = "") -> ServiceError:
    """Turn what a library raised into an error of ours; the field comes in ``for_field``."""
    where = f"host {host!r} " if host else ""
    if isinstance(error, NotMedia):
        text = f"{where}answered with {error}" if where else f"it is {error}"
        return InputFetchFailed(f"{text}, expected {EXPECTED}", details={"reason": "not_media", "host": host})
    if isinstance(error, NotInline):
        return InputFetchFailed(f"inline data can't be decoded: {error}", details={"reason": "not_base64"})
    if isinstance(error, TimeoutError):
        return InputFetchFailed(f"{where}took too long", details={"reason": "timeout", "host": host})
    if isinstance(error, Transient):
        return InputFetchFailed(f"{where}{error}", details={"reason": "unreachable", "host": host})
    if isinstance(error, ClientConnectorCertificateError | ClientConnectorSSLError):
        return InputFetchFailed(f"{where}has no valid TLS certificate", details={"reason": "tls", "host": host})
    if isinstance(error, ClientError):
        return InputFetchFailed(
            f"{where}can't be used: {type(error).__name__}", details={"reason": "http", "host": host}
        )
    return StorageFailed(f"the input can't be stored: {getattr(error, 'strerror', None) or type(error).__name__}")


def for_field(error: ServiceError, field: str) -> ServiceError:
    """Say for which field of the request it was."""
    kind: type[ServiceError] = type(error)
    return kind(f"{field}: {error.message}", details={"field": field, **error.details})


def too_large(limit_bytes: int, host: str = "") -> InputFetchFailed:
    """The error for a file over the limit."""
    return InputFetchFailed(
        f"the file is larger than INPUT_MAX_BYTES ({limit_bytes} bytes)",
        details={"reason": "too_large", "limit_bytes": limit_bytes, "host": host},
    )


def accepted(fetched: Fetched, accept: tuple[str, ...], *, field: str) -> Fetched:
    """Return the file if the field reads its kind. Raises: InputFetchFailed."""
    if accept and (not fetched.mime_type.startswith(accept) or fetched.mime_type == SVG):
        kinds = " or ".join(prefix.rstrip("/") for prefix in accept if prefix != UNKNOWN)
        raise InputFetchFailed(
            f"{field}: the file is {fetched.mime_type}, expected {kinds}",
            details={"field": field, "reason": "wrong_kind", "mime_type": fetched.mime_type, "expected": kinds},
        )
    return fetched
