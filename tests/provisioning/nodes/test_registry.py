"""Packs of the registry: what it answers, and archives that can't hurt."""

import json
import stat
import zipfile
from pathlib import Path

import pytest

from provisioning.errors import ProvisioningError
from provisioning.nodes.registry import find_release, unpack
from tests.provisioning.servers import FileServer


def answer(server: FileServer, path: str, **body: object) -> None:
    server.add(path, json.dumps(body).encode())


def test_newest_and_named_versions(server: FileServer) -> None:
    answer(server, "/nodes/pack/install", version="2.0", downloadUrl="https://cdn.example/2.zip")
    answer(server, "/nodes/pack/install?version=1.0", version="1.0", downloadUrl="https://cdn.example/1.zip")
    assert find_release(server.url, "pack", None).version == "2.0"
    assert find_release(f"{server.url}/", "pack", "1.0").url == "https://cdn.example/1.zip"


def test_unknown_pack_is_said(server: FileServer) -> None:
    with pytest.raises(ProvisioningError, match="has no pack@9"):
        find_release(server.url, "pack", "9")


def test_registry_out_of_reach_names_the_way_out() -> None:
    with pytest.raises(ProvisioningError, match=r"does not answer.*URL of its git repository"):
        find_release("http://127.0.0.1:9", "pack", None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"version": "1", "downloadUrl": "https://x/1.zip", "status": "NodeVersionStatusBanned"}, "banned"),
        ({"version": "1"}, "offers no archive"),
        ({"version": "1", "downloadUrl": "file:///etc/passwd"}, "offers no archive"),
        ({}, "offers no archive"),
    ],
)
def test_useless_answers_are_refused(server: FileServer, body: dict[str, str], said: str) -> None:
    answer(server, "/nodes/pack/install", **body)
    with pytest.raises(ProvisioningError, match=said):
        find_release(server.url, "pack", None)


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "a/../../evil.py"])
def test_no_entry_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(ProvisioningError, match="would leave its folder"):
        unpack(tmp_path / "a.zip", tmp_path / "pack")
    assert not (tmp_path / "evil.py").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(ProvisioningError, match="would leave its folder"):
        unpack(tmp_path / "a.zip", tmp_path / "pack")


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(ProvisioningError, match="no zip archive"):
        unpack(tmp_path / "a.zip", tmp_path / "pack")
