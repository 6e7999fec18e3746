"""Stands in for torchaudio where no build of it fits the installed torch; only audio models need the real one."""

from . import functional, transforms  # the checkers see no package of this name

__all__ = ["functional", "transforms"]
