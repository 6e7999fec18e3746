"""The protocol of Vast.ai's serverless engine, from the router's side: what workers, SDK, CLI and people call."""

from router.wire.part import wire

__all__ = ["wire"]
