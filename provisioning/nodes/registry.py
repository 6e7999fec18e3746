"""The public registry of node packs: which archive holds a version of a pack, and unpacking it.

``GET <registry>/nodes/<id>/install[?version=V]`` answers ``{"version", "downloadUrl", "status", ...}`` for the version
to be installed (as comfy-cli asks it, read in its source at 0687335). The archive is a zip.
"""

import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from provisioning.errors import ProvisioningError

TIMEOUT_S = 30.0
LIMIT_BYTES = 2 << 30
BANNED = "NodeVersionStatusBanned"
BY_URL = "Name the pack by the URL of its git repository instead."


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One version of a pack and where its archive is."""

    version: str
    url: str


def find_release(registry: str, name: str, version: str | None) -> Release:
    """Ask for a version, by default the newest. Raises ProvisioningError."""
    address = f"{registry.rstrip('/')}/nodes/{quote(name, safe='')}/install"
    title = f"{name}@{version}" if version else name
    try:
        response = requests.get(address, params={"version": version} if version else None, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise ProvisioningError(
            f"The registry of nodes, {registry}, does not answer: {error}", remedy=BY_URL
        ) from error
    if response.status_code == requests.codes.not_found:
        raise ProvisioningError(f"The registry of nodes has no {title}.", remedy=f"Correct the name. {BY_URL}")
    if response.status_code != requests.codes.ok:
        raise ProvisioningError(f"The registry of nodes answered {response.status_code} for {title}.", remedy=BY_URL)
    return _release(title, _body(response))


def _body(response: requests.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except requests.exceptions.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _release(title: str, body: dict[str, Any]) -> Release:
    if body.get("status") == BANNED:
        raise ProvisioningError(f"The registry of nodes has banned {title}.", remedy="Take another pack.")
    version, url = body.get("version"), body.get("downloadUrl")
    if not isinstance(version, str) or not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise ProvisioningError(f"The registry of nodes offers no archive for {title}.", remedy=BY_URL)
    return Release(version=version, url=url)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into a new ``folder``; nothing leaves it. Raises ProvisioningError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                _refuse_strange(entry)
            if sum(entry.file_size for entry in content.infolist()) > LIMIT_BYTES:
                raise ProvisioningError(f"{archive.name} unpacks to over 2 GiB.", remedy=BY_URL)
            content.extractall(folder)
    except zipfile.BadZipFile as error:
        raise ProvisioningError(f"{archive.name} is no zip archive: {error}", remedy=BY_URL) from error


def _refuse_strange(entry: zipfile.ZipInfo) -> None:
    parts = Path(entry.filename).parts
    if entry.filename.startswith("/") or ".." in parts or stat.S_ISLNK(entry.external_attr >> 16):
        raise ProvisioningError(f"The archive's entry {entry.filename!r} would leave its folder.", remedy=BY_URL)
