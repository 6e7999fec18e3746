"""The OpenAPI document of the API listener: made once, and anew with what changes while the worker runs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from lib.serving.openapi import Operation

Changing = Callable[[], Awaitable[Sequence[Operation]]]
"""Operations that come and go: workflow endpoints."""
Build = Callable[[Sequence[Operation]], dict[str, Any]]


class Document:
    """``describe`` comes before the first request; routes that show the document are described in it themselves."""

    def __init__(self) -> None:
        self._build: Build = _nothing
        self._fixed: Sequence[Operation] = ()
        self._changing: Changing | None = None
        self._made: tuple[Sequence[Operation], dict[str, Any]] | None = None

    def describe(self, fixed: Sequence[Operation], *, changing: Changing | None, build: Build) -> None:
        """Say what is in it, and how it is made."""
        self._fixed, self._changing, self._build = fixed, changing, build

    async def current(self) -> Mapping[str, Any]:
        """Return it as of now."""
        more = () if self._changing is None else await self._changing()
        if self._made is None or list(self._made[0]) != list(more):
            self._made = (more, await asyncio.to_thread(self._build, [*self._fixed, *more]))
        return self._made[1]


def _nothing(described: Sequence[Operation]) -> dict[str, Any]:
    return {}
