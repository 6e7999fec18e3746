"""Packs arrive whole, at the version that was asked for, with what they need in ComfyUI's own interpreter."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning.errors import ProvisioningError
from provisioning.nodes.install import NodesHost, install_pack
from provisioning.nodes.source import parse_source
from tests.provisioning.packs import commit_of, imports_here, write_pack
from tests.provisioning.servers import FileServer

Make = Callable[..., str]


def test_newest_commit_is_pinned_by_the_first_installation(
    make_repository: Make, nodes_host: NodesHost, tmp_path: Path
) -> None:
    """Another host with the same lock file gets the same commit, whatever was pushed meanwhile."""
    url = make_repository("pack")
    first = install_pack(parse_source(url), nodes_host)
    make_repository("pack", more_txt="new")
    first.path.rename(tmp_path / "gone")
    again = install_pack(parse_source(url), nodes_host)
    assert again.version == first.version == commit_of(tmp_path / "gone")
    assert not (again.path / "more.txt").exists()


def test_tag_commit_and_abbreviated_commit(make_repository: Make, nodes_host: NodesHost, tmp_path: Path) -> None:
    url = make_repository("pack", tag="v1", one_txt="1")
    make_repository("pack", two_txt="2")
    commit = commit_of(tmp_path / "upstream/pack", "v1")
    for ref in ("v1", commit, commit[:8]):
        pack = install_pack(parse_source(f"{url}@{ref}"), nodes_host)
        assert pack.version == commit
        assert not (pack.path / "two.txt").exists()
    assert (install_pack(parse_source(f"{url}@main"), nodes_host).path / "two.txt").exists()


def test_installed_pack_asks_nobody_again(make_repository: Make, nodes_host: NodesHost, tmp_path: Path) -> None:
    url = make_repository("pack")
    install_pack(parse_source(url), nodes_host)
    (tmp_path / "upstream/pack").rename(tmp_path / "offline")
    assert install_pack(parse_source(url), nodes_host).version


def test_a_persons_changes_are_never_lost(make_repository: Make, nodes_host: NodesHost) -> None:
    url = make_repository("pack", tag="v1")
    pack = install_pack(parse_source(url), nodes_host)
    make_repository("pack", tag="v2", more_txt="new")
    (pack.path / "__init__.py").write_text("# mine")
    with pytest.raises(ProvisioningError, match="has local changes"):
        install_pack(parse_source(f"{url}@v2"), nodes_host)
    assert (pack.path / "__init__.py").read_text() == "# mine"


def test_folder_of_another_repository_is_refused(make_repository: Make, nodes_host: NodesHost) -> None:
    install_pack(parse_source(make_repository("one")), nodes_host, folder="same")
    with pytest.raises(ProvisioningError, match="is a checkout of"):
        install_pack(parse_source(make_repository("two")), nodes_host, folder="same")


def test_folder_that_came_otherwise_is_taken_as_it_is_unless_a_version_is_asked(
    make_repository: Make, nodes_host: NodesHost
) -> None:
    url = make_repository("pack")
    write_pack(nodes_host.folder / "Pack")
    assert install_pack(parse_source(url), nodes_host).version == ""
    with pytest.raises(ProvisioningError, match="no git checkout"):
        install_pack(parse_source(f"{url}@main"), nodes_host)


def test_disabled_pack_is_enabled(make_repository: Make, nodes_host: NodesHost) -> None:
    url = make_repository("pack")
    pack = install_pack(parse_source(url), nodes_host)
    pack.path.rename(pack.path.with_name("pack.disabled"))
    assert install_pack(parse_source(url), nodes_host).path == pack.path
    assert not pack.path.with_name("pack.disabled").exists()


def test_failure_leaves_nothing_that_comfyui_would_load(nodes_host: NodesHost, tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match="could not bring the node pack absent"):
        install_pack(parse_source(f"file://{tmp_path}/absent"), nodes_host)
    assert list(nodes_host.folder.iterdir()) == []


def test_requirements_go_into_comfyuis_interpreter(
    make_repository: Make, nodes_host: NodesHost, wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever environment is active where we run: the known defect of worker-comfyui's images."""
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "elsewhere"))
    install_pack(parse_source(make_repository("pack", requirements_txt=f"# what it needs\n{wheel}\n")), nodes_host)
    assert imports_here(nodes_host.interpreter, "tinything")
    assert not (tmp_path / "elsewhere").exists()


def test_dependencies_of_pyproject_count_where_there_are_no_requirements(
    make_repository: Make, nodes_host: NodesHost
) -> None:
    url = make_repository(
        "pack", pyproject_toml='[project]\nname = "p"\ndependencies = ["absent @ file:///absent.whl"]\n'
    )
    with pytest.raises(ProvisioningError, match="packages of the node pack pack could not be installed"):
        install_pack(parse_source(url), nodes_host)


def test_install_script_runs_once_and_finds_the_interpreter(make_repository: Make, nodes_host: NodesHost) -> None:
    script = """
import os, shutil, sys
with open("log", "a") as log:
    print(sys.prefix == os.environ["VIRTUAL_ENV"], shutil.which("python") == sys.executable, file=log)
"""
    url = make_repository("pack", install_py=script)
    for _ in range(2):
        pack = install_pack(parse_source(url), nodes_host)
    assert (pack.path / "log").read_text() == "True True\n"


def test_failed_install_script_is_told_and_runs_again(make_repository: Make, nodes_host: NodesHost) -> None:
    url = make_repository("pack", install_py="open('log', 'a').write('x'); raise SystemExit('the cause')")
    for _ in range(2):
        with pytest.raises(ProvisioningError, match=r"install\.py of the node pack pack failed(.|\n)*the cause"):
            install_pack(parse_source(url), nodes_host)
    assert (nodes_host.folder / "pack" / "log").read_text() == "xx"


def test_pack_of_the_registry(nodes_host: NodesHost, server: FileServer) -> None:
    _publish(server, "1.0")
    pack = install_pack(parse_source("some-pack"), nodes_host)
    assert (pack.path.name, pack.version) == ("some-pack", "1.0")
    assert (pack.path / "VERSION").read_text() == "1.0"
    asked = len(server.requests)
    assert install_pack(parse_source("some-pack"), nodes_host).version == "1.0"
    assert len(server.requests) == asked
    _publish(server, "2.0")
    assert install_pack(parse_source("some-pack@2.0"), nodes_host).version == "2.0"
    assert (pack.path / "VERSION").read_text() == "2.0"


def _publish(server: FileServer, version: str) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("__init__.py", "NODE_CLASS_MAPPINGS = {}")
        archive.writestr("VERSION", version)
    url = server.add(f"/cdn/{version}.zip", content.getvalue())
    body = json.dumps({"version": version, "downloadUrl": url}).encode()
    server.add("/nodes/some-pack/install", body)
    server.add(f"/nodes/some-pack/install?version={version}", body)


def test_keys_in_addresses_are_neither_said_nor_kept_in_the_lock_file(
    nodes_host: NodesHost, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProvisioningError) as refused:
        install_pack(parse_source("http://me:s3cret@127.0.0.1:9/owner/pack@v1"), nodes_host)
    nodes_host.pins.pin_pack("other@", "1")
    write_pack(nodes_host.folder / "kept")
    install_pack(parse_source("http://me:s3cret@127.0.0.1:9/owner/kept"), nodes_host)
    lock = (nodes_host.workspace / "provisioning-lock.json").read_text()
    assert "s3cret" not in f"{refused.value}{capsys.readouterr().out}{lock}"
