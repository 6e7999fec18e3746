"""What the docs page says about the wrapper's routes; the examples run as they are."""

from collections.abc import Sequence
from typing import Any

from lib.dialects.wrapper.schema import Payload, Rejection, Result
from lib.dialects.wrapper.translate import INLINE_HEADER, RESPONSE_HEADER
from lib.serving.openapi import Answer, Operation, Parameter

TAG = "ComfyUI API Wrapper"
_PICTURE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3368703}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "example"}},
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
EXAMPLES: dict[str, Any] = {
    "Picture without a model": {"input": {"workflow_json": _PICTURE}},
    "Picture as base64 in the answer": {"input": {"workflow_json": _PICTURE, "return_outputs_as_base64": True}},
    "Text to image by modifier": {
        "input": {
            "modifier": "Text2Image",
            "modifications": {"prompt": "a lighthouse at dawn", "width": 128, "height": 128, "steps": 4},
        }
    },
    "Text to image by workflow, random seed": {"input": {"workflow_json": _STABLE_DIFFUSION}},
}
_FLAGS = (
    Parameter(
        name=INLINE_HEADER,
        place="header",
        description="`1`, `true`, `yes` or `on`: put each file's content into its entry, as base64.",
    ),
    Parameter(
        name=RESPONSE_HEADER,
        place="header",
        description="Whether `comfyui_response` is filled; the setting INCLUDE_COMFYUI_RESPONSE decides without it.",
    ),
)
_RETRY = {"Retry-After": "Seconds until another try makes sense."}
_COMPLETED: dict[str, Any] = {
    "id": "0f1b6c0e-7d5c-4c57-9d0b-1f6f7b1f8a11",
    "message": "Processing complete.",
    "status": "completed",
    "comfyui_response": {"<prompt id>": {"outputs": {}, "status": {"status_str": "success", "completed": True}}},
    "output": [
        {
            "filename": "example_00001_.png",
            "local_path": "/workspace/output/0f1b6c0e-7d5c-4c57-9d0b-1f6f7b1f8a11/example_00001_.png",
            "type": "output",
            "subfolder": "",
            "node_id": "2",
            "output_type": "images",
            "url": "https://bucket.s3.example.com/0f1b6c0e/example_00001_.png?X-Amz-Expires=604800",
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
_REJECTED = {
    "detail": [{"type": "missing", "loc": ["body", "input"], "msg": "Field required"}],
    "error": "invalid_request",
    "message": "input: Field required",
}


def _failed(description: str, code: str, message: str, *, status: str = "failed", **more: Any) -> Answer:
    example = {"id": "0f1b6c0e", "message": message, "status": status, "comfyui_response": {}, "output": []}
    headers = _RETRY if more.get("retryable") else {}
    return Answer(
        description=description,
        model=Result,
        example={**example, "timings": {}, "error": code, "retryable": False, **more},
        headers=headers,
    )


_SUBMIT_ERRORS = {
    400: _failed(
        "The workflow can't run; `details` names node, field and what was expected.",
        "invalid_workflow",
        "Input 'images' of node '2' names node '55', which is not in the workflow",
        details={"node_id": "2", "field": "images", "expected": 'a link ["<id of a node>", <slot from 0>]'},
    ),
    409: _failed("The `request_id` is in use by a live job with another body.", "job_conflict", "Choose another id."),
    413: _failed("The body is too large.", "body_too_large", "The body is larger than 104857600 bytes"),
    415: Answer(description="The body is not declared as JSON."),
    422: Answer(
        description="The request does not fit the schema, or an input could not be fetched.",
        model=Rejection,
        example=_REJECTED,
    ),
    503: _failed(
        "At capacity, starting or shutting down.",
        "overloaded",
        "Worker at capacity (1000 in flight); retry shortly",
        retryable=True,
    ),
}


def operations() -> Sequence[Operation]:
    """Return the wrapper's operations, in the order of the page."""
    return (
        Operation(
            method="POST",
            path="/generate/sync",
            tag=TAG,
            summary="Run a workflow and wait for its result",
            description="Leaving early cancels the job. A failed job never answers with 2xx.",
            request=Payload,
            examples=EXAMPLES,
            parameters=_FLAGS,
            answers={
                200: Answer(description="Completed.", model=Result, example=_COMPLETED),
                **_SUBMIT_ERRORS,
                499: _failed("Cancelled.", "job_cancelled", "Request cancelled by client", status="cancelled"),
                500: _failed("The generation failed.", "execution_failed", "Generation failed: KSampler: ..."),
                502: _failed("ComfyUI can't be reached.", "engine_unreachable", "Generation failed: ..."),
            },
        ),
    )
