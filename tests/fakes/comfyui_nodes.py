"""The node classes of the fake ComfyUI: what ``/object_info`` says of them, how inputs are validated, what they do.

A picture is a ``FakeImage``; files written are real and small, with the signatures of their formats.
"""

import asyncio
import contextlib
import json
import re
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

MODELS = ("v1-5-pruned-emaonly-fp16.safetensors",)
SAMPLERS = ["euler", "euler_cfg_pp", "euler_ancestral", "heun", "dpm_2", "lms", "ddim", "uni_pc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeImage:
    width: int
    height: int
    count: int = 1
    color: int = 0


class NodeError(Exception):
    """A node failed; ``kind`` is ComfyUI's ``exception_type``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Blocked(Exception):
    """A branch is switched off; an empty message is silent."""


class ExecutorDied(Exception):
    """What ends ComfyUI's only worker thread; with an argument, without a word in its log."""


class ProcessDied(Exception):
    """What ends ComfyUI."""


class InterruptedNode(Exception):
    """A tick saw the interrupt flag."""


@dataclass(slots=True, kw_only=True)
class Context:
    """What a running node may use."""

    output: Path
    input: Path
    temp: Path
    tick: Callable[[float, float], None]
    """Report progress; raises InterruptedNode."""
    picture: Callable[[bytes], None]
    preview: Callable[[], None]
    """Send a small picture of the work so far, where that is switched on."""
    api_key: str | None = None
    """Of partner nodes."""


Outcome = tuple[tuple[Any, ...], dict[str, Any] | None]
Run = Callable[[Context, dict[str, Any]], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One class. An input is ``[type or options, config]`` as in object_info."""

    run: Run
    required: Mapping[str, list[Any]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    output_node: bool = False
    always: bool = False
    """Never cached."""


def image_png(width: int, height: int, color: int = 0, *, frames: int = 1) -> bytes:
    """Make a real PNG of one colour; with several ``frames`` it starts as an animated one does."""
    row = b"\0" + bytes(((color >> 16) & 255, (color >> 8) & 255, color & 255)) * width

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    animation = chunk(b"acTL", struct.pack(">II", frames, 0)) if frames > 1 else b""
    body = chunk(b"IHDR", header) + animation + chunk(b"IDAT", zlib.compress(row * height, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _webp(image: FakeImage) -> bytes:
    bits = (image.width - 1) | (image.height - 1) << 14
    data = b"VP8L" + struct.pack("<I", 10) + b"\x2f" + struct.pack("<I", bits) + b"\0" * 5
    return b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data


_WEBM = (
    b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82\x84webm" + b"\0" * 64
)
_MP4 = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + b"\0" * 64
_FLAC = b"fLaC" + b"\0" * 64


def _reserve(
    root: Path, prefix: str, suffix: str, *, batch: int = 0, image: FakeImage | None = None
) -> tuple[Path, str]:
    """Find the next free name as SaveImage does: highest counter in the folder, plus one."""
    size = image or FakeImage(width=0, height=0)
    prefix = prefix.replace("%width%", str(size.width)).replace("%height%", str(size.height))
    folder = (root / Path(prefix).parent).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise NodeError(
            "Exception",
            f"**** ERROR: Saving image outside the output folder is not allowed.\n full_output_folder: {folder}\n",
        )
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(prefix).name
    taken = [int(m[1]) for path in folder.iterdir() if (m := re.fullmatch(re.escape(name) + r"_(\d+)_.*", path.name))]
    counter = max(taken, default=0) + 1
    subfolder = Path(prefix).parent.as_posix()
    filled = name.replace("%batch_num%", str(batch))
    return (
        folder / f"{filled}_{counter + batch if filled != name else counter:05}_{suffix}",
        "" if subfolder == "." else subfolder,
    )


def _save(root: Path, prefix: str, suffix: str, data: bytes, kind: str, **options: Any) -> dict[str, str]:
    path, subfolder = _reserve(root, prefix, suffix, **options)
    path.write_bytes(data)
    return {"filename": path.name, "subfolder": subfolder, "type": kind}


async def _empty_image(_: Context, inputs: dict[str, Any]) -> Outcome:
    image = FakeImage(
        width=inputs["width"], height=inputs["height"], count=inputs["batch_size"], color=inputs.get("color", 0)
    )
    return (image,), None


async def _save_image(context: Context, inputs: dict[str, Any]) -> Outcome:
    image = inputs["images"]
    if not isinstance(image, FakeImage):
        raise NodeError("AttributeError", f"'{type(image).__name__}' object has no attribute 'shape'")
    data = image_png(image.width, image.height, image.color)
    prefix = inputs["filename_prefix"]
    files = [_save(context.output, prefix, ".png", data, "output", batch=i, image=image) for i in range(image.count)]
    return (), {"images": files}


async def _preview_image(context: Context, inputs: dict[str, Any]) -> Outcome:
    image = inputs["images"]
    data = image_png(image.width, image.height, image.color)
    return (), {"images": [_save(context.temp, "ComfyUI_temp_fake", ".png", data, "temp") for _ in range(image.count)]}


def _saver(suffix: str, make: Callable[[Any], bytes], *, source: str = "images", key: str = "images") -> Run:
    async def run(context: Context, inputs: dict[str, Any]) -> Outcome:
        saved = _save(context.output, inputs["filename_prefix"], suffix, make(inputs[source]), "output")
        return (), {key: [saved]} | ({"animated": [True]} if key == "images" else {})

    return run


async def _load_image(context: Context, inputs: dict[str, Any]) -> Outcome:
    path = context.input / inputs["image"]
    if not path.is_file():
        raise NodeError("FileNotFoundError", f"[Errno 2] No such file or directory: '{path}'")
    header = path.read_bytes()[:24]
    if len(header) < 24:
        raise NodeError("OSError", "Truncated File Read")
    width, height = struct.unpack(">II", header[16:24])
    return (FakeImage(width=width, height=height), None), None


async def _scale(_: Context, inputs: dict[str, Any]) -> Outcome:
    source = inputs["image"]
    return (FakeImage(width=inputs["width"], height=inputs["height"], count=source.count, color=source.color),), None


async def _batch(_: Context, inputs: dict[str, Any]) -> Outcome:
    first, second = inputs["image1"], inputs["image2"]
    return (replace(first, count=first.count + second.count),), None


async def _pass_image(_: Context, inputs: dict[str, Any]) -> Outcome:
    return (inputs.get("image"),), None


async def _websocket(context: Context, inputs: dict[str, Any]) -> Outcome:
    image = inputs["images"]
    for step in range(image.count):
        context.picture(image_png(image.width, image.height, image.color))
        context.tick(step, image.count)
    return (), {}


async def _preview_3d(_: Context, inputs: dict[str, Any]) -> Outcome:
    return (), {"result": [inputs["model_file"], None, None]}


async def _text(_: Context, inputs: dict[str, Any]) -> Outcome:
    return (inputs["value"],), None


async def _preview_any(_: Context, inputs: dict[str, Any]) -> Outcome:
    return (), {"text": [str(inputs["source"])]}


async def _sleep(_: Context, inputs: dict[str, Any]) -> Outcome:
    await asyncio.sleep(inputs["seconds"])
    return (inputs["image"],), None


async def _ticks(context: Context, inputs: dict[str, Any]) -> Outcome:
    for step in range(1, inputs["ticks"] + 1):
        await asyncio.sleep(inputs["seconds"] / inputs["ticks"])
        context.tick(step, inputs["ticks"])
    return (inputs["image"],), None


async def _hold(context: Context, inputs: dict[str, Any]) -> Outcome:
    latest = asyncio.get_running_loop().time() + 300
    while not Path(inputs["until"]).exists():
        if asyncio.get_running_loop().time() > latest:
            raise NodeError("TimeoutError", "nobody let it go on")
        context.tick(1, 2)
        await asyncio.sleep(0.05)
    return (inputs["image"],), None


async def _stubborn(context: Context, inputs: dict[str, Any]) -> Outcome:
    until = asyncio.get_running_loop().time() + inputs["seconds"]
    while asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.01)
        with contextlib.suppress(InterruptedNode):
            context.tick(1, 5)
    return (inputs["image"],), None


async def _fail(context: Context, inputs: dict[str, Any]) -> Outcome:
    kind = inputs["kind"]
    if kind.endswith("_once"):
        mark = context.temp / kind
        if mark.exists():
            mark.unlink()
            return (inputs["image"],), None
        mark.touch()
        kind = kind.removesuffix("_once")
    if kind == "oom":
        raise NodeError("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 GiB (simulated)")
    if kind == "cuda":
        raise NodeError("RuntimeError", "CUDA error: an illegal memory access was encountered (simulated)")
    if kind == "value":
        raise NodeError("ValueError", "boom from test node, see /opt/secret/place/file.bin")
    if kind == "sysexit":
        raise ExecutorDied("silently")
    if kind == "executor":
        raise ExecutorDied
    if kind == "crash":
        raise ProcessDied
    return (inputs["image"],), None


async def _block(_: Context, inputs: dict[str, Any]) -> Outcome:
    raise Blocked(inputs["message"])


async def _report(_: Context, inputs: dict[str, Any]) -> Outcome:
    return (), json.loads(inputs["ui"])


async def _read(context: Context, inputs: dict[str, Any]) -> Outcome:
    return (), {"text": [str((context.input / inputs["where"]).stat().st_size)]}


async def _pay(context: Context, inputs: dict[str, Any]) -> Outcome:
    if inputs["fail"]:
        raise NodeError("ValueError", f"the key {context.api_key} is not welcome")
    return (), {"text": [f"paid with {context.api_key}"]}


async def _sample(context: Context, inputs: dict[str, Any]) -> Outcome:
    for step in range(1, inputs["steps"] + 1):
        await asyncio.sleep(0.005)
        context.tick(step, inputs["steps"])
        context.preview()
    return (inputs["latent_image"],), None


async def _checkpoint(_: Context, __: dict[str, Any]) -> Outcome:
    return ("model", "clip", "vae"), None


async def _opaque(_: Context, inputs: dict[str, Any]) -> Outcome:
    return (next(iter(inputs.values()), None),), None


async def _decode(_: Context, inputs: dict[str, Any]) -> Outcome:
    latent = inputs["samples"]
    return (FakeImage(width=latent.width, height=latent.height, count=latent.count),), None


def _int(low: int = 1, high: int = 16384) -> list[Any]:
    return ["INT", {"min": low, "max": high}]


_IMAGE: list[Any] = ["IMAGE"]
_FLOAT: list[Any] = ["FLOAT", {"min": 0.0, "max": 10000.0}]
_STRING: list[Any] = ["STRING", {}]
_PREFIX: list[Any] = ["STRING", {"default": "ComfyUI"}]
_SIZE = {"width": _int(), "height": _int(), "batch_size": _int(1, 4096)}


def _output(run: Run, **required: list[Any]) -> Node:
    return Node(run=run, required=required, output_node=True)


FAILURES = ["none", "value", "oom", "oom_once", "cuda", "cuda_once", "sysexit", "executor", "crash"]
NODES: dict[str, Node] = {
    "EmptyImage": Node(run=_empty_image, required=_SIZE | {"color": _int(0, 0xFFFFFF)}, outputs=("IMAGE",)),
    "SaveImage": _output(_save_image, images=_IMAGE, filename_prefix=_PREFIX),
    "PreviewImage": _output(_preview_image, images=_IMAGE),
    "LoadImage": Node(run=_load_image, required={"image": [[], {"image_upload": True}]}, outputs=("IMAGE", "MASK")),
    "ImageScale": Node(
        run=_scale,
        required={
            "image": _IMAGE,
            "upscale_method": [["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]],
            "width": _int(0),
            "height": _int(0),
            "crop": [["disabled", "center"]],
        },
        outputs=("IMAGE",),
    ),
    "ImageBatch": Node(run=_batch, required={"image1": _IMAGE, "image2": _IMAGE}, outputs=("IMAGE",)),
    "ImageInvert": Node(run=_pass_image, required={"image": _IMAGE}, outputs=("IMAGE",)),
    "ImageBlur": Node(
        run=_pass_image, required={"image": _IMAGE, "blur_radius": _int(1, 31), "sigma": _FLOAT}, outputs=("IMAGE",)
    ),
    "SaveAnimatedWEBP": _output(
        _saver(".webp", _webp),
        images=_IMAGE,
        filename_prefix=_PREFIX,
        fps=_FLOAT,
        lossless=["BOOLEAN"],
        quality=_int(0, 100),
        method=[["default", "fastest", "slowest"]],
    ),
    "SaveAnimatedPNG": _output(
        _saver(".png", lambda image: image_png(image.width, image.height, image.color, frames=image.count)),
        images=_IMAGE,
        filename_prefix=_PREFIX,
        fps=_FLOAT,
        compress_level=_int(0, 9),
    ),
    "SaveWEBM": _output(
        _saver(".webm", lambda _: _WEBM),
        images=_IMAGE,
        filename_prefix=_PREFIX,
        codec=["COMBO", {"options": ["vp9", "av1"]}],
        fps=_FLOAT,
        crf=_FLOAT,
    ),
    "CreateVideo": Node(run=_opaque, required={"images": _IMAGE, "fps": _FLOAT}, outputs=("VIDEO",)),
    "SaveVideo": _output(
        _saver(".mp4", lambda _: _MP4, source="video"),
        video=["VIDEO"],
        filename_prefix=_PREFIX,
        format=["COMBO", {"options": ["auto", "mp4"]}],
        codec=["COMBO", {"options": ["auto", "h264"]}],
    ),
    "EmptyAudio": Node(
        run=_opaque,
        required={"duration": _FLOAT, "sample_rate": _int(1, 192000), "channels": _int(1, 2)},
        outputs=("AUDIO",),
    ),
    "SaveAudio": _output(
        _saver(".flac", lambda _: _FLAC, source="audio", key="audio"), audio=["AUDIO"], filename_prefix=_PREFIX
    ),
    "SaveLatent": _output(
        _saver(".latent", lambda _: b"\x10" + bytes(7) + b'{"a":{}}' + bytes(64), source="samples", key="latents"),
        samples=["LATENT"],
        filename_prefix=_PREFIX,
    ),
    "PrimitiveStringMultiline": Node(run=_text, required={"value": _STRING}, outputs=("STRING",)),
    "PreviewAny": _output(_preview_any, source=["*"]),
    "Preview3D": _output(_preview_3d, model_file=_STRING),
    "SaveImageWebsocket": Node(run=_websocket, required={"images": _IMAGE}, output_node=True, always=True),
    "CheckpointLoaderSimple": Node(
        run=_checkpoint, required={"ckpt_name": [list(MODELS)]}, outputs=("MODEL", "CLIP", "VAE")
    ),
    "CLIPTextEncode": Node(run=_opaque, required={"text": _STRING, "clip": ["CLIP"]}, outputs=("CONDITIONING",)),
    "EmptyLatentImage": Node(run=_empty_image, required=_SIZE, outputs=("LATENT",)),
    "KSampler": Node(
        run=_sample,
        required={
            "seed": _int(0, 2**64 - 1),
            "steps": _int(1, 10000),
            "cfg": _FLOAT,
            "sampler_name": [SAMPLERS],
            "scheduler": [["normal", "karras", "simple"]],
            "denoise": _FLOAT,
            "model": ["MODEL"],
            "positive": ["CONDITIONING"],
            "negative": ["CONDITIONING"],
            "latent_image": ["LATENT"],
        },
        outputs=("LATENT",),
    ),
    "VAEDecode": Node(run=_decode, required={"samples": ["LATENT"], "vae": ["VAE"]}, outputs=("IMAGE",)),
    "HWSleep": Node(run=_sleep, required={"image": _IMAGE, "seconds": _FLOAT}, outputs=("IMAGE",)),
    "HWTicks": Node(run=_ticks, required={"image": _IMAGE, "seconds": _FLOAT, "ticks": _int()}, outputs=("IMAGE",)),
    "HWHold": Node(run=_hold, required={"image": _IMAGE, "until": _STRING}, outputs=("IMAGE",)),
    "HWStubborn": Node(run=_stubborn, required={"image": _IMAGE, "seconds": _FLOAT}, outputs=("IMAGE",)),
    "HWFail": Node(
        run=_fail,
        required={"image": _IMAGE, "kind": [FAILURES]},
        outputs=("IMAGE",),
    ),
    "HWBlock": Node(run=_block, required={"image": _IMAGE, "message": _STRING}, outputs=("IMAGE",)),
    "HWReport": _output(_report, image=_IMAGE, ui=_STRING),
    "HWRead": _output(_read, where=_STRING),
    "HWPay": _output(_pay, image=_IMAGE, fail=["BOOLEAN"]),
}


def object_info(class_type: str) -> dict[str, Any]:
    """Describe a class as ComfyUI does."""
    node = NODES[class_type]
    return {
        "input": {"required": dict(node.required)},
        "input_order": {"required": list(node.required)},
        "output": list(node.outputs),
        "output_is_list": [False] * len(node.outputs),
        "output_name": list(node.outputs),
        "name": class_type,
        "display_name": class_type,
        "description": "",
        "python_module": "nodes",
        "category": "fake",
        "output_node": node.output_node,
    }


def is_link(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


def validate(graph: dict[str, Any], input_folder: Path) -> tuple[dict[str, Any] | None, list[str], dict[str, Any]]:
    """Check a prompt as ComfyUI 0.3.75 does. Returns ``(error, good output ids, node_errors)``; coerces constants."""
    for node_id, node in graph.items():
        if "class_type" not in node:
            return (
                _error("invalid_prompt", "Cannot execute because a node is missing the class_type property.", node_id),
                [],
                {},
            )
        if node["class_type"] not in NODES:
            return (
                _error("invalid_prompt", f"Cannot execute because node {node['class_type']} does not exist.", node_id),
                [],
                {},
            )
    outputs = [node_id for node_id, node in graph.items() if NODES[node["class_type"]].output_node]
    if not outputs:
        return _error("prompt_no_outputs", "Prompt has no outputs"), [], {}
    checked: dict[str, list[dict[str, Any]]] = {}
    for node_id in outputs:
        _validate_node(graph, node_id, input_folder, checked)
    good = [node_id for node_id in outputs if not _tainted(graph, node_id, checked)]
    bad = [node_id for node_id in outputs if node_id not in good]
    node_errors = {
        node_id: {"errors": errors, "dependent_outputs": bad, "class_type": graph[node_id]["class_type"]}
        for node_id, errors in checked.items()
        if errors
    }
    if good:
        return None, good, node_errors
    return _error("prompt_outputs_failed_validation", "Prompt outputs failed validation"), [], node_errors


def _tainted(graph: dict[str, Any], node_id: str, checked: dict[str, list[dict[str, Any]]]) -> bool:
    sources = [value[0] for value in graph[node_id]["inputs"].values() if is_link(value) and value[0] in graph]
    return bool(checked.get(node_id)) or any(_tainted(graph, source, checked) for source in sources)


def _error(kind: str, message: str, node_id: str | None = None) -> dict[str, Any]:
    details = f"Node ID '#{node_id}'" if node_id is not None else ""
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def _validate_node(graph: dict[str, Any], node_id: str, folder: Path, checked: dict[str, list[dict[str, Any]]]) -> None:
    if node_id in checked:
        return
    errors = checked[node_id] = []
    node = graph[node_id]
    for name, declared in NODES[node["class_type"]].required.items():
        if name not in node["inputs"]:
            errors.append(_problem("required_input_missing", "Required input is missing", name, input_name=name))
        elif is_link(node["inputs"][name]):
            _validate_link(graph, node_id, name, declared, folder, checked)
        else:
            errors.extend(_validate_value(node["inputs"], name, declared, folder))


def _validate_link(
    graph: dict[str, Any], node_id: str, name: str, declared: list[Any], folder: Path, checked: dict[str, Any]
) -> None:
    source, slot = graph[node_id]["inputs"][name]
    if source not in graph:
        text = "Exception when validating node"
        checked[node_id].append(_problem("exception_during_validation", text, f"'{source}'", traceback=["/opt/x.py"]))
        return
    given = NODES[graph[source]["class_type"]].outputs[slot]
    if declared[0] not in ("*", given):
        details = f"{name}, received_type({given}) mismatch input_type({declared[0]})"
        text = "Return type mismatch between linked nodes"
        checked[node_id].append(_problem("return_type_mismatch", text, details, input_name=name, received_type=given))
        return
    _validate_node(graph, source, folder, checked)


def _validate_value(inputs: dict[str, Any], name: str, declared: list[Any], folder: Path) -> list[dict[str, Any]]:
    kind, value = declared[0], inputs[name]
    config = declared[1] if len(declared) > 1 else {}
    facts = {"input_name": name, "input_config": declared, "received_value": value}
    if config.get("image_upload"):
        details = f"{name} - Invalid image file: {value}"
        missing = not (folder / value).is_file()
        return [
            _problem("custom_validation_failed", "Custom validation failed for node", details, input_name=name)
        ] * missing
    if isinstance(kind, list) and value not in kind:
        return [_problem("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {kind}", **facts)]
    convert = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}.get(str(kind))
    if convert is None:
        return []
    try:
        inputs[name] = value = convert(value)
    except (TypeError, ValueError) as error:
        text = f"Failed to convert an input value to a {kind} value"
        return [_problem("invalid_input_type", text, f"{name}, {value}, {error}", **facts)]
    if "max" in config and value > config["max"]:
        return [_problem("value_bigger_than_max", f"Value {value} bigger than max of {config['max']}", name, **facts)]
    if "min" in config and value < config["min"]:
        return [_problem("value_smaller_than_min", f"Value {value} smaller than min of {config['min']}", name, **facts)]
    return []


def _problem(kind: str, message: str, details: str, **extra: Any) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}
