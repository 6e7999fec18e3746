"""Every kind of output of a real ComfyUI through ``/generate/sync``, under the names that the caller's graph gives."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.http_hosts import WebHost, png
from tests.integration.doors import foreign_host
from tests.integration.harness import WorkerProcess, picture

pytestmark = pytest.mark.comfyui
TOKEN = "__RANDOM_INT__"
WEBP, PNG, JPEG, EBML, FLAC = b"RIFF", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1a\x45\xdf\xa3", b"fLaC"


@pytest.fixture(scope="module")
def host() -> Iterator[WebHost]:
    """A host that the worker may fetch from; serves one grey picture."""
    with foreign_host() as host:
        host.files["/ref.png"] = (png(32, 16, shade=100), "image/png")
        yield host


def image(color: int = 255, *, count: int = 1, size: int = 64) -> dict[str, Any]:
    inputs = {"width": size, "height": size, "batch_size": count, "color": color}
    return {"class_type": "EmptyImage", "inputs": inputs}


def saver(kind: str, source: dict[str, Any], prefix: str, link: str = "images", **inputs: Any) -> dict[str, Any]:
    """Two nodes: a source, and a node that saves it."""
    return {"1": source, "2": {"class_type": kind, "inputs": {link: ["1", 0], "filename_prefix": prefix, **inputs}}}


def run(worker: WorkerProcess, graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
    reply = worker.generate({"workflow_json": graph, **fields})
    assert reply.status_code == 200, reply.text
    result = dict(reply.json())
    assert result["status"] == "completed"
    assert "warnings" not in result, result["warnings"]
    return result


def history(result: dict[str, Any]) -> dict[str, Any]:
    """The echoed history entry."""
    response = dict(result["comfyui_response"])
    details = response.pop("execution_details")
    ((prompt_id, entry),) = response.items()
    assert details["prompt_id"] == prompt_id == entry["prompt"][1]
    return dict(entry)


FRAMES = image(123456, count=4)
VIDEO = image(1193046, count=8)
WORKFLOWS: dict[str, tuple[dict[str, Any], list[tuple[str, str, str, str]], str, bytes]] = {
    "W1 picture": (picture(255, prefix="hw/w1"), [("w1_00001_.png", "hw", "2", "images")], "image/png", PNG),
    "W3 batch": (
        saver("SaveImage", image(65280, count=3), "hw/w3_%batch_num%"),
        [(f"w3_{n}_{n + 1:05}_.png", "hw", "2", "images") for n in range(3)],
        "image/png",
        PNG,
    ),
    "W4 several nodes": (
        {
            "1": image(16711680),
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hw/w4a"}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hw/w4b"}},
        },
        [("w4a_00001_.png", "hw", "2", "images"), ("w4b_00001_.png", "hw", "4", "images")],
        "image/png",
        PNG,
    ),
    "W5 animated WebP": (
        saver("SaveAnimatedWEBP", FRAMES, "hw/w5", fps=6.0, lossless=True, quality=80, method="fastest"),
        [("w5_00001_.webp", "hw", "2", "images")],
        "image/webp",
        WEBP,
    ),
    "W6 animated PNG": (
        saver("SaveAnimatedPNG", FRAMES, "hw/w6", fps=6.0, compress_level=0),
        [("w6_00001_.png", "hw", "2", "images")],
        "image/png",
        PNG,
    ),
    "W7 WebM": (
        saver("SaveWEBM", VIDEO, "hw/w7", codec="vp9", fps=8.0, crf=40.0),
        [("w7_00001_.webm", "hw", "2", "images")],
        "video/webm",
        EBML,
    ),
    "W8 MP4": (
        {
            "1": VIDEO,
            "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
            "3": {
                "class_type": "SaveVideo",
                "inputs": {"video": ["2", 0], "filename_prefix": "hw/w8", "format": "mp4", "codec": "h264"},
            },
        },
        [("w8_00001_.mp4", "hw", "3", "images")],
        "video/mp4",
        b"",
    ),
    "W9 audio": (
        saver(
            "SaveAudio",
            {"class_type": "EmptyAudio", "inputs": {"duration": 0.25, "sample_rate": 8000, "channels": 1}},
            "hw/w9",
            "audio",
        ),
        [("w9_00001_.flac", "hw", "2", "audio")],
        "audio/flac",
        FLAC,
    ),
    "prefix of one word": (picture(3, prefix="plain"), [("plain_00001_.png", "", "2", "images")], "image/png", PNG),
    "size in the prefix": (
        picture(4, prefix="a/b/%width%x%height%"),
        [("64x64_00001_.png", "a/b", "2", "images")],
        "image/png",
        PNG,
    ),
}


@pytest.mark.parametrize("case", WORKFLOWS)
def test_files_of_every_kind(fleet_worker: WorkerProcess, case: str) -> None:
    """Name, subfolder, node and key as ComfyUI's own; type and bytes right; uploaded, on disk and inlined alike."""
    graph, expected, mime_type, magic = WORKFLOWS[case]
    result = run(fleet_worker, graph, return_outputs_as_base64=True)
    found = [(e["filename"], e["subfolder"], e["node_id"], e["output_type"]) for e in result["output"]]
    assert found == expected
    for entry in result["output"]:
        assert entry["type"] == "output"
        assert entry["mimetype"] == mime_type
        data = base64.b64decode(entry["data"])
        assert data.startswith(magic)
        assert Path(entry["local_path"]).read_bytes() == data
        assert entry["url"].startswith("http")


