"""Files that Salad's requests bring and get, sections 1.9, 1.11, 2 and 3 of its reference: media and models in every
form, converted pictures, every storage, each a real server. On a real ComfyUI."""

import base64
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pyvips

from tests.comfyui_fixture import RealComfyUI, install_record
from tests.fakes import workflows
from tests.fakes.comfyui_models import safetensors
from tests.integration.runpod import wait_idle
from tests.integration.salad import (
    BUCKET,
    HEADER,
    Salad,
    Storages,
    decoded,
    eventually,
    fresh,
    loading,
    noise,
    opened,
    salad,
    storages,
    text,
)
from tests.peers.azure.azurite import CONTAINER, AzureServer, azurite_server
from tests.s3_fixture import S3Server

__all__ = ["azurite_server"]
pytestmark = pytest.mark.comfyui
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"


@pytest.fixture(scope="module")
def places(nanio_server: S3Server, azurite_server: AzureServer) -> Iterator[Storages]:
    """Every storage, each with the same picture."""
    with storages(nanio_server, azurite_server) as made:
        made.files.put("/in.png", noise(), "image/png")
        made.s3.client().put_object(Bucket=BUCKET, Key="in/a b.png", Body=noise())
        made.hub.server.repo("u/r")["in put/a b.png"] = noise()
        made.hub.server.repo("u/d", kind="dataset").update({"in.png": noise()})
        made.hub.server.repo("u/out")
        made.hub.server.repo("u/out", kind="dataset")
        yield made


@pytest.fixture(scope="module")
def api(real_comfyui: RealComfyUI, places: Storages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Salad]:
    with salad(tmp_path_factory.mktemp("salad-files"), real_comfyui.base_url, places) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(real_comfyui: RealComfyUI) -> Iterator[None]:
    """No test leaves work on the GPU."""
    yield
    wait_idle(real_comfyui)


def equal(one: pyvips.Image, other: pyvips.Image) -> bool:
    """Whether each pixel is the same."""
    return bool((one.width, one.height, one.bands) == (other.width, other.height, other.bands)) and bool(
        (one == other).min() == 255
    )


# -- 2.1, 2.2: media ----------------------------------------------------------------------------------------------


def forms(places: Storages, real_comfyui: RealComfyUI) -> dict[str, str]:
    """One picture, in every form in which a field may name it."""
    (real_comfyui.input / "sub").mkdir(exist_ok=True)
    (real_comfyui.input / "sub" / "in.png").write_bytes(noise())
    (real_comfyui.output / "made.png").write_bytes(noise())
    hub = places.hub.server.endpoint
    return {
        "base64": text(noise()),
        "URL-safe base64": base64.urlsafe_b64encode(noise()).decode(),
        "data URI": f"data:image/png;base64,{text(noise())}",
        "http": places.files.url("/in.png"),
        "http with a query": places.files.url("/in.png?token=a,b"),
        "s3": f"s3://{BUCKET}/in/a b.png",
        "azure": places.put_blob("in/a.png", noise()),
        "hf model": f"{hub}/u/r/resolve/main/in%20put/a%20b.png",
        "hf dataset": f"{hub}/datasets/u/d/resolve/main/in.png",
        "name": "sub/in.png",
        "annotated name": "made.png [output]",
    }


FORMS = (
    "base64",
    "URL-safe base64",
    "data URI",
    "http",
    "http with a query",
    "s3",
    "azure",
    "hf model",
    "hf dataset",
    "name",
    "annotated name",
)


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_in_every_form(api: Salad, places: Storages, real_comfyui: RealComfyUI, form: str) -> None:
    """What LoadImage reads is what was sent, bit for bit."""
    done = api.prompt(loading(forms(places, real_comfyui)[form]))
    assert equal(opened(done["images"][0])[:3], decoded(noise())[:3])


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif", "bmp", "tiff"])
def test_a_picture_of_every_kind(api: Salad, suffix: str) -> None:
    """Its kind is read from its bytes; a small JPEG is no path."""
    image = pyvips.Image.new_from_buffer(noise(32, 16), "")
    data = image.write_to_buffer(f".{suffix}") if suffix != "bmp" else bitmap(image)
    made = opened(api.prompt(loading(text(data)))["images"][0])
    assert (made.width, made.height) == (32, 16)


