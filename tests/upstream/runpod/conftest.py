"""What RunPod's own tests ask of a worker, of the local server and of a client's other side, asked of a whole worker of
ours on a fake ComfyUI. Names after theirs; where we do otherwise, the test says so and why."""

from collections.abc import Iterator

import pytest
from aiohttp import web

from tests.fakes.comfyui import FakeComfyUI
from tests.integration.harness import worker
from tests.integration.mishaps import Aside, aside
from tests.integration.runpod import Endpoint
from tests.s3_fixture import S3Server, nanio_server  # noqa: F401 - registered by being imported

KEY = "the-key-of-upstreams-tests"


class UploadingComfyUI(FakeComfyUI):
    """Takes pictures by upload only, and refuses them when it is told to."""

    refuses_uploads = False

    async def _upload(self, request: web.Request) -> web.Response:
        if self.refuses_uploads:
            await request.read()
            return web.Response(status=400)
        return await super()._upload(request)


@pytest.fixture(scope="package")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aside[UploadingComfyUI]]:
    with aside(UploadingComfyUI(tmp_path_factory.mktemp("upstream-comfyui"))) as running:
        yield running


@pytest.fixture(scope="package")
def here(comfyui: Aside[UploadingComfyUI], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A worker, and no bucket."""
    folder = tmp_path_factory.mktemp("upstream")
    with worker(folder, COMFYUI_API_BASE=comfyui.server.base_url, API_KEYS=f"tests:{KEY}") as process:
        yield Endpoint(process, prefix="")


@pytest.fixture(scope="package")
def with_bucket(
    comfyui: Aside[UploadingComfyUI],
    nanio_server: S3Server,  # noqa: F811 - the fixture
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Endpoint]:
    """A worker with ``BUCKET_ENDPOINT_URL`` and its keys."""
    settings = {
        "BUCKET_ENDPOINT_URL": f"{nanio_server.endpoint_url}/outputs",
        "BUCKET_ACCESS_KEY_ID": nanio_server.access_key_id,
        "BUCKET_SECRET_ACCESS_KEY": nanio_server.secret_access_key,
    }
    folder = tmp_path_factory.mktemp("upstream-bucket")
    with worker(folder, COMFYUI_API_BASE=comfyui.server.base_url, **settings) as process:
        yield Endpoint(process, prefix="")
