"""Debian packages: what is there is left alone."""

import os
import subprocess

import pytest

from provisioning.apt import install_packages, installed
from provisioning.errors import ProvisioningError

dpkg = pytest.mark.skipif(not os.path.exists("/usr/bin/dpkg-query"), reason="no Debian or Ubuntu")  # noqa: PTH110


@dpkg
def test_present_packages_need_no_root_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    version = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "bash"], capture_output=True, text=True, check=True
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert installed("bash")
    assert installed(f"bash={version.stdout}")
    assert not installed("bash=0.0")
    install_packages(["bash"])


def test_missing_packages_ask_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ProvisioningError, match="no-such-thing: only root can install"):
        install_packages(["no-such-thing"])
