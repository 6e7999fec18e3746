"""What comfyui-api's own tests ask of a server (its ``test/core.spec.ts``: a live one with every storage), asked of a
whole worker of ours; and a worker on a fake ComfyUI for what is wrong upstream. Where we do otherwise, the test
says so.
"""

from collections.abc import Iterator

import pytest

from tests.comfyui_fixture import RealComfyUI
from tests.fakes.comfyui import FakeComfyUI
from tests.integration.mishaps import Aside, aside
from tests.integration.salad import Salad, Storages, salad, storages
from tests.peers.azure.azurite import AzureServer, azurite_server
from tests.s3_fixture import S3Server, nanio_server

__all__ = ["azurite_server", "nanio_server"]


@pytest.fixture(scope="package")
def places(nanio_server: S3Server, azurite_server: AzureServer) -> Iterator[Storages]:
    with storages(nanio_server, azurite_server) as made:
        yield made


@pytest.fixture(scope="package")
def server(real_comfyui: RealComfyUI, places: Storages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Salad]:
    """As upstream's docker-compose sets it up, on a real ComfyUI."""
    with salad(tmp_path_factory.mktemp("upstream-salad"), real_comfyui.base_url, places) as made:
        yield made


@pytest.fixture(scope="package")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aside[FakeComfyUI]]:
    with aside(FakeComfyUI(tmp_path_factory.mktemp("upstream-comfyui"))) as running:
        yield running


@pytest.fixture(scope="package")
def here(comfyui: Aside[FakeComfyUI], places: Storages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Salad]:
    """A worker on a ComfyUI that misbehaves when it is told to; it looks things up often."""
    often = {"COMFYUI_HISTORY_POLL_S": "0.5", "OUTPUT_BASE64_MAX_BYTES": "100", "OUTPUT_BASE64_TOTAL_BYTES": "1500"}
    with salad(tmp_path_factory.mktemp("upstream-weak"), comfyui.server.base_url, places, **often) as made:
        yield made
