"""Salad's bounds on a real ComfyUI: models that make room for others, webhooks that nobody takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui_fixture import RealComfyUI, install_record
from tests.fakes.comfyui_models import safetensors
from tests.integration.salad import Salad, eventually, fresh, salad, storages, verified
from tests.peers.azure.azurite import AzureServer, azurite_server
from tests.s3_fixture import S3Server

__all__ = ["azurite_server"]
pytestmark = pytest.mark.comfyui
QUOTA_BYTES = 250_000
MODEL_BYTES = 100_000
ATTEMPTS = 2


@pytest.fixture(scope="module")
def api(
    real_comfyui: RealComfyUI,
    nanio_server: S3Server,
    azurite_server: AzureServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Salad]:
    env = {"MODELS_CACHE_BYTES": str(QUOTA_BYTES), "PROMPT_WEBHOOK_RETRIES": str(ATTEMPTS)}
    folder = tmp_path_factory.mktemp("salad-bounds")
    with (
        storages(nanio_server, azurite_server) as places,
        salad(folder, real_comfyui.base_url, places, **env) as made,
    ):
        yield made


@pytest.fixture
def loras() -> Iterator[Path]:
    """ComfyUI's folder; what a test adds is taken away again."""
    folder = Path(str(install_record()["root"])) / "models" / "loras"
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.glob("*.safetensors*")) - before:
        path.unlink()


def told(api: Salad, name: str) -> list[dict[str, Any]]:
    """What system events of one kind said so far."""
    bodies = [verified(seen) for seen in api.files.told("/hook/system")]
    return [body["data"] for body in bodies if body["event"] == name]


def bring(api: Salad, name: str, *, seed: int) -> None:
    url = api.files.put(f"/lru/{name}", safetensors(MODEL_BYTES, seed=seed))
    api.answer("/download", {"url": url, "model_type": "loras", "wait": True})


def test_the_least_recently_used_model_makes_room(api: Salad, loras: Path) -> None:
    """It is gone from disk and list, and a system event says so; what was asked for again stays."""
    names = [f"lru-{letter}.safetensors" for letter in "abc"]
    for number in (0, 1, 0, 2):
        bring(api, names[number], seed=100 + number)
    assert [(loras / name).is_file() for name in names] == [True, False, True]
    assert set(names) & set(api.ask("GET", "/models").json()["loras"]) == {names[0], names[2]}
    (deleted,) = eventually(lambda: told(api, "storage.file_deleted"))
    assert deleted["url"] == api.files.url(f"/lru/{names[1]}") and deleted["size"] > MODEL_BYTES
    assert deleted["local_path"] == str(loras / names[1])
    brought = lambda: told(api, "storage.file_downloaded")  # noqa: E731
    eventually(lambda: len(brought()) >= len(names))
    assert len(brought()) == len(names)


def test_a_webhook_that_nobody_takes_is_given_up_and_can_be_sent_again(api: Salad) -> None:
    """After PROMPT_WEBHOOK_RETRIES attempts in all, each signed; the result is not lost."""
    api.files.statuses[:] = [500] * ATTEMPTS
    accepted = api.prompt(fresh(), status=202, id="nobody", webhook_v2=api.hook("nobody"))
    listed = lambda: api.ask("GET", "/webhooks/dead").json()["messages"]  # noqa: E731
    (dead,) = eventually(listed)
    assert accepted["status"] == "ok" and api.files.statuses == []
    seen = api.told("nobody", ATTEMPTS)
    assert {verified(one)["type"] for one in seen} == {"prompt.complete"}
    assert {one.headers["webhook-id"] for one in seen} == {"nobody"}
    assert api.ask("GET", "/result/nobody").json()["filenames"] == ["nobody_ComfyUI_00001_.png"]
    assert api.ask("POST", f"/webhooks/dead/{dead['message_id']}/retry").status_code == 202
    assert verified(api.told("nobody", ATTEMPTS + 1)[-1])["id"] == "nobody"
    api.process.wait_for(lambda: not listed(), "delivered")
