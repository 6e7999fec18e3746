"""Where a ComfyUI that we did not set up keeps its files: what is configured, else what it tells; and a proof."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import aiohttp
import orjson

from lib.comfy.liveness import Stats, argv_of
from lib.comfy.ports import Folders
from lib.settings import EngineSettings

PROBE_FOLDER = "pyworker-probe"
PROBE_NAME = "probe.txt"


async def locate(
    stats: Stats, *, base_url: str, local: bool, http: aiohttp.ClientSession, settings: EngineSettings
) -> Folders | None:
    """Find the folders that we share with the server which answered ``stats``; ``None`` where we see none of its files.

    ``local``: it is on this host, so that paths it tells are believed as far as a file uploaded to it is seen there."""
    asking = _Asking(http, base_url, aiohttp.ClientTimeout(total=settings.request_timeout_s))
    candidates = [await asyncio.to_thread(configured_folders, settings)]
    if local:
        candidates.append(told_folders(argv_of(stats), await asking.base_folder()))
    for folders in candidates:
        if folders is not None and await asking.is_really("output", folders.output):
            if not await asking.is_really("input", folders.input):
                continue
            temp = folders.temp if folders.temp and await asking.is_really("temp", folders.temp) else None
            return Folders(output=folders.output, input=folders.input, temp=temp)
    return None


class _Asking:
    """The questions to one server."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str, timeout: aiohttp.ClientTimeout) -> None:
        self._http = http
        self._base_url = base_url
        self._timeout = timeout

    async def base_folder(self) -> Path | None:
        """The folder of its ``custom_nodes``, as it tells itself (an internal route: absent is fine)."""
        try:
            url = f"{self._base_url}/internal/folder_paths"
            async with self._http.get(url, timeout=self._timeout) as response:
                told = orjson.loads(await response.read()) if response.status == 200 else {}
            return Path(told["custom_nodes"][0]).parent
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError, KeyError, IndexError, TypeError):
            return None

    async def is_really(self, kind: str, folder: Path) -> bool:
        """Upload a few bytes into ComfyUI's folder and look whether they lie in ``folder``; then remove them."""
        token = secrets.token_hex(16)
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("image", token.encode(), filename=PROBE_NAME, content_type="text/plain")
        for name, value in (("type", kind), ("subfolder", PROBE_FOLDER), ("overwrite", "true")):
            form.add_field(name, value)
        try:
            url = f"{self._base_url}/upload/image"
            async with self._http.post(url, data=form, timeout=self._timeout) as response:
                if response.status != 200:
                    return False
        except (aiohttp.ClientError, TimeoutError):
            return False
        return await asyncio.to_thread(_found_and_removed, folder / PROBE_FOLDER, token)


def _found_and_removed(folder: Path, token: str) -> bool:
    probe = folder / PROBE_NAME
    try:
        if probe.read_text(encoding="ascii") != token:
            return False
        probe.unlink()
    except (OSError, UnicodeDecodeError):
        return False
    with suppress(OSError):  # another worker's probe is there
        folder.rmdir()
    return True


def configured_folders(settings: EngineSettings) -> Folders | None:
    """What the operator says: paths one by one, or the installation's folder. Blocks."""
    root = settings.install_path
    output = settings.output_path or (root / "output" if root else None)
    folder_in = settings.input_path or (root / "input" if root else None)
    if output is None or folder_in is None:
        return None
    return Folders(output=output.resolve(), input=folder_in.resolve(), temp=root.resolve() / "temp" if root else None)


def told_folders(argv: Sequence[str], base: Path | None) -> Folders | None:
    """What ComfyUI tells of itself: its flags, else the usual places under its base folder."""
    flags = dict(pairwise(argv))
    named = {kind: flags.get(f"--{kind}-directory") for kind in ("output", "input", "temp", "base")}
    base = Path(named["base"]) if named["base"] else base
    if base is None and not (named["output"] and named["input"]):
        return None
    base = base or Path()
    temp = Path(named["temp"]) / "temp" if named["temp"] else base / "temp"
    return Folders(
        output=Path(named["output"] or base / "output"), input=Path(named["input"] or base / "input"), temp=temp
    )
