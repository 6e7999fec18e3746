"""Text to image, Stable Diffusion XL with its refiner.

The base model makes the first steps, the refiner ends the picture from what the base model leaves.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from lib.workflow.authoring import OneOf, Seed

Checkpoint = Annotated[str, OneOf("CheckpointLoaderSimple", "ckpt_name")]


class Request(BaseModel):
    prompt: str = Field(description="What the picture shows.")
    negative_prompt: str = Field("text, watermark", description="What it must not show.")
    width: int = Field(1024, ge=256, le=2048, multiple_of=8, description="Pixels.")
    height: int = Field(1024, ge=256, le=2048, multiple_of=8, description="Pixels.")
    seed: Seed
    steps: int = Field(25, ge=1, le=100, description="Sampling steps of both models together.")
    cfg_scale: float = Field(8, ge=0, le=20, description="How closely the prompt is followed.")
    sampler_name: Annotated[str, OneOf("KSamplerAdvanced", "sampler_name")] = Field(
        "euler", description="How each step is made."
    )
    scheduler: Annotated[str, OneOf("KSamplerAdvanced", "scheduler")] = Field(
        "normal", description="How the noise is spread over the steps."
    )
    base_start_step: int = Field(0, ge=0, le=100, description="Where the base model begins.")
    base_end_step: int = Field(20, ge=0, le=100, description="Where the base model ends.")
    refiner_start_step: int = Field(20, ge=0, le=100, description="Where the refiner begins; it ends with the last.")
    checkpoint: Checkpoint = Field("sd_xl_base_1.0.safetensors", description="The base model's file.")
    refiner_checkpoint: Checkpoint = Field("sd_xl_refiner_1.0.safetensors", description="The refiner's file.")

    @model_validator(mode="after")
    def steps_are_in_order(self) -> Self:
        if not self.base_start_step < self.base_end_step:
            raise ValueError("base_start_step must be less than base_end_step")
        return self


def generate_workflow(request: Request) -> dict[str, Any]:
    """Return the graph for one request."""
    texts = {"positive": request.prompt, "negative": request.negative_prompt}
    sampling = {
        "noise_seed": request.seed,
        "steps": request.steps,
        "cfg": request.cfg_scale,
        "sampler_name": request.sampler_name,
        "scheduler": request.scheduler,
    }
    graph: dict[str, Any] = {
        "latent": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": request.width, "height": request.height, "batch_size": 1},
        },
        "base_sampler": {
            "class_type": "KSamplerAdvanced",
            "inputs": {
                **sampling,
                "model": ["base", 0],
                "positive": ["base_positive", 0],
                "negative": ["base_negative", 0],
                "latent_image": ["latent", 0],
                "add_noise": "enable",
                "start_at_step": request.base_start_step,
                "end_at_step": request.base_end_step,
                "return_with_leftover_noise": "enable",
            },
        },
        "refiner_sampler": {
            "class_type": "KSamplerAdvanced",
            "inputs": {
                **sampling,
                "model": ["refiner", 0],
                "positive": ["refiner_positive", 0],
                "negative": ["refiner_negative", 0],
                "latent_image": ["base_sampler", 0],
                "add_noise": "disable",
                "start_at_step": request.refiner_start_step,
                "end_at_step": 10000,
                "return_with_leftover_noise": "disable",
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["refiner_sampler", 0], "vae": ["refiner", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "sdxl"}},
    }
    for model, name in (("base", request.checkpoint), ("refiner", request.refiner_checkpoint)):
        graph[model] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
        for side, text in texts.items():
            graph[f"{model}_{side}"] = {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": [model, 1]}}
    return graph
