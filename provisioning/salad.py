"""The manifest of Salad's comfyui-api in our form: its models are in two lists, and name their whole places.

``apt``, ``pip`` and ``custom_nodes`` are written as ours. A relative ``local_path`` is below ComfyUI's folder, where
comfyui-api runs in its images; an absolute one stays where it is.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

ADDRESS = r"^(https?|s3)://[^\s]+$"
MODELS = "models"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(pattern=ADDRESS)]
    local_path: Annotated[str, Field(min_length=1)]


class _Models(BaseModel):
    model_config = ConfigDict(extra="forbid")

    before_start: tuple[_Model, ...] | None = None
    after_start: tuple[_Model, ...] | None = None


class _WithModels(BaseModel):
    models: _Models


def in_our_form(values: Any) -> Any:
    """Translate where it is Salad's; leave everything else, also what is wrong. A key without a value is left out.

    Raises: pydantic's ValidationError, with the names that Salad's form has.
    """
    if not isinstance(values, Mapping):
        return values
    given = {key: value for key, value in values.items() if value is not None}
    if not isinstance(given.get(MODELS), Mapping):
        return given
    models = _WithModels.model_validate({MODELS: given.pop(MODELS)}).models
    entries = [
        *(_entry(model, after_start=False) for model in models.before_start or ()),
        *(_entry(model, after_start=True) for model in models.after_start or ()),
    ]
    files = given.get("files", [])
    return given | {
        MODELS: [entry for entry in entries if "under" not in entry],
        "files": [*(files if isinstance(files, list) else [files]), *(entry for entry in entries if "under" in entry)],
    }


def _entry(model: _Model, *, after_start: bool) -> dict[str, Any]:
    path = PurePosixPath(model.local_path)
    entry = {"url": model.url, "after_start": after_start}
    if path.is_absolute():
        return entry | {"path": str(path.relative_to("/")), "under": "root"}
    if path.parts[:1] == (MODELS,):
        return entry | {"path": str(path.relative_to(MODELS))}
    return entry | {"path": str(path), "under": "comfyui"}
