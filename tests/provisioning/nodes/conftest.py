"""The ComfyUI that node packs are installed for."""

import threading
from pathlib import Path

import pytest

from provisioning.fetch import Fetcher
from provisioning.interpreter import Interpreter
from provisioning.nodes.install import NodesHost
from provisioning.pins import Pins
from provisioning.progress import Lines
from tests.provisioning.servers import FileServer


@pytest.fixture
def nodes_host(tmp_path: Path, interpreter: Interpreter, server: FileServer) -> NodesHost:
    root = tmp_path / "ComfyUI"
    root.mkdir()
    pins = Pins(tmp_path / "workspace" / "provisioning-lock.json")
    fetcher = Fetcher(pins=pins, progress=Lines(), stopped=threading.Event(), retry_wait_s=0.001)
    return NodesHost(
        root=root,
        workspace=tmp_path / "workspace",
        interpreter=interpreter,
        registry_url=server.url,
        pins=pins,
        fetcher=fetcher,
    )
