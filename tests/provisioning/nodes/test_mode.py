"""ComfyUI-Manager's network mode."""

import configparser
from pathlib import Path

import pytest

from provisioning.errors import ProvisioningError
from provisioning.nodes.mode import config_files, set_mode


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(path)
    return parser


def test_file_is_made_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "user/config.ini"
    set_mode(path, "offline")
    assert read(path)["default"]["network_mode"] == "offline"
    path.write_text("[default]\nsecurity_level = weak\nnetwork_mode = public\nbypass = 5%\n")
    set_mode(path, "private")
    section = configparser.RawConfigParser()
    section.read(path)
    assert dict(section["default"]) == {"security_level": "weak", "network_mode": "private", "bypass": "5%"}


def test_damaged_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "config.ini"
    path.write_text("no section")
    with pytest.raises(ProvisioningError, match="no INI file"):
        set_mode(path, "offline")
    assert path.read_text() == "no section"


@pytest.mark.parametrize(
    ("source", "place"), [("def get_system_user_directory(): ...", "__manager"), ("", "default/ComfyUI-Manager")]
)
def test_each_comfyui_of_ours_has_its_own(tmp_path: Path, source: str, place: str) -> None:
    (tmp_path / "folder_paths.py").write_text(source)
    assert config_files(tmp_path, tmp_path) == (tmp_path / "user/comfyui-1" / place / "config.ini",)
    for number in (1, 2):
        (tmp_path / f"user/comfyui-{number}").mkdir(parents=True)
    assert len(config_files(tmp_path, tmp_path)) == 2