def bitmap(image: pyvips.Image) -> bytes:
    """A BMP, which libvips does not write."""
    rows = image.flipver()[2].bandjoin([image.flipver()[1], image.flipver()[0]]).write_to_memory()
    head = struct.pack("<IiiHHIIiiII", 40, image.width, image.height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + head + rows


def test_another_field_of_another_class(api: Salad) -> None:
    """LoadImageMask's ``image``."""
    graph = loading(text(noise()), class_type="LoadImageMask")
    graph["10"]["inputs"]["channel"] = "red"
    graph["11"] = {"class_type": "MaskToImage", "inputs": {"mask": ["10", 0]}}
    graph["2"]["inputs"]["images"] = ["11", 0]
    assert opened(api.prompt(graph)["images"][0]).width == 64


def test_a_folder_of_frames(api: Salad, places: Storages) -> None:
    """An array of pictures, each in a form of its own, becomes a folder in this order; upstream loses the order."""
    plain = [pyvips.Image.black(16, 8, bands=3) + shade for shade in (40, 120, 200)]
    shades = [bytes(one.cast("uchar").copy(interpretation="srgb").pngsave_buffer()) for one in plain]
    places.s3.client().put_object(Bucket=BUCKET, Key="in/frame.png", Body=shades[2])
    frames = [text(shades[0]), api.files.put("/frame.png", shades[1], "image/png"), f"s3://{BUCKET}/in/frame.png"]
    for order in ((0, 1, 2), (2, 0, 1)):
        done = api.prompt(loading([frames[n] for n in order], class_type="VHS_LoadImages", field="directory"))
        assert [round(opened(one).avg()) for one in done["images"]] == [(40, 120, 200)[n] for n in order]
    bad = loading([frames[0], api.files.url("/status/404")], class_type="VHS_LoadImages", field="directory")
    answer = api.prompt(bad, status=400)
    assert answer["error"].startswith("Failed to download images for node 10: ")
    assert answer["location"] == "prompt.10.inputs.directory"


def test_sound_and_film(api: Salad) -> None:
    """LoadAudio's and LoadVideo's fields; what came back is sent in again, as base64 and by a URL."""
    sound = api.prompt(workflows.audio())["images"][0]
    graph = {
        "1": {"class_type": "LoadAudio", "inputs": {"audio": sound}},
        "2": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": "again"}},
    }
    assert base64.b64decode(api.prompt(graph)["images"][0]).startswith(b"fLaC")
    film = base64.b64decode(api.prompt(workflows.mp4())["images"][0])
    url = api.files.put("/film.mp4", film, "video/mp4")
    graph = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": url}},
        "2": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["1", 0], "filename_prefix": "again", "format": "mp4", "codec": "h264"},
        },
    }
    assert base64.b64decode(api.prompt(graph)["images"][0])[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("class_type", "field", "kind"), [("LoadImage", "image", "image"), ("LoadAudio", "audio", "audio")]
)
def test_what_cannot_be_fetched(api: Salad, class_type: str, field: str, kind: str) -> None:
    """400, upstream's wording and its location."""
    graph = loading(api.files.url("/status/404"), class_type=class_type, field=field)
    answer = api.prompt(graph, status=400)
    assert answer["error"].startswith(f"Failed to download {kind} for node 10: ")
    assert answer["location"] == f"prompt.10.inputs.{field}"


@pytest.mark.parametrize(
    "value", ["/etc/hostname", "../../secret.png", "file:///etc/passwd", "http://169.254.169.254/x", "C:\\x.png"]
)
def test_what_may_not_be_read(api: Salad, value: str) -> None:
    """Files of this host and addresses inside are refused; upstream reads any of them."""
    assert api.prompt(loading(value), status=400)["location"].startswith("prompt")


def test_our_paths_are_not_shown(api: Salad) -> None:
    """``prompt`` is told as it was sent, with the prefixes; where files lie here is nobody's business."""
    url = api.files.url("/in.png")
    done = api.prompt(loading(url), id="shown")
    assert done["prompt"]["10"]["inputs"]["image"] == url
    assert str(api.process.workspace) not in json.dumps({**done, "images": []})


