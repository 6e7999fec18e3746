"""Stock PyWorkers know no ticket and one route, in Vast's envelope, which holds the wrapper's request as it is."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from lib.serving.payloads import dumps

PATH = "/generate/sync"
_MIDDLE, _END = b',"payload":', b"}"


def can_do(path: str) -> bool:
    """Whether a stock worker has this route."""
    return path.partition("?")[0] == PATH


def envelope(auth_data: dict[str, Any], body: bytes | AsyncIterable[bytes]) -> bytes | AsyncIterable[bytes]:
    """Put a JSON object into the envelope, without reading it."""
    head = b'{"auth_data":' + dumps(auth_data) + _MIDDLE
    return head + body + _END if isinstance(body, bytes) else _around(head, body)


async def _around(head: bytes, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in body:
        yield chunk
    yield _END
