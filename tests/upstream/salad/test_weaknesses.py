"""Where comfyui-api is wrong (section 9.1 of its reference, W1 to W30), and which test proves that we are not.

W1 an upload that fails          test_w1_*; test_salad_files.py: test_an_upload_that_fails
W2 a socket that drops or stalls test_w2_*
W3 real errors hidden            test_salad_api.py: test_a_wrong_request_is_told_why, test_comfyui_rejects_the_graph,
                                 test_a_node_fails
W4 broken downloads              test_w4_*; test_salad_files.py: test_a_truncated_download
W5 outputs in folders            test_salad_files.py: test_every_kind_of_output
W6 traversal                     test_salad_files.py: test_download_traversal
W7 models of one name            test_w7_*
W8 Azure downloads hang          test_core.py: test_content_img2img[Azure]
W9 WebP's options                test_salad_files.py: test_webp_lossless, test_webp_effort_and_preset
W10 secrets echoed               test_salad_api.py: test_secrets_are_nowhere
W11 failures untold              test_salad_files.py: test_an_upload_that_fails
W12 /models                      test_salad_files.py: test_models
W13 exit 0, SIGTERM              test_salad_lifecycle.py
W14 credentials and the cache    test_w14_*; test_salad_files.py: test_a_requests_credentials
W15 stale inputs                 test_w15_*
W16 a disk that fills            test_w16_*; tests/lib/upkeep
W17 order of frames              tests/lib/comfy/test_media_inputs.py: test_a_directory_of_images_keeps_its_order
W18 what a text means            test_salad_files.py: test_a_picture_in_every_form, test_a_picture_of_every_kind,
                                 test_what_may_not_be_read
W19 one download after another   test_w19_*
W20 folders of loaders           tests/lib/comfy/models/test_real.py
W21 /interrupt of what waits     test_salad_api.py: test_interrupt_what_waits
W22 cached prompts               test_w22_*
W23 events                       test_w23_*; test_salad_api.py: test_system_events_of_files
W24 restarts                     test_w24_*; tests/integration/test_faults_restart.py
W25 a full queue                 test_salad_api.py: test_max_queue_depth
W26 whsec_ secrets               test_salad_api.py: test_webhook_v2; userinfo, SAS, names: tests/lib/storage
W27 manifest                     tests/provisioning; test_salad_lifecycle.py
W28 workflow files               test_salad_workflows.py
W29 large results                test_w29_*
W30 documents that drift         tests/contract/test_reference.py, tests/integration/test_openapi_truth.py, tests/docs

Files without a folder are in tests/integration.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import install_record
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.comfyui_models import safetensors
from tests.fakes.http_hosts import png
from tests.fakes.keyed_host import KeyedHost
from tests.integration.harness import held
from tests.integration.mishaps import Aside, aside
from tests.integration.salad import (
    BUCKET,
    SYSTEM,
    FileHost,
    Salad,
    Storages,
    eventually,
    fresh,
    loading,
    long,
    opened,
    text,
    verified,
)

EVENTS = ("execution_start", "execution_cached", "executing", "progress", "executed", "execution_success", "end")


@pytest.fixture(autouse=True)
def behaved(comfyui: Aside[FakeComfyUI]) -> Iterator[None]:
    """The next test finds a ComfyUI that does as it should."""
    yield
    comfyui.server.wrong.mute = frozenset()
    comfyui.server.wrong.post_delay_s = 0


def test_w1_a_refused_upload_fails_and_keeps_the_file(here: Salad, comfyui: Aside[FakeComfyUI]) -> None:
    """500, nothing that says it was uploaded, and the picture is still on the worker."""
    here.files.refuses = 403
    try:
        here.prompt(fresh(), status=500, id="w1", http_upload={"url_prefix": here.files.url("/w1")})
    finally:
        here.files.refuses = 0
    assert list(comfyui.server.folder.rglob("w1_ComfyUI_*.png"))
    here.prompt(fresh(), id="w1-good", http_upload={"url_prefix": here.files.url("/w1")})
    eventually(lambda: "w1-good" in uploaded(here))
    assert "/w1_ComfyUI" not in uploaded(here)


def uploaded(here: Salad) -> str:
    """What system events say of uploads."""
    bodies = [verified(seen) for seen in here.files.told(SYSTEM)]
    return json.dumps([body["data"] for body in bodies if body["event"] == "storage.file_uploaded"])


def test_w2_a_socket_that_drops(here: Salad, comfyui: Aside[FakeComfyUI], tmp_path: Path) -> None:
    """In the middle of a prompt: its result comes, and so does that of the next one."""
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(here.prompt, held(gate))
        try:
            here.until_running()
            comfyui.do(comfyui.server.drop_sockets())
        finally:
            gate.touch()
        assert len(running.result()["images"]) == 1
    assert here.prompt(fresh())["images"]
    assert here.ask("GET", "/ready").status_code == 200


def test_w2_a_socket_that_stalls(here: Salad, comfyui: Aside[FakeComfyUI]) -> None:
    """Open, and silent: the history is asked."""
    comfyui.server.wrong.mute = frozenset(EVENTS)
    assert here.prompt(fresh())["images"]
    here.prompt(fresh(), status=202, webhook_v2=here.hook("w2"))
    assert here.verified("w2")["type"] == "prompt.complete"


def test_w4_a_download_that_breaks_off_for_good(here: Salad) -> None:
    """400 with the place, and a worker that lives; the next picture under the URL is whole."""
    url = here.files.put("/w4.png", png(40, 20), "image/png")
    here.files.cuts = 50
    try:
        answer = here.prompt(loading(url), status=400)
    finally:
        here.files.cuts = 0
    assert answer["location"] == "prompt.10.inputs.image"
    assert opened(here.prompt(loading(url))["images"][0]).width == 40


@pytest.mark.comfyui
def test_w7_two_models_of_one_name(server: Salad) -> None:
    """Two URLs that end alike: the second never takes the place of the first."""
    root = Path(str(install_record()["root"])) / "models" / "loras"
    before = set(root.iterdir())
    first, second = (safetensors(64, seed=seed) for seed in (71, 72))
    body = {"model_type": "loras", "wait": True}
    try:
        done = server.answer("/download", {**body, "url": server.files.put("/w7/a/same.safetensors", first)})
        again = server.ask(
            "POST", "/download", json={**body, "url": server.files.put("/w7/b/same.safetensors", second)}
        )
        assert (root / done["filename"]).read_bytes() == first
        if again.status_code == 200:
            assert (root / again.json()["filename"]).read_bytes() == second
        else:
            assert again.status_code == 400
        server.answer("/download", {**body, "url": server.files.url("/w7/a/same.safetensors")})
        assert len([seen for seen in server.files.seen if seen.path == "/w7/a/same.safetensors"]) == 1
    finally:
        for path in set(root.iterdir()) - before:
            path.unlink()


def test_w14_a_private_file_stays_private(here: Salad) -> None:
    """What one request read with its credential, another can't read without, cache or not."""
    with aside(KeyedHost(content=png(40, 20), keys={"Bearer good"}, etag='"1"')) as host:
        url = host.server.url()
        auth = {"type": "bearer", "token": "good"}
        credentials = [{"url_pattern": f"http://127.0.0.1:{host.server.port}/**", "auth": auth}]
        assert here.prompt(loading(url), credentials=credentials)["images"]
        wrong = [{**credentials[0], "auth": {**auth, "token": "bad"}}]
        assert here.prompt(loading(url), status=400)["location"] == "prompt.10.inputs.image"
        assert here.prompt(loading(url), status=400, credentials=wrong)["location"] == "prompt.10.inputs.image"