# -- 2.3, 2.5: credentials ----------------------------------------------------------------------------------------


def test_the_operators_header(api: Salad) -> None:
    """``HTTP_AUTH_HEADER_*`` goes with downloads from the hosts that are named."""
    api.files.put("/headed.png", noise(), "image/png")
    api.prompt(loading(api.files.url("/headed.png")))
    (seen, *_) = [seen for seen in api.files.seen if seen.path == "/headed.png"]
    assert seen.headers[HEADER[0]] == HEADER[1]


@pytest.mark.parametrize(
    ("auth", "header", "sent"),
    [
        ({"type": "bearer", "token": "t0k3n"}, "Authorization", "Bearer t0k3n"),
        ({"type": "basic", "username": "u", "password": "p"}, "Authorization", "Basic dTpw"),
        ({"type": "header", "header_name": "X-Own", "header_value": "v"}, "X-Own", "v"),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)
def test_a_requests_credentials(api: Salad, auth: dict[str, str], header: str, sent: str) -> None:
    """They go with media inputs too, and where the pattern fits alone; in place of the operator's header."""
    path = f"/with/{auth['type']}.png"
    api.files.put(path, noise(), "image/png")
    credentials = [
        {"url_pattern": "https://other.example/**", "auth": {"type": "bearer", "token": "wrong"}},
        {"url_pattern": f"{api.files.url('/with/')}*", "auth": auth},
    ]
    api.prompt(loading(api.files.url(path)), credentials=credentials)
    (seen,) = [seen for seen in api.files.seen if seen.path == path]
    assert seen.headers[header] == sent
    assert HEADER[0] not in seen.headers


# -- 2.4, 1.9, 1.11: models ---------------------------------------------------------------------------------------


@pytest.fixture
def models() -> Iterator[Path]:
    """ComfyUI's folder of models; what a test adds is taken away again."""
    root = Path(str(install_record()["root"])) / "models"
    folders = (root / "checkpoints", root / "loras")
    before = {path for folder in folders for path in folder.iterdir()}
    yield root
    for path in {path for folder in folders for path in folder.glob("*.safetensors*")} - before:
        path.unlink()


def test_a_checkpoint_by_url(api: Salad, models: Path) -> None:
    """Brought once, used by its name; a credential goes with it and is not told."""
    url = api.files.put("/models/sd.safetensors", (models / "checkpoints" / CHECKPOINT).read_bytes())
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": url}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "sd"}},
    }
    credentials = [{"url_pattern": f"{api.files.url('/models/')}**", "auth": {"type": "bearer", "token": "gated"}}]
    with ThreadPoolExecutor(2) as pool:
        given = [(graph | {"4": {**graph["4"]}}, f"sd-{number}") for number in range(2)]
        done = list(pool.map(lambda one: api.prompt(one[0], id=one[1], credentials=credentials), given))
    assert [opened(one["images"][0]).width for one in done] == [64, 64]
    assert "gated" not in json.dumps(done)
    (asked,) = [seen for seen in api.files.seen if seen.path == "/models/sd.safetensors" and seen.method == "GET"]
    assert asked.headers["Authorization"] == "Bearer gated"
    (brought,) = [path for path in models.glob("checkpoints/*.safetensors") if path.name != CHECKPOINT]
    assert brought.stat().st_size == (models / "checkpoints" / CHECKPOINT).stat().st_size


def test_a_model_that_is_not_there(api: Salad) -> None:
    """400: which node, and why."""
    graph = workflows.diffusion()
    graph["4"]["inputs"]["ckpt_name"] = api.files.url("/status/404")
    answer = api.prompt(graph, status=400)
    assert answer["error"].startswith("Failed to process model for node 4: ")
    assert answer["location"] == "prompt.4.inputs"


def test_models(api: Salad) -> None:
    """Every type that ComfyUI reports, empty ones too; upstream's fails on a stock layout."""
    listed = api.ask("GET", "/models").json()
    assert CHECKPOINT in listed["checkpoints"]
    assert {"loras", "vae", "text_encoders", "diffusion_models", "clip_vision"} <= set(listed)
    assert all(isinstance(name, str) for names in listed.values() for name in names)


