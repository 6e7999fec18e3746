"""What the worker and the process of RunPod's SDK say to each other: frames on a socket between the two.

A frame is its length (four bytes, big-endian) and JSON, ``[kind, ticket, body]``. A ticket is one run of the SDK's
handler; the SDK's process gives it. Both ends are ours and of one version: nothing here is kept compatible.
"""

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

HEAD = struct.Struct(">I")


class Kind(StrEnum):
    """What a message is about; in brackets who says it, and what its body is."""

    FIT = "fit"
    """(worker) It is ready: the SDK may begin."""
    UNFIT = "unfit"
    """(worker; reason) It will not be ready: the SDK reports that to RunPod and ends."""
    ROOM = "room"
    """(worker; count) So many jobs may be in hand at once from now on."""
    TAKEN = "taken"
    """(SDK; the job as RunPod gave it)"""
    PROGRESS = "progress"
    """(worker; what to tell) Answered with ``TOLD``; the worker sends no other before."""
    TOLD = "told"
    """(SDK) The progress has reached RunPod, or could not."""
    RESULT = "result"
    """(worker; what the handler returns)"""
    STOPPED = "stopped"
    """(SDK) RunPod wants this job no more: no result of it will be posted."""
    POSTED = "posted"
    """(SDK) Done with: the result is with RunPod, or every attempt failed, or the job was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One frame. ``body`` is JSON, by kind."""

    kind: Kind
    ticket: int = 0
    body: Any = None

    def to_frame(self) -> bytes:
        content = orjson.dumps((self.kind, self.ticket, self.body))
        return HEAD.pack(len(content)) + content


def parse(content: bytes) -> Message:
    """Return the message in a frame's content."""
    kind, ticket, body = orjson.loads(content)
    return Message(kind=Kind(kind), ticket=ticket, body=body)
