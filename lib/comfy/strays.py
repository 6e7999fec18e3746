"""Prompts that an earlier life of this worker posted and that no job claims any more.

A prompt of an earlier life is not ours to remove by itself: its job may be re-attached to it, long after we are
connected again. So nothing removes them but ``remove_strays``, which asks; whoever recovers jobs calls it afterwards,
and each time that ComfyUI comes back. Prompts of this life that nobody follows are ``Link.strays``.
"""

from collections.abc import Callable

from lib.comfy.client import ComfyClient
from lib.comfy.recall import is_owned


async def remove_strays(client: ComfyClient, *, owner: str, known: Callable[[str], bool]) -> int:
    """Delete or interrupt what carries ``owner``'s mark and is not ``known``; return how many that were.

    Raises: EngineUnreachable."""
    queue = await client.queue()
    items = {**queue.pending, **queue.running}
    strays = [prompt_id for prompt_id, item in items.items() if is_owned(item, owner) and not known(prompt_id)]
    for prompt_id in strays:
        await client.delete(prompt_id)
        await client.interrupt(prompt_id)
    return len(strays)