@pytest.mark.parametrize("case", WORKFLOWS)
def test_the_echo_is_the_callers_own_graph(fleet_worker: WorkerProcess, case: str) -> None:
    """``comfyui_response`` as if the caller had posted it: no prefix, no folder, no nonce of ours anywhere."""
    graph, expected, _, _ = WORKFLOWS[case]
    result = run(fleet_worker, graph, request_id="echo-echo")
    entry = history(result)
    assert entry["prompt"][2] == graph
    assert entry["status"]["status_str"] == "success"
    reported = [
        (item["filename"], item["subfolder"], item["type"])
        for node in entry["outputs"].values()
        for key in ("images", "audio")
        for item in node.get(key, [])
        if item["type"] == "output"
    ]
    assert sorted(reported) == sorted((name, folder, "output") for name, folder, _, _ in expected)
    text = json.dumps(result["comfyui_response"])
    assert "echo-echo" not in text
    assert "nonce" not in text


def test_temporary_files_come_only_when_asked_for(fleet_worker: WorkerProcess) -> None:
    """A preview is left out, and is there with ``include_temp_outputs``, by its own name and type."""
    graph = WORKFLOWS["W4 several nodes"][0]
    assert [entry["node_id"] for entry in run(fleet_worker, graph)["output"]] == ["2", "4"]
    entries = run(fleet_worker, graph, include_temp_outputs=True, return_outputs_as_base64=True)["output"]
    assert [(entry["node_id"], entry["type"]) for entry in entries] == [("2", "output"), ("3", "temp"), ("4", "output")]
    assert entries[1]["filename"].startswith("ComfyUI_temp_")
    assert base64.b64decode(entries[1]["data"]).startswith(PNG)


