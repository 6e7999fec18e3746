"""From a stream to a file of the content store: in blocks, never more than the limit, nothing left when it breaks."""

import asyncio
from collections.abc import AsyncIterator

from lib.storage.local import ContentStore, Fetched

BLOCK_BYTES = 1 << 20
"""Read this much before a thread writes it: fewer hops, bounded memory."""


class TooLarge(Exception):
    """The stream is longer than it may be."""


async def keep(
    store: ContentStore, chunks: AsyncIterator[bytes], *, limit_bytes: int, name: str, declared: str = ""
) -> Fetched:
    """Write ``chunks`` into ``store``; ``name`` and ``declared`` are hints for what it is.

    Raises: TooLarge, NotMedia, OSError, and what ``chunks`` raises.
    """
    draft = await asyncio.to_thread(store.draft)
    size = 0
    try:
        async for block in _blocks(chunks):
            size += len(block)
            if size > limit_bytes:
                raise TooLarge
            await asyncio.to_thread(draft.write, block)
        return await asyncio.to_thread(store.adopt, draft, name=name, declared=declared)
    finally:
        asyncio.get_running_loop().run_in_executor(None, draft.discard)


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        if len(buffer) >= BLOCK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)
