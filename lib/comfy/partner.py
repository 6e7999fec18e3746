"""The key with which ComfyUI's partner nodes are paid: whose it is, and that nobody sees it again; pure.

ComfyUI takes it in a prompt's ``extra_data`` and, from 0.3.70 on, keeps it out of its queue and history; a node that
fails may still repeat it, among its inputs or in its message.
"""

from collections.abc import Mapping
from typing import Any

from lib.errors import ServiceError
from lib.jobs.model import JobSpec
from lib.settings import EngineSettings

KIND = "comfy_org"
"""Of a job's ``Credential``."""
EXTRA = "api_key_comfy_org"
SECRET = frozenset({EXTRA, "auth_token_comfy_org"})
"""Keys of ``extra_data`` that are nobody's business."""
LEAST_CHARS = 8
"""A shorter one is no key, and would be found in any text."""
HIDDEN = "***"


def key_of(spec: JobSpec, settings: EngineSettings) -> str | None:
    """The job's own key, else the operator's."""
    own = next((given.values.get("api_key") for given in spec.credentials if given.kind == KIND), None)
    if own:
        return own
    return settings.comfy_org_api_key.get_secret_value() if settings.comfy_org_api_key is not None else None


def without(value: Any, key: str | None) -> Any:
    """Return a JSON value in which no string holds the key."""
    if key is None or len(key) < LEAST_CHARS:
        return value
    if isinstance(value, str):
        return value.replace(key, HIDDEN)
    if isinstance(value, Mapping):
        return {without(name, key): without(item, key) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without(item, key) for item in value]
    return value


def hide(error: ServiceError, key: str | None) -> None:
    """Take the key out of what an error tells."""
    error.message = without(error.message, key)
    error.args = (error.message,)
    error.details = without(error.details, key)
