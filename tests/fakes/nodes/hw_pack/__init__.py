"""Nodes for tests: sleep, tick, count, fail, crash, block, and report whatever ``ui`` a pack in the wild might.

Loaded into a real ComfyUI through ``--extra-model-paths-config``; imports nothing of ComfyUI, looks it up at run time.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def _tick(total):
    bar = sys.modules["comfy.utils"].ProgressBar(total)
    for step in range(1, total + 1):
        yield step
        bar.update_absolute(step, total)


class HWSleep:
    """Passes the picture on after a while; deaf to interrupts until then."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    def run(self, image, seconds):
        time.sleep(seconds)
        return (image,)


class HWTicks:
    """Works for a while with progress; every tick is a point of interruption."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0}),
                "ticks": ("INT", {"default": 10, "min": 1, "max": 10000}),
            }
        }

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    def run(self, image, seconds, ticks):
        for _ in _tick(ticks):
            time.sleep(seconds / ticks)
        return (image,)


class HWHold:
    """Works until a file is there, for five minutes at most; every tick is a point of interruption."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "until": ("STRING", {"default": ""})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    def run(self, image, until):
        bar = sys.modules["comfy.utils"].ProgressBar(2)
        latest = time.monotonic() + 300
        while not Path(until).exists():
            if time.monotonic() > latest:
                raise TimeoutError("nobody let it go on")
            bar.update_absolute(1, 2)
            time.sleep(0.05)
        return (image,)


class HWTally:
    """Writes a line into ``tally.log`` of the user folder at each execution; no cache answers for it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "text": ("STRING", {"default": ""})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    @classmethod
    def IS_CHANGED(cls, **inputs):
        return float("nan")

    def run(self, image, text):
        folder = Path(sys.modules["folder_paths"].get_user_directory())
        with (folder / "tally.log").open("a") as tally:
            tally.write(text + "\n")
        return (image,)


class HWStubborn:
    """Ticks, and swallows every interrupt: only the end of the process stops it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "seconds": ("FLOAT", {"default": 30.0, "min": 0.0, "max": 600.0})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    def run(self, image, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                for _ in _tick(5):
                    time.sleep(0.01)
            except BaseException:
                pass
        return (image,)


class HWFail:
    """Fails in the way that is asked for; ``_once``: every other time, over restarts too."""

    KINDS = ("none", "value", "oom", "oom_once", "cuda", "cuda_once", "sysexit", "executor", "crash")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "kind": (list(cls.KINDS),)}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    @staticmethod
    def _failed_before(kind):
        mark = Path(sys.modules["folder_paths"].get_user_directory(), kind)
        if mark.exists():
            mark.unlink()
            return True
        mark.touch()
        return False

    def run(self, image, kind):
        if kind == "none" or (kind.endswith("_once") and self._failed_before(kind)):
            return (image,)
        kind = kind.removesuffix("_once")
        if kind == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB (simulated)")
        if kind == "cuda":
            raise RuntimeError("CUDA error: an illegal memory access was encountered (simulated)")
        if kind == "sysexit":
            raise SystemExit(3)
        if kind == "executor":
            raise KeyboardInterrupt
        if kind == "crash":
            os._exit(134)
        raise ValueError("boom from test node, see /opt/secret/place/file.bin")


class HWBlock:
    """Switches off what follows, with a message or silently."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "message": ("STRING", {"default": ""})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    def run(self, image, message):
        return (sys.modules["comfy_execution.graph_utils"].ExecutionBlocker(message or None),)


class HWReport:
    """An output node without a prefix that reports the ``ui`` it is given as JSON."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "ui": ("STRING", {"default": "{}", "multiline": True})}}

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "test", True

    def run(self, image, ui):
        return {"ui": json.loads(ui)}


class HWRead:
    """Tells the size of a file of the input folder; its name is a text like any other."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"where": ("STRING", {"default": ""})}}

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "test", True

    def run(self, where):
        path = Path(sys.modules["folder_paths"].get_input_directory(), where)
        return {"ui": {"text": [str(path.stat().st_size)]}}


class HWPay:
    """A partner node that tells the key it was given, or repeats it when it fails."""

    @classmethod
    def INPUT_TYPES(cls):
        required = {"image": ("IMAGE",), "fail": ("BOOLEAN", {"default": False})}
        return {"required": required, "hidden": {"key": "API_KEY_COMFY_ORG"}}

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "test", True

    def run(self, image, fail, key=None):
        if fail:
            raise ValueError(f"the key {key} is not welcome")
        return {"ui": {"text": [f"paid with {key}"]}}


class VHS_LoadImages:
    """Reads a folder of the input folder as frames, in the order of their names, as the pack of this name does."""

    @classmethod
    def INPUT_TYPES(cls):
        root = Path(sys.modules["folder_paths"].get_input_directory())
        return {"required": {"directory": (sorted(path.name for path in root.iterdir() if path.is_dir()),)}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "test"

    @classmethod
    def VALIDATE_INPUTS(cls, directory):
        root = Path(sys.modules["folder_paths"].get_input_directory())
        return True if (root / directory).is_dir() else f"Directory '{directory}' cannot be found."

    def run(self, directory):
        root = Path(sys.modules["folder_paths"].get_input_directory(), directory)
        frames = [Image.open(path).convert("RGB") for path in sorted(root.iterdir())]
        return (torch.stack([torch.from_numpy(np.array(frame)).float() / 255.0 for frame in frames]),)


NODES = (HWSleep, HWTicks, HWHold, HWTally, HWStubborn, HWFail, HWBlock, HWReport, HWRead, HWPay, VHS_LoadImages)
NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
