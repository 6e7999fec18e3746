"""Models that tenants brought by URL are named to nobody else: what is left out of lists and errors.

A name that is its content's alone is known everywhere. One that a tenant chose may be another file's in another folder:
it is left out of lists by folder only, and not of ComfyUI's choices and complaints, which tell bare names.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from lib.comfy.models.index import Index
from lib.comfy.models.names import is_content_name
from lib.errors import ServiceError
from lib.jobs.model import JobSpec

STRANGER = "\0"
"""The owner of what callers bring whom nobody knows; no tenant is called so."""
HIDDEN = "***"
OLD_FOLDERS = {"unet": "diffusion_models", "clip": "text_encoders", "t2i_adapter": "controlnet"}
"""Directories that ComfyUI lists as another type."""
Options = Callable[[str, str], Sequence[str]]
Hide = Callable[[ServiceError, JobSpec], None]


def nothing_hidden(error: ServiceError, spec: JobSpec) -> None:
    """A ``Hide`` where everybody may know everything."""


class Privacy:
    """``tenant`` is who is told: "" the operator, who sees everything; ``None`` anybody. Nothing here blocks."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def names(self, tenant: str | None) -> frozenset[str]:
        """Names that are not told, wherever they stand."""
        return frozenset(
            name
            for model in self.index.foreign(tenant)
            for path in model.paths
            if is_content_name(name := PurePath(path).name, sha256=model.sha256)
        )

    def listed(self, models: Mapping[str, Collection[str]], *, tenant: str | None) -> dict[str, list[str]]:
        """Return names by folder, without those of others."""
        paths = [PurePath(path) for model in self.index.foreign(tenant) for path in model.paths]
        foreign = {(path.parent.name, path.name) for path in paths}
        foreign |= {(OLD_FOLDERS.get(folder, folder), name) for folder, name in foreign}
        anywhere = self.names(tenant)
        return {
            folder: [name for name in names if name not in anywhere and (folder, name) not in foreign]
            for folder, names in models.items()
        }

    def options(self, options: Options, *, tenant: str | None) -> Options:
        """Return ComfyUI's choices without names of others."""
        hidden = self.names(tenant)
        if not hidden:
            return options
        return lambda class_type, name: tuple(one for one in options(class_type, name) if one not in hidden)

    def hide(self, error: ServiceError, spec: JobSpec) -> None:
        """Take names of others out of what the error of a job tells."""
        hidden = self.names(spec.owner or (None if spec.stranger else ""))
        if not hidden:
            return
        pattern = re.compile("|".join(map(re.escape, hidden)))
        error.message = pattern.sub(HIDDEN, error.message)
        error.args = (error.message,)
        error.details = _without(error.details, hidden, pattern)


def _without(value: Any, hidden: Collection[str], pattern: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(HIDDEN, value)
    if isinstance(value, Mapping):
        return {name: _without(item, hidden, pattern) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, hidden, pattern) for item in value if not (isinstance(item, str) and item in hidden)]
    return value