def test_download_and_wait(api: Salad, models: Path) -> None:
    """200 with size and seconds; in ComfyUI's folder and in its list at once."""
    data = safetensors(100, seed=1)
    url = api.files.put("/dl/detail.safetensors", data)
    done = api.answer("/download", {"url": url, "model_type": "loras", "wait": True})
    assert list(done) == ["url", "model_type", "filename", "status", "size", "duration"]
    assert (done["filename"], done["status"], done["size"]) == ("detail.safetensors", "completed", len(data))
    assert done["duration"] >= 0
    assert (models / "loras" / "detail.safetensors").read_bytes() == data
    assert "detail.safetensors" in api.ask("GET", "/models").json()["loras"]


def test_download_at_once(api: Salad, models: Path) -> None:
    """202 `started`, without size and seconds; the file comes."""
    url = api.files.put("/dl/later.safetensors", safetensors(100, seed=2))
    done = api.answer("/download", {"url": url, "model_type": "loras", "filename": "n.safetensors"}, status=202)
    assert done == {"url": url, "model_type": "loras", "filename": "n.safetensors", "status": "started"}
    eventually((models / "loras" / "n.safetensors").is_file)


def test_download_with_credentials(api: Salad, models: Path, places: Storages) -> None:
    """S3 by keys of the request; a query parameter is set on the request, and not told."""
    data = safetensors(100, seed=3)
    places.s3.client().put_object(Bucket=BUCKET, Key="m/s3.safetensors", Body=data)
    keys = {"access_key_id": places.s3.access_key_id, "secret_access_key": places.s3.secret_access_key}
    auth = {"type": "s3", **keys, "endpoint": places.s3.endpoint_url, "region": "us-east-1"}
    body = {"url": f"s3://{BUCKET}/m/s3.safetensors", "model_type": "loras", "wait": True, "auth": auth}
    assert api.answer("/download", body)["size"] == len(data)
    url = api.files.put("/dl/query.safetensors", data)
    query = {"type": "query", "query_param": "token", "query_value": "hidden"}
    done = api.answer("/download", {"url": url, "model_type": "loras", "wait": True, "auth": query})
    assert "hidden" not in json.dumps(done) + api.process.log.read_text()


@pytest.mark.parametrize("name", ["../../custom_nodes/x.py", "a/b.safetensors", "..", "", ".hidden", "x\\y", "a\0b"])
def test_download_traversal(api: Salad, models: Path, name: str) -> None:
    """A name is a name: nothing outside the folder is written. Upstream writes anywhere."""
    url = api.files.put("/dl/t.safetensors", safetensors())
    body = {"url": url, "model_type": "loras", "filename": name, "wait": True}
    assert api.answer("/download", body, status=400)["location"] == "filename"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "custom_nodes"}, "model type"),
        ({"model_type": "nothing"}, "Unknown model type"),
        ({"url": "no url"}, "URL"),
        ({"url": "ftp://x/y.safetensors"}, "No storage provider found for URL"),
        ({"url": "http://169.254.169.254/y.safetensors"}, ""),
        ({"wait": "yes"}, "wait"),
    ],
)
def test_download_refusals(api: Salad, change: dict[str, Any], said: str) -> None:
    """400 with a text in ``error``."""
    url = api.files.put("/dl/r.safetensors", safetensors())
    answer = api.answer("/download", {"url": url, "model_type": "loras", "wait": True, **change}, status=400)
    assert said in answer["error"]


def test_download_of_what_is_not_there(api: Salad) -> None:
    """400 in upstream's words."""
    body = {"url": api.files.url("/status/404"), "model_type": "loras", "filename": "x.safetensors", "wait": True}
    assert api.answer("/download", body, status=400)["error"].startswith("Error downloading file: ")


def test_a_truncated_download(api: Salad, models: Path) -> None:
    """A connection that breaks is taken up again, and no half file lies under the name; upstream's server dies of it,
    and takes the half for the whole ever after."""
    data = safetensors(500_000, seed=4)
    body = {"url": api.files.put("/dl/cut.safetensors", data), "model_type": "loras", "wait": True}
    api.files.cuts = 2
    assert api.answer("/download", body)["size"] == len(data)
    assert api.files.cuts == 0
    assert (models / "loras" / "cut.safetensors").read_bytes() == data
    assert api.ask("GET", "/ready").status_code == 200


