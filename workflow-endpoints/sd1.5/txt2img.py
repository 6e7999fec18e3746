"""Text to image, Stable Diffusion 1.5.

One picture or several of the same text, with any checkpoint of the Stable Diffusion 1.5 family.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from lib.workflow.authoring import Context, OneOf, Seed


class Request(BaseModel):
    prompt: str = Field(description="What the picture shows.")
    negative_prompt: str = Field("text, watermark", description="What it must not show.")
    width: int = Field(512, ge=256, le=2048, description="Pixels; rounded down to a multiple of 8.")
    height: int = Field(512, ge=256, le=2048, description="Pixels; rounded down to a multiple of 8.")
    batch_size: int = Field(1, ge=1, le=8, description="Pictures made at once.")
    seed: Seed
    steps: int = Field(20, ge=1, le=100, description="Sampling steps.")
    cfg_scale: float = Field(8, ge=0, le=20, description="How closely the prompt is followed.")
    sampler_name: Annotated[str, OneOf("KSampler", "sampler_name")] = Field(
        "euler", description="How each step is made."
    )
    scheduler: Annotated[str, OneOf("KSampler", "scheduler")] = Field(
        "normal", description="How the noise is spread over the steps."
    )
    denoise: float = Field(1, ge=0, le=1, description="1 makes the whole picture from noise.")
    checkpoint: Annotated[str | None, OneOf("CheckpointLoaderSimple", "ckpt_name")] = Field(
        None, description="The first one that is installed when not given."
    )


def generate_workflow(request: Request, context: Context) -> dict[str, Any]:
    """Return the graph for one request."""
    checkpoint = request.checkpoint or context.first("CheckpointLoaderSimple", "ckpt_name")
    return {
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "positive": {"class_type": "CLIPTextEncode", "inputs": {"text": request.prompt, "clip": ["model", 1]}},
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"text": request.negative_prompt, "clip": ["model", 1]}},
        "latent": {
            "class_type": "EmptyLatentImage",
            "inputs": {
                "width": request.width // 8 * 8,
                "height": request.height // 8 * 8,
                "batch_size": request.batch_size,
            },
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["latent", 0],
                "seed": request.seed,
                "steps": request.steps,
                "cfg": request.cfg_scale,
                "sampler_name": request.sampler_name,
                "scheduler": request.scheduler,
                "denoise": request.denoise,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["model", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "txt2img"}},
    }