def test_text_is_an_output_too(fleet_worker: WorkerProcess) -> None:
    """No file, so not in ``output``; ``text_output`` has it with its node."""
    graph = {
        "1": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "hello\nw\u00f6rld"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    result = run(fleet_worker, graph)
    assert result["output"] == []
    assert result["text_output"] == [{"node_id": "2", "output_type": "text", "text": "hello\nw\u00f6rld"}]
    assert history(result)["outputs"] == {"2": {"text": ["hello\nw\u00f6rld"]}}


def test_pictures_sent_over_the_socket_are_kept(fleet_worker: WorkerProcess) -> None:
    """ComfyUI's history knows nothing of them: each frame becomes a file, in order, under its node."""
    graph = {"1": image(77, count=5), "ws": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    entries = run(fleet_worker, graph, return_outputs_as_base64=True)["output"]
    assert [entry["node_id"] for entry in entries] == ["ws"] * 5
    assert len({entry["filename"] for entry in entries}) == 5
    assert [entry["filename"] for entry in entries] == sorted(entry["filename"] for entry in entries)
    assert all(base64.b64decode(entry["data"]).startswith(PNG) for entry in entries)


def test_the_same_graph_again_makes_files_of_its_own(fleet_worker: WorkerProcess) -> None:
    """Cached as it is inside ComfyUI: a second caller gets the same names and never the first one's files."""
    first, second = (run(fleet_worker, picture(88, prefix="hw/same"))["output"][0] for _ in range(2))
    assert first["filename"] == second["filename"] == "same_00001_.png"
    assert first["local_path"] != second["local_path"]
    assert first["url"].split("?")[0] != second["url"].split("?")[0]


# -- placeholders -------------------------------------------------------------------------------------------------


def test_random_numbers_in_the_echo(fleet_worker: WorkerProcess) -> None:
    """Whole = an integer, inside a text = digits, one draw a string, keys and look-alikes untouched, new each time."""
    graph = picture(1, prefix=f"r/{TOKEN}-{TOKEN}")
    graph["2"]["_meta"] = {"title": f"seed {TOKEN}", "list": [TOKEN, TOKEN, "_RANDOM_INT_", "__random_int__"]}
    graph["2"]["inputs"] |= {"unused": TOKEN, TOKEN: "key", "nested": {"deep": [{"er": TOKEN}]}}
    draws = []
    for _ in range(2):
        result = run(fleet_worker, graph)
        node = history(result)["prompt"][2]["2"]
        numbers = [node["inputs"]["unused"], *node["_meta"]["list"][:2], node["inputs"]["nested"]["deep"][0]["er"]]
        assert all(type(number) is int and 0 <= number < 2**32 for number in numbers)
        twice = re.fullmatch(r"r/(\d+)-(\d+)", node["inputs"]["filename_prefix"])
        assert twice is not None
        assert twice[1] == twice[2]
        assert re.fullmatch(r"seed \d+", node["_meta"]["title"])
        assert node["_meta"]["list"][2:] == ["_RANDOM_INT_", "__random_int__"]
        assert node["inputs"][TOKEN] == "key"
        assert result["output"][0]["filename"] == f"{twice[1]}-{twice[1]}_00001_.png"
        draws += [*numbers, int(twice[1])]
    assert len(set(draws)) == len(draws)


# -- modifiers and inputs -------------------------------------------------------------------------------------------


def echoed(worker: WorkerProcess, modifier: str, **modifications: Any) -> dict[str, Any]:
    fields = {"modifier": modifier, "modifications": modifications, "return_outputs_as_base64": True}
    reply = worker.generate(fields)
    assert reply.status_code == 200, reply.text
    result = reply.json()
    (entry,) = result["output"]
    assert (entry["filename"], entry["node_id"]) == ("image_00001_.png", "9")
    data = base64.b64decode(entry["data"])
    graph = history(result)["prompt"][2]
    return {"graph": graph, "size": (int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))}


def test_text_to_image(fleet_worker: WorkerProcess) -> None:
    """The wrapper's ``Text2Image``: each documented modification lands in its node, the picture has the size."""
    asked = {"prompt": "a cat", "negative_prompt": "dogs", "width": 128, "height": 64, "steps": 1, "seed": TOKEN}
    answer = echoed(fleet_worker, "Text2Image", **asked, sampler_name="euler", scheduler="normal", cfg_scale=3)
    graph = answer["graph"]
    assert answer["size"] == (128, 64)
    assert type(graph["3"]["inputs"]["seed"]) is int
    assert (graph["3"]["inputs"]["steps"], graph["3"]["inputs"]["cfg"]) == (1, 8)
    assert (graph["6"]["inputs"]["text"], graph["7"]["inputs"]["text"]) == ("a cat", "dogs")
    assert graph["4"]["inputs"]["ckpt_name"] == "v1-5-pruned-emaonly-fp16.safetensors"


@pytest.mark.parametrize("form", ["url", "data"])
def test_image_to_image(fleet_worker: WorkerProcess, host: WebHost, form: str) -> None:
    """The wrapper's ``Image2Image`` with a picture from elsewhere; its size comes from that picture."""
    content = png(64, 128)
    host.files["/source.png"] = (content, "image/png")
    url = host.url("/source.png") if form == "url" else "data:image/png;base64," + base64.b64encode(content).decode()
    answer = echoed(fleet_worker, "Image2Image", input_image=url, prompt="a dog", steps=1, denoise=0.5, seed=1)
    assert answer["size"] == (64, 128)
    assert answer["graph"]["3"]["inputs"]["denoise"] == 0.5
    assert answer["graph"]["10"]["inputs"]["image"].endswith(".png")


@pytest.mark.parametrize("form", ["url", "data", "base64"])
def test_w2_a_picture_of_the_callers(fleet_worker: WorkerProcess, host: WebHost, form: str) -> None:
    """Fetched or decoded, placed where LoadImage finds it, scaled and inverted: the result is computed from it."""
    encoded = base64.b64encode(host.files["/ref.png"][0]).decode()
    forms = {"url": host.url("/ref.png?a=1&b=%20"), "data": f"data:image/png;base64,{encoded}", "base64": encoded}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": forms[form]}},
        "2": {
            "class_type": "ImageScale",
            "inputs": {
                "image": ["1", 0],
                "upscale_method": "nearest-exact",
                "width": 96,
                "height": 48,
                "crop": "disabled",
            },
        },
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "hw/w2"}},
    }
    result = run(fleet_worker, graph, return_outputs_as_base64=True)
    (entry,) = result["output"]
    data = base64.b64decode(entry["data"])
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (96, 48)
    assert entry["filename"] == "w2_00001_.png"
    assert encoded not in json.dumps(result["comfyui_response"])
