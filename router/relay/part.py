"""The relay as a part of the router."""

from contextlib import AsyncExitStack

from router.parts import Ground, Part
from router.relay.building import build_relay
from router.relay.jobs import build_jobs


async def relay(ground: Ground, stack: AsyncExitStack) -> Part:
    """Build the part."""
    return await build_relay(ground, stack, build_jobs=build_jobs)
