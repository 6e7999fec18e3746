"""Wire models of the ComfyUI API Wrapper (seen at commit e1d04af of 2026-05-08).

Requests are validated with them; answers are written by ``translate`` and only described here. Unknown keys are
accepted and ignored. An empty string, object or block means "not given".
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.errors import InvalidRequest

REQUEST_ID = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$"
_MAX_ERRORS = 20
Seconds = Annotated[int, Field(ge=0, le=3600)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class S3Block(_Request):
    """Upload target of one request; it stands alone when it has keys of its own."""

    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = Field("", description="Ours: token of temporary credentials.")
    endpoint_url: str = ""
    bucket_name: str = ""
    region: str = ""
    connect_timeout: Seconds = 60
    connect_attempts: int = Field(3, ge=0, le=100)


class WebhookBlock(_Request):
    """Told once the job is completed, failed or cancelled."""

    url: str = ""
    extra_params: dict[str, Any] = Field(default_factory=dict, description="Comes back as `extra`.")
    timeout: Seconds = 30
    secret: str = Field("", description="Signs the body: `X-Webhook-Signature: sha256=<hex HMAC-SHA256>`.")


class Input(_Request):
    """What to generate: `workflow_json`, or a `modifier` with its `modifications`."""

    request_id: str = Field("", pattern=REQUEST_ID, description="Your own id; a UUID is made when empty.")
    workflow_json: dict[str, Any] = Field(
        default_factory=dict, description="Graph in ComfyUI's API format. `__RANDOM_INT__` becomes a random number."
    )
    modifier: str = Field("", description="Name of a workflow template: `Text2Image`, `Image2Image`.")
    modifications: dict[str, Any] = Field(default_factory=dict, description="Values of the template's parameters.")
    s3: S3Block | None = None
    webhook: WebhookBlock | None = None
    return_outputs_as_base64: bool = Field(False, description="Put each file's content into its entry as `data`.")
    include_temp_outputs: bool = Field(False, description="Ours: previews and other temporary files too.")
    timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False, description="Ours: longest execution, in seconds.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.workflow_json and self.modifier:
            raise ValueError("Cannot provide both workflow_json and modifier - they are mutually exclusive")
        if not self.workflow_json and not self.modifier:
            raise ValueError("Must provide either workflow_json OR modifier")
        if self.modifications and not self.modifier:
            raise ValueError("modifications can only be provided when modifier is specified")
        return self


class Payload(_Request):
    """Body of every `/generate*` route."""

    input: Input


class OutputEntry(BaseModel):
    """One file that the workflow made."""

    filename: str
    local_path: str = Field(description="Where the file is on the worker's disk.")
    type: str
    subfolder: str
    node_id: str
    output_type: str = Field(description="ComfyUI's key: `images`, `gifs`, `audio`, ...")
    url: str | None = Field(None, description="Presigned URL, when the file was uploaded.")
    upload_error: str | None = Field(None, description="Why the upload of this file failed; the job is completed.")
    data: str | None = Field(None, description="Base64 of the content, when asked for.")
    mimetype: str | None = Field(None, description="With `data`.")
    error: str | None = Field(None, description="Why there is no `data`.")


class TextEntry(BaseModel):
    """One text that the workflow made."""

    node_id: str
    output_type: str
    text: str


class TimingsEntry(BaseModel):
    """Milliseconds, integers; `*_at_ms` since the epoch."""

    queued_at_ms: int | None = Field(None, description="Absent when the request was not accepted.")
    preprocess_ms: int | None = None
    generation_ms: int | None = None
    postprocess_ms: int | None = None
    completed_at_ms: int | None = None
    total_ms: int | None = None


class Result(BaseModel):
    """State of a job. The last five fields are ours and absent when they say nothing."""

    id: str
    message: str
    status: Literal["pending", "processing", "generating", "generated", "completed", "failed", "cancelled"]
    comfyui_response: dict[str, Any] = Field(description="ComfyUI's history entry under its prompt id.")
    output: list[OutputEntry]
    timings: TimingsEntry
    text_output: list[TextEntry] | None = None
    warnings: list[str] | None = None
    error: str | None = Field(None, description="Stable code of what went wrong.")
    retryable: bool | None = Field(None, description="Whether the same request may succeed later or elsewhere.")
    details: dict[str, Any] | None = Field(None, description="For programs: `node_errors`, `node_id`, `expected`, ...")


class Problem(BaseModel):
    """One mistake in a request."""

    type: str
    loc: list[str | int]
    msg: str


class Rejection(BaseModel):
    """Answer to a request that does not fit the schema."""

    detail: list[Problem]
    error: str
    message: str


def parse(payload: object) -> Input:
    """Validate ``{"input": {...}}``. Raises: InvalidRequest without any of the values, which may be secret."""
    try:
        return Payload.model_validate(payload).input
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
    problems: list[dict[str, Any]] = [
        {"type": item["type"], "loc": ["body", *item["loc"]], "msg": item["msg"]} for item in found
    ]
    first = problems[0]
    field = ".".join(map(str, first["loc"][1:]))
    message = f"{field or 'body'}: {first['msg'].removeprefix('Value error, ')}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise InvalidRequest(message + more, details={"field": field, "errors": problems[:_MAX_ERRORS]})