def test_w15_an_input_that_changed(here: Salad, places: Storages) -> None:
    """What lies behind a URL now is what is loaded; of ``s3://`` too."""
    client = places.s3.client()
    for width in (40, 56):
        url = here.files.put("/w15.png", png(width, 20), "image/png")
        client.put_object(Bucket=BUCKET, Key="w15.png", Body=png(width, 20))
        assert opened(here.prompt(loading(url))["images"][0]).width == width
        assert opened(here.prompt(loading(f"s3://{BUCKET}/w15.png"))["images"][0]).width == width


def test_w16_inputs_do_not_pile_up(here: Salad, comfyui: Aside[FakeComfyUI]) -> None:
    """What comes again is kept once, in a folder of ours, which the clean-up may empty."""

    def there() -> set[Path]:
        root = comfyui.server.folder / "input"
        return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}

    before = there()
    for _ in range(3):
        here.prompt(loading(text(png(33, 20))))
    (kept,) = there() - before
    assert len(kept.parts) > 1 and "pyworker" in kept.parts[0], kept


def test_w19_downloads_side_by_side(here: Salad) -> None:
    """The inputs of a graph are fetched together."""
    with aside(FileHost()) as host, ThreadPoolExecutor(1) as pool:
        graph: dict[str, Any] = {}
        for number in range(3):
            one = loading(host.server.url(f"/gated/{number}.png"))
            one["2"]["inputs"]["images"] = [f"{number}-10", 0]
            graph |= {f"{number}-{key}": node for key, node in one.items()}
        running = pool.submit(here.prompt, graph)
        try:
            here.process.wait_for(lambda: host.server.most == 3, "three at once", 60)
        finally:
            host.call(host.server.release.set)
        assert len(running.result()["images"]) == 3


