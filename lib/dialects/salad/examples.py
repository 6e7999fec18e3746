"""Requests that run as they are, and answers as they look, for the docs page."""

from typing import Any

ID = "8f2c1d52-7c3e-4f4f-9a51-0c9b1b8b0f6e"
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_PICTURE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3368703}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ComfyUI"}},
}
_INVERTED: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": PIXEL}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inverted"}},
}
REQUESTS: dict[str, Any] = {
    "Picture without a model": {"prompt": _PICTURE},
    "Picture of your own, in the request": {"prompt": _INVERTED},
    "JPEG": {"prompt": _PICTURE, "convert_output": {"format": "jpeg", "options": {"quality": 90, "mozjpeg": True}}},
    "WebP without loss": {"prompt": _PICTURE, "convert_output": {"format": "webp", "options": {"lossless": True}}},
}
INTERRUPT: dict[str, Any] = {"id": ID}
DOWNLOAD: dict[str, Any] = {"url": "https://models.example.com/detail.safetensors", "model_type": "loras"}
_SPAN: dict[str, Any] = {"start": 1767225600040, "end": 1767225600990, "duration": 950}
_TOLD: dict[str, Any] = {
    "prompt": {**_PICTURE, "2": {**_PICTURE["2"], "inputs": {"images": ["1", 0], "filename_prefix": f"{ID}_ComfyUI"}}},
    "id": ID,
}
COMPLETED: dict[str, Any] = {
    **_TOLD,
    "images": ["iVBORw0KGgo..."],
    "filenames": [f"{ID}_ComfyUI_00001_.png"],
    "stats": {
        "comfy_execution": {**_SPAN, "nodes": {"1": {"start": 1767225600041}}, "total": _SPAN},
        "preprocess_time": 0.4,
        "comfy_round_trip_time": 962.1,
        "postprocess_time": 1.2,
        "upload_time": 0,
        "total_time": 965.8,
    },
    "outputs": [
        {
            "node_id": "2",
            "key": "images",
            "filename": f"{ID}_ComfyUI_00001_.png",
            "subfolder": "",
            "type": "output",
            "kind": "image",
            "mime": "image/png",
            "size": 190,
            "width": 64,
            "height": 64,
        }
    ],
}
ACCEPTED: dict[str, Any] = {**_TOLD, "webhook_v2": "https://example.com/hook", "status": "ok"}
MODELS: dict[str, Any] = {"checkpoints": ["v1-5-pruned-emaonly-fp16.safetensors"], "loras": []}
STARTED: dict[str, Any] = {**DOWNLOAD, "filename": "detail.safetensors", "status": "started"}


def trouble(status: int, phrase: str, message: str, code: str, **more: Any) -> dict[str, Any]:
    """Return an error body, as an answer shows it."""
    shown = {"statusCode": status, "code": code, "error": phrase, "message": message, "retryable": False}
    return {**shown, **more}
