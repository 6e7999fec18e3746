"""Debian packages that node packs need (libGL and the like), on hosts where we are root."""

import os
import re
import subprocess
from collections.abc import Sequence

from provisioning.errors import ProvisioningError
from provisioning.steps import run_command, say

TIMEOUT_S = 900.0
PACKAGE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(=(?P<version>[A-Za-z0-9.+:~-]+))?")


def install_packages(packages: Sequence[str]) -> None:
    """Install what is missing of ``name`` or ``name=version``. Raises ProvisioningError."""
    missing = [package for package in packages if not installed(package)]
    if not missing:
        return
    names = ", ".join(missing)
    if os.geteuid() != 0:
        raise ProvisioningError(f"{names}: only root can install packages.", remedy=f"apt-get install {names}")
    say(f"    apt: {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update", "-q"), ("install", "-y", "-q", "--no-install-recommends", *missing)):
        run_command(
            ["apt-get", *arguments],
            failure=f"apt-get {arguments[0]} failed for {names}.",
            remedy="Correct the names, or check the network, then start again.",
            env=environment,
            timeout_s=TIMEOUT_S,
        )


def installed(package: str) -> bool:
    """Ask dpkg whether a package is there, in its version if one is named."""
    found = PACKAGE.fullmatch(package)
    if found is None:
        return False
    try:
        asked = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}|${Version}\n", found["name"]],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return False
    rows = [line.split("|") for line in asked.stdout.decode().splitlines()]
    return any(row[0].strip() == "ii" and found["version"] in (None, row[1]) for row in rows)