@pytest.mark.comfyui
def test_w22_a_prompt_that_is_cached_whole(server: Salad) -> None:
    """The same again, id and all: over before anybody could listen, and answered all the same."""
    graph = fresh()
    for _ in range(3):
        assert len(server.prompt(graph, id="w22")["images"]) == 1


def test_w22_events_before_the_answer(here: Salad, comfyui: Aside[FakeComfyUI]) -> None:
    """ComfyUI is done before it has answered the POST."""
    comfyui.server.wrong.post_delay_s = 0.5
    assert here.prompt(fresh())["images"]


def test_w23_events_are_numbered(here: Salad) -> None:
    """In the order in which they happened, one a POST."""
    here.prompt(long(0.3), id="w23")
    eventually(lambda: [seen for seen in here.files.told(SYSTEM) if b"w23" in seen.body and b"_success" in seen.body])
    mine = [seen for seen in here.files.told(SYSTEM) if b'"w23"' in seen.body]
    numbers = [int(seen.headers["X-Event-Sequence"]) for seen in mine]
    assert numbers == sorted(set(numbers))
    kinds = [verified(seen)["event"] for seen in mine]
    assert kinds.index("comfy.execution_start") < kinds.index("comfy.executed") < kinds.index("comfy.execution_success")


def test_w24_a_job_can_be_asked_for(here: Salad) -> None:
    """A 202 need not be waited for blindly: ``/result/{id}`` has what 200 would have said."""
    here.prompt(fresh(), status=202, id="w24", webhook_v2=here.hook("w24"))
    here.verified("w24")
    answer = here.ask("GET", "/result/w24").json()
    assert (answer["id"], answer["status"], len(answer["images"])) == ("w24", "completed", 1)


def test_w29_a_large_result_is_a_link(here: Salad) -> None:
    """Beyond OUTPUT_BASE64_TOTAL_BYTES a file is a URL of this worker, and a warning says so. Up to there clients find
    what they decode, base64: a single file's own limit is not theirs."""
    assert opened(here.prompt(fresh())["images"][0]).width == 64
    done = here.prompt(fresh(width=1024, height=1024))
    (url,) = done["images"]
    assert url.startswith("http")
    assert requests.get(url, timeout=60).content.startswith(b"\x89PNG")
    assert "OUTPUT_BASE64_TOTAL_BYTES" in str(done["warnings"])
