"""Small workflows that run without model files on any ComfyUI, fake or real, unless they say otherwise."""

import itertools
from pathlib import Path
from typing import Any

Graph = dict[str, Any]

_colors = itertools.count(1)


def empty(*, width: int = 64, height: int = 64, count: int = 1, color: int | None = None) -> dict[str, Any]:
    """An EmptyImage node; a new colour each time, so that no cache answers for it."""
    chosen = next(_colors) * 7919 % 0xFFFFFF if color is None else color
    return node("EmptyImage", width=width, height=height, batch_size=count, color=chosen)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def picture(prefix: str = "hw/w1", **options: Any) -> Graph:
    """One PNG (W1)."""
    return {"1": empty(**options), "2": node("SaveImage", images=["1", 0], filename_prefix=prefix)}


def through(class_type: str, *, prefix: str = "hw/x", **inputs: Any) -> Graph:
    """One PNG whose picture passes a node of this class."""
    return {
        "1": empty(),
        "2": node(class_type, image=["1", 0], **inputs),
        "3": node("SaveImage", images=["2", 0], filename_prefix=prefix),
    }


def held(gate: Path) -> Graph:
    """One PNG that is worked on until this file is there."""
    return through("HWHold", until=str(gate))


def reporting(ui: str) -> Graph:
    """An output node that reports this ``ui`` (JSON)."""
    return {"1": empty(), "2": node("HWReport", image=["1", 0], ui=ui)}


def animated_webp() -> Graph:
    inputs = {"filename_prefix": "hw/w5", "fps": 6.0, "lossless": True, "quality": 80, "method": "fastest"}
    return {"1": empty(count=4), "2": node("SaveAnimatedWEBP", images=["1", 0], **inputs)}


def animated_png() -> Graph:
    inputs = {"filename_prefix": "hw/w6", "fps": 6.0, "compress_level": 0}
    frames = {"0": empty(), "9": empty(), "1": node("ImageBatch", image1=["0", 0], image2=["9", 0])}
    return {**frames, "2": node("SaveAnimatedPNG", images=["1", 0], **inputs)}


def webm() -> Graph:
    inputs = {"filename_prefix": "hw/w7", "codec": "vp9", "fps": 8.0, "crf": 40.0}
    return {"1": empty(count=8), "2": node("SaveWEBM", images=["1", 0], **inputs)}


def mp4() -> Graph:
    return {
        "1": empty(count=8),
        "2": node("CreateVideo", images=["1", 0], fps=8.0),
        "3": node("SaveVideo", video=["2", 0], filename_prefix="hw/w8", format="mp4", codec="h264"),
    }


def audio() -> Graph:
    return {
        "1": node("EmptyAudio", duration=0.25, sample_rate=8000, channels=1),
        "2": node("SaveAudio", audio=["1", 0], filename_prefix="hw/w9"),
    }


def text(value: str = "hello") -> Graph:
    return {"1": node("PrimitiveStringMultiline", value=value), "2": node("PreviewAny", source=["1", 0])}


def latent() -> Graph:
    return {
        "1": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "2": node("SaveLatent", samples=["1", 0], filename_prefix="hw/latent"),
    }


def preview_3d(path: str) -> Graph:
    return {"1": node("Preview3D", model_file=path)}


def diffusion(*, steps: int = 4, seed: int = 42) -> Graph:
    """Stable Diffusion 1.5 (W18); needs the checkpoint."""
    sampler = {"seed": seed, "steps": steps, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    inputs = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "3": node("KSampler", **sampler, **inputs),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly-fp16.safetensors"),
        "5": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "6": node("CLIPTextEncode", text="a bottle", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="hw/w18", images=["8", 0]),
    }


def over_the_socket(count: int = 3) -> Graph:
    return {"1": empty(count=count), "ws": node("SaveImageWebsocket", images=["1", 0])}


def invalid() -> Graph:
    """Two nodes with errors (W16)."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors"),
        "2": node("EmptyLatentImage", width=64, height=64, batch_size=100000),
        "3": node("VAEDecode", samples=["2", 0], vae=["1", 2]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="hw/w16"),
    }


def partly_failing(kind: str = "value") -> Graph:
    """Two outputs, and a node that fails before a third: output nodes that are ready go first."""
    return {
        "1": empty(),
        "2": node("SaveImage", images=["1", 0], filename_prefix="hw/a"),
        "3": node("SaveImage", images=["1", 0], filename_prefix="hw/b"),
        "4": node("HWFail", image=["1", 0], kind=kind),
        "5": node("SaveImage", images=["4", 0], filename_prefix="hw/c"),
    }


def partly_valid() -> Graph:
    """One output validates, the other does not (W17)."""
    return {**picture("hw/w17"), "3": node("SaveImage", images=["1", 0])}
