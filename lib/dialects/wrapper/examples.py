"""Requests that run as they are, and answers as they look, for the docs page."""

from typing import Any

ID = "0f1b6c0e-7d5c-4c57-9d0b-1f6f7b1f8a11"
REQUEST_ID = "my-picture"
"""Of the first request; what asks for a job on the docs page names it."""
JOB_ID = "6c1a5b52-0a3e-4d4f-8a51-0c9b1b8b0f6e"
BASE = "http://127.0.0.1:18288"
_PICTURE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3368703}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "example"}},
}
_PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_OWN_PICTURE: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": _PIXEL}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inverted"}},
}
_STABLE_DIFFUSION: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": "__RANDOM_INT__",
            "steps": 4,
            "cfg": 8,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse at dawn", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "lighthouse", "images": ["8", 0]}},
}
REQUESTS: dict[str, Any] = {
    "Picture without a model": {"input": {"request_id": REQUEST_ID, "workflow_json": _PICTURE}},
    "Picture as base64 in the answer": {"input": {"workflow_json": _PICTURE, "return_outputs_as_base64": True}},
    "Text to image by modifier": {
        "input": {
            "modifier": "Text2Image",
            "modifications": {"prompt": "a lighthouse at dawn", "width": 128, "height": 128, "steps": 4},
        }
    },
    "Text to image by workflow, random seed": {"input": {"workflow_json": _STABLE_DIFFUSION}},
    "Picture of your own, in the request": {"input": {"workflow_json": _OWN_PICTURE}},
    "WebP with a thumbnail, no metadata": {
        "input": {
            "workflow_json": _PICTURE,
            "convert_output": {"format": "webp", "options": {"Q": 80}},
            "thumbnail": {"width": 32, "height": 32},
            "metadata": "strip",
        }
    },
    "A link after two seconds": {"input": {"workflow_json": _PICTURE, "sync_timeout_s": 2}},
}
COMPLETED: dict[str, Any] = {
    "id": ID,
    "message": "Processing complete.",
    "status": "completed",
    "comfyui_response": {"<prompt id>": {"outputs": {}, "status": {"status_str": "success", "completed": True}}},
    "output": [
        {
            "filename": "example_00001_.png",
            "local_path": f"/workspace/output/{ID}/example_00001_.png",
            "type": "output",
            "subfolder": "",
            "node_id": "2",
            "output_type": "images",
            "url": f"https://bucket.s3.example.com/{ID}/example_00001_.png?X-Amz-Expires=604800",
            "mimetype": "image/png",
            "kind": "image",
            "size_bytes": 190,
            "width": 64,
            "height": 64,
            "url_expires_at": "2026-01-08T00:00:01Z",
        }
    ],
    "timings": {
        "queued_at_ms": 1767225600000,
        "preprocess_ms": 1,
        "generation_ms": 980,
        "postprocess_ms": 120,
        "completed_at_ms": 1767225601105,
        "total_ms": 1105,
    },
}
ACCEPTED: dict[str, Any] = {
    "id": ID,
    "message": "Request accepted",
    "status": "pending",
    "comfyui_response": {},
    "output": [],
    "timings": {"queued_at_ms": 1767225600000},
    "job_id": JOB_ID,
    "status_url": f"{BASE}/result/{JOB_ID}",
    "stream_url": f"{BASE}/generate/stream/{JOB_ID}",
    "cancel_url": f"{BASE}/cancel/{JOB_ID}",
    "expected_wait_s": 1.2,
    "expected_s": 0.98,
}
REJECTED: dict[str, Any] = {
    "detail": [{"type": "missing", "loc": ["body", "input"], "msg": "Field required"}],
    "error": "invalid_request",
    "message": "input: Field required",
    "retryable": False,
}
QUEUES: dict[str, Any] = {
    "preprocess_queue_size": 0,
    "generation_queue_size": 2,
    "postprocess_queue_size": 0,
    "running_count": 1,
    "waiting_count": 2,
    "expected_wait_s": 2.9,
    "expected_start_at": "2026-01-01T00:00:02.900000Z",
    "expected_s": 0.98,
}
EVENTS = f"""retry: 2000

data: {{"request_id":"{ID}","status":"queued","message":"Request queued","timestamp":"2026-01-01T00:00:00Z",...}}

id: 1767225600500
data: {{"request_id":"{ID}","status":"generating","message":"Progress: 50.0% (10/20)",...,"percent":50.0,"step":10,...}}

id: final
data: {{"request_id":"{ID}","status":"final_result","result":{{...}},"elapsed_time":1.1,"http_status":200}}

"""


def failure(code: str, message: str, **more: Any) -> dict[str, Any]:
    """Return a result that failed, as an answer shows it."""
    shown = {"id": ID, "message": message, "status": "failed", "comfyui_response": {}, "output": [], "timings": {}}
    return {**shown, "error": code, "retryable": False, **more}
