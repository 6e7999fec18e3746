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
_SUBMIT_ERRORS = {
    400: Answer(description="The workflow can't run; `details` names node, field and what was expected.", model=Result),
    409: Answer(description="The `request_id` is in use by a live job with another body.", model=Result),
    413: Answer(description="The body is too large.", model=Result),
    415: Answer(description="The body is not declared as JSON."),
    422: Answer(description="The request does not fit the schema, or an input could not be fetched.", model=Rejection),
    503: Answer(description="At capacity, starting or shutting down.", model=Result, headers=_RETRY),
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
                200: Answer(description="Completed.", model=Result),
                **_SUBMIT_ERRORS,
                499: Answer(description="Cancelled.", model=Result),
                500: Answer(description="The generation failed.", model=Result),
                502: Answer(description="ComfyUI can't be reached.", model=Result),
            },
        ),
    )
