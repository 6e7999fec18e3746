"""Answers of comfyui-api, as the docs page describes them. Upstream's keys come first; what is ours says so."""

from typing import Any

from pydantic import Field

from lib.serving.schemas import WireModel


class Told(WireModel):
    """The request, with our names of the files in `prompt`, with defaults, and without secrets."""

    prompt: dict[str, Any] | None = Field(None, description="While it is known; long texts in it are left out.")
    id: str
    webhook: str | None = None
    webhook_v2: str | None = None
    convert_output: dict[str, Any] | None = None
    credentials: list[dict[str, Any]] | None = Field(None, description="Without tokens, passwords and keys.")
    s3: dict[str, Any] | None = None
    hf_upload: dict[str, Any] | None = None
    azure_blob_upload: dict[str, Any] | None = None
    http_upload: dict[str, Any] | None = None


class NodeStart(WireModel):
    """When a node began."""

    start: int


class Span(WireModel):
    """Milliseconds; `start` and `end` since the epoch."""

    start: int
    end: int
    duration: int


class ComfyExecution(WireModel):
    """ComfyUI's part of the work."""

    start: int | None
    end: int | None
    duration: int | None
    nodes: dict[str, NodeStart] = Field(description="Those that ran; cached ones are not among them.")
    total: Span | None = Field(description="The same once more, where comfyui-api's README has it.")


class SaladStats(WireModel):
    """Where the time went, in milliseconds."""

    comfy_execution: ComfyExecution
    preprocess_time: float = Field(description="Inputs and models brought in.")
    comfy_round_trip_time: float = Field(description="From the queue to outputs read from disk.")
    postprocess_time: float
    upload_time: float
    total_time: float


class SaladOutput(WireModel):
    """Ours: what is known of one file."""

    node_id: str
    key: str = Field(description="ComfyUI's: `images`, `gifs`, `audio`, ...")
    filename: str
    subfolder: str
    type: str
    kind: str = Field(description="`image`, `video`, `audio`, `3d`, `text`, `latent` or `file`.")
    mime: str
    size: int = Field(description="Bytes.")
    width: int | None = None
    height: int | None = None
    url: str | None = None
    url_expires_at: str | None = None
    error: str | None = None


class SaladText(WireModel):
    """Ours: a text that the workflow made."""

    node_id: str
    key: str
    text: str


class SaladResult(Told):
    """The request, then what came of it."""

    images: list[str] = Field(description="Every file, as base64 or as a URL, in the order of the graph.")
    filenames: list[str]
    stats: SaladStats
    outputs: list[SaladOutput]
    text: list[SaladText] | None = None
    warnings: list[str] | None = Field(None, description="Ours: what could not be done as asked.")
    input: dict[str, Any] | None = Field(None, description="Of workflow endpoints: with defaults and drawn seeds.")


class SaladAccepted(Told):
    """The request; the job goes on."""

    status: str = Field(description="`ok`.")
    input: dict[str, Any] | None = None


class SaladShown(WireModel):
    """Ours: a job by its id, on the paths that all APIs share. Once it is over, with what `/prompt` answers."""

    id: str
    status: str = Field(description="`queued`, `running`, `completed`.")
    progress: float | None = Field(None, description="Per cent, until it is over.")


class SaladTrouble(WireModel):
    """What is wrong. With a 400 `error` is the reason, else the status in words."""

    statusCode: int
    error: str
    message: str
    code: str | None = Field(None, description="Ours, but for those that begin with `FST_`.")
    retryable: bool | None = None
    location: str | None = Field(None, description="Dotted path of the mistake in the request.")
    node_errors: dict[str, Any] | None = Field(None, description="ComfyUI's, of a graph that it rejects.")
    exception_type: str | None = Field(None, description="Ours, as what follows: of a node that failed.")
    node_id: str | None = None
    node_type: str | None = None
    traceback: list[str] | None = Field(None, description="Frames, with paths from ComfyUI's folder on.")
    id: str | None = Field(None, description="Of the job, if there was one.")
    input: dict[str, Any] | None = None


class SaladInterrupted(WireModel):
    """Whether it was stopped: `success` or `failed`."""

    id: str
    interrupted: str


class SaladDownloaded(WireModel):
    """A model, `started` or `completed`; with the latter its size in bytes and the transfer's seconds."""

    url: str
    model_type: str
    filename: str
    status: str
    size: int | None = None
    duration: float | None = None