# -- 3.1, 3.2: names and kinds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "start", "suffix"),
    [
        (workflows.webm, b"\x1a\x45\xdf\xa3", ".webm"),
        (workflows.audio, b"fLaC", ".flac"),
        (workflows.animated_webp, b"RIFF", ".webp"),
        (workflows.animated_png, b"\x89PNG", ".png"),
        (workflows.latent, b"", ".latent"),
    ],
    ids=["webm", "audio", "animated webp", "animated png", "latent"],
)
def test_every_kind_of_output(api: Salad, graph: Any, start: bytes, suffix: str) -> None:
    """``images`` has every file; those in folders too, which upstream loses, by their names with the folder."""
    done = api.prompt(graph(), id="k")
    assert base64.b64decode(done["images"][0]).startswith(start)
    (name,) = done["filenames"]
    assert name.startswith("k_hw/") and name.endswith(suffix)


def test_previews_are_none(api: Salad) -> None:
    """Temporary files are left out; a graph without an output node is refused."""
    graph = fresh()
    graph["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    assert len(api.prompt(graph)["images"]) == 1


def test_two_outputs_in_order(api: Salad) -> None:
    """Pictures in the order of the graph's nodes, then of their lists; ``filenames`` alike."""
    graph = fresh(2)
    graph |= {f"9{key}": node for key, node in fresh(1, prefix="second", width=32).items()}
    graph["92"]["inputs"]["images"] = ["91", 0]
    done = api.prompt(graph, id="o")
    assert [opened(image).width for image in done["images"]] == [64, 64, 32]
    assert done["filenames"] == ["o_ComfyUI_00001_.png", "o_ComfyUI_00002_.png", "o_second_00001_.png"]


def test_texts_are_told_too(api: Salad) -> None:
    """Ours: ``text``."""
    done = api.prompt(
        {**fresh(), **{f"t{key}": node for key, node in workflows.text("hello").items()}}
        | {"t2": {"class_type": "PreviewAny", "inputs": {"source": ["t1", 0]}}}
    )
    assert [entry["text"] for entry in done["text"]] == ["hello"]


def test_the_worker_keeps_no_output(api: Salad, real_comfyui: RealComfyUI, places: Storages) -> None:
    """Two jobs of one id don't overwrite one another's files."""
    first, second = (api.prompt(fresh(), id="twice")["filenames"] for _ in range(2))
    assert first == second == ["twice_ComfyUI_00001_.png"]


# -- 3.3: convert_output ------------------------------------------------------------------------------------------


def converted(api: Salad, form: str, value: str | None = None, **options: Any) -> tuple[bytes, str]:
    """A noisy picture in a format: its bytes and its name."""
    output = {"format": form, **({"options": options} if options else {})}
    done = api.prompt(loading(value or text(noise())), convert_output=output)
    assert done["convert_output"]["format"] == form
    return base64.b64decode(done["images"][0]), done["filenames"][0]


@pytest.mark.parametrize(("form", "loader"), [("jpeg", "jpegload"), ("jpg", "jpegload"), ("webp", "webpload")])
def test_formats(api: Salad, form: str, loader: str) -> None:
    """The extension is exactly the format; the size of the picture stays."""
    data, name = converted(api, form)
    image = decoded(data)
    assert name.endswith(f"_.{form}")
    assert image.get("vips-loader").startswith(loader)
    assert (image.width, image.height) == (64, 48)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_quality(api: Salad, form: str) -> None:
    """10 is smaller than 90 and further from what was sent."""
    (low, _), (high, _) = (converted(api, form, quality=quality) for quality in (10, 90))
    assert len(low) < 0.6 * len(high)
    sent = decoded(noise())[:3]
    assert (decoded(low) - sent).abs().avg() > 1.5 * (decoded(high) - sent).abs().avg()


def test_jpeg_options(api: Salad) -> None:
    """Progressive, subsampling, mozjpeg's: what the file says of itself."""
    data, _ = converted(api, "jpeg", progressive=True, chromaSubsampling="4:4:4")
    assert b"\xff\xc2" in data
    assert frame(data) == (1, 1)
    plain, _ = converted(api, "jpeg")
    assert b"\xff\xc0" in plain
    assert frame(plain) == (2, 2)
    small, _ = converted(api, "jpeg", mozjpeg=True)
    assert len(small) < len(plain)


def frame(data: bytes) -> tuple[int, int]:
    """The sampling of the first component of a JPEG."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    sampling = data[at + 11]
    return sampling >> 4, sampling & 15


def test_webp_lossless(api: Salad) -> None:
    """Bit for bit; upstream drops the option and is lossy."""
    data, _ = converted(api, "webp", lossless=True)
    assert equal(decoded(data)[:3], decoded(noise())[:3])
    assert data[12:16] == b"VP8L"


def test_webp_effort_and_preset(api: Salad) -> None:
    """They reach the encoder."""
    sizes = {
        len(converted(api, "webp", effort=effort, preset=preset)[0]) for effort, preset in ((0, "default"), (6, "text"))
    }
    assert len(sizes) == 2


def test_an_option_that_can_not_count(api: Salad) -> None:
    """It is dropped, as every unknown key, but a warning names it."""
    output = {"format": "webp", "options": {"quality": 50, "progressive": True}}
    done = api.prompt(fresh(), convert_output=output)
    assert "progressive" not in done["convert_output"]["options"]
    assert done["warnings"] == ["convert_output.options.progressive has no effect: webp has no such option"]


def film() -> dict[str, Any]:
    """Two frames that differ."""
    return {**workflows.animated_webp(), **{key: workflows.animated_png()[key] for key in ("0", "9", "1")}}


def test_animations_stay(api: Salad) -> None:
    """WebP keeps its frames; JPEG has one, and a warning says so. Upstream keeps the first alone."""
    done = api.prompt(film(), convert_output={"format": "webp"})
    assert pyvips.Image.new_from_buffer(base64.b64decode(done["images"][0]), "", n=-1).get("n-pages") == 2
    done = api.prompt(film(), convert_output={"format": "jpeg"})
    assert opened(done["images"][0]).get("vips-loader") == "jpegload_buffer"
    assert any("frame" in warning for warning in done["warnings"]), done["warnings"]


def test_what_is_no_picture_stays(api: Salad) -> None:
    """Its own format, its own name."""
    done = api.prompt(workflows.audio(), convert_output={"format": "jpeg"})
    assert done["filenames"][0].endswith(".flac")
    assert base64.b64decode(done["images"][0]).startswith(b"fLaC")


# -- 3.4: storages ------------------------------------------------------------------------------------------------


def test_s3(api: Salad, places: Storages) -> None:
    """``s3://bucket/`` + prefix + name; the object is the picture, with its type; four of four."""
    done = api.prompt(fresh(4), id="s3", s3={"bucket": BUCKET, "prefix": "a b/ü#"})
    assert done["images"] == [f"s3://{BUCKET}/a b/ü#s3_ComfyUI_0000{n}_.png" for n in (1, 2, 3, 4)]
    for url in done["images"]:
        assert decoded(places.object(url)).width == 64
    head = places.s3.client().head_object(Bucket=BUCKET, Key="a b/ü#s3_ComfyUI_00001_.png")
    assert head["ContentType"] == "image/png"
    assert done["s3"] == {"bucket": BUCKET, "prefix": "a b/ü#", "async": False}
    assert done["stats"]["upload_time"] > 0


@pytest.mark.parametrize(("form", "mime"), [("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_s3_converted(api: Salad, places: Storages, form: str, mime: str) -> None:
    """What lies there is the converted picture (upstream's #121)."""
    done = api.prompt(fresh(), s3={"bucket": BUCKET, "prefix": "c/"}, convert_output={"format": form})
    (url,) = done["images"]
    key = url.removeprefix(f"s3://{BUCKET}/")
    assert url.endswith(f".{form}")
    assert places.s3.client().head_object(Bucket=BUCKET, Key=key)["ContentType"] == mime


def test_azure(api: Salad, places: Storages) -> None:
    """The blob's URL; a slash before the prefix goes, none is added."""
    block = {"container": CONTAINER, "blob_prefix": "/made/"}
    done = api.prompt(fresh(), id="az", azure_blob_upload=block)
    assert done["images"] == [f"{places.azure.endpoint}/{CONTAINER}/made/az_ComfyUI_00001_.png"]
    assert decoded(places.blobs("made/az")["made/az_ComfyUI_00001_.png"]).width == 64
    api.prompt(fresh(), status=202, id="later", azure_blob_upload={**block, "async": True})
    assert list(eventually(lambda: places.blobs("made/later"))) == ["made/later_ComfyUI_00001_.png"]


def test_hugging_face(api: Salad, places: Storages) -> None:
    """The file's URL in the repository; the default folder is its root; one commit a job."""
    hub = places.hub.server
    done = api.prompt(fresh(2), id="hf", hf_upload={"repo": "u/out", "repo_type": "dataset", "directory": "x y/z"})
    names = [f"hf_ComfyUI_0000{n}_.png" for n in (1, 2)]
    assert done["images"] == [f"{hub.endpoint}/datasets/u/out/resolve/main/x%20y/z/{name}" for name in names]
    assert sorted(hub.repo("u/out", kind="dataset")) == [f"x y/z/{name}" for name in names]
    assert hub.commits[-1] == [f"x y/z/{name}" for name in names]
    api.prompt(fresh(), status=202, id="hl", hf_upload={"repo": "u/out", "async": True})
    assert eventually(lambda: hub.repo("u/out").get("hl_ComfyUI_00001_.png")).startswith(b"\x89PNG")


def test_http(api: Salad) -> None:
    """PUT with its type and the operator's header; slashes at the end of the prefix go."""
    done = api.prompt(fresh(), id="ht", http_upload={"url_prefix": api.files.url("/out/dir//")})
    assert done["images"] == [api.files.url("/out/dir/ht_ComfyUI_00001_.png")]
    data, mime = api.files.files["/out/dir/ht_ComfyUI_00001_.png"]
    assert decoded(data).width == 64 and mime == "image/png"
    (seen,) = [seen for seen in api.files.seen if seen.path == "/out/dir/ht_ComfyUI_00001_.png"]
    assert (seen.method, seen.headers[HEADER[0]]) == ("PUT", HEADER[1])
    api.prompt(fresh(), status=202, id="hx", http_upload={"url_prefix": api.files.url("/out"), "async": True})
    eventually(lambda: "/out/hx_ComfyUI_00001_.png" in api.files.files)


def test_of_several_blocks_the_first_counts(api: Salad, places: Storages) -> None:
    """S3, Hugging Face, Azure, HTTP, in this order."""
    blocks: dict[str, Any] = {
        "http_upload": {"url_prefix": api.files.url("/none")},
        "azure_blob_upload": {"container": CONTAINER},
        "s3": {"bucket": BUCKET, "prefix": "first/"},
    }
    done = api.prompt(fresh(), **blocks)
    assert done["images"][0].startswith(f"s3://{BUCKET}/first/")
    assert not any(path.startswith("/none") for path in api.files.files)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("s3", {"bucket": "no-such-bucket", "prefix": ""}),
        ("azure_blob_upload", {"container": "no-such-container"}),
        ("hf_upload", {"repo": "u/nowhere"}),
    ],
)
def test_an_upload_that_fails(api: Salad, name: str, block: dict[str, Any]) -> None:
    """500 and a webhook that says so, never a URL of nothing; the storage's own reason."""
    answer = api.prompt(fresh(), status=500, **{name: block})
    assert "images" not in answer
    assert answer["message"]
    api.prompt(fresh(), status=202, webhook_v2=api.hook(f"up-{name}"), **{name: block})
    told = api.verified(f"up-{name}")
    assert (told["type"], told["error"]) == ("prompt.failed", answer["message"])


def test_an_http_upload_that_fails(api: Salad) -> None:
    """403 of the other side: 500, with it in the message."""
    api.files.refuses = 403
    try:
        answer = api.prompt(fresh(), status=500, http_upload={"url_prefix": api.files.url("/refused")})
    finally:
        api.files.refuses = 0
    assert "403" in answer["message"]
