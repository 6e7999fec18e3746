"""The operator's own warm-up, ``WARMUP_PROMPT_FILE`` or ``WARMUP_PROMPT_URL``: read before ComfyUI starts.

One that can't be read stops the start, as a wrong setting does: whoever names a warm-up wants no worker without it.
"""

import json

from benchmark.settings import BenchmarkSettings
from benchmark.workload import UnusableWorkflow, Workload, load, parse
from lib.settings import SaladSettings, SettingsError

BY_URL = "WARMUP_PROMPT_URL"


def load_warm_up(settings: BenchmarkSettings, *, keys: SaladSettings) -> Workload | None:
    """Give the workflow, ``None`` where none is named; the file wins. Blocks. Raises: SettingsError."""
    path, url = settings.warmup_prompt_file, settings.warmup_prompt_url
    if path is not None:
        try:
            return load(path)
        except (OSError, UnusableWorkflow) as error:
            raise SettingsError(f"WARMUP_PROMPT_FILE={path}: {error}") from error
    if url is None:
        return None
    from benchmark.fetched import fetch  # the client is big, and this is rare

    content = fetch(url.get_secret_value(), variable=BY_URL, keys=keys)
    try:
        return parse(json.loads(content), source=BY_URL)
    except (UnusableWorkflow, ValueError) as error:
        raise SettingsError(f"{BY_URL}: {error}") from error
