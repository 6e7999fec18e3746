"""Requests of the ComfyUI API Wrapper (seen at commit e1d04af of 2026-05-08), and what we take beside them.

Unknown keys are accepted and ignored. An empty string, list, object or block means "not given". What we added says so
in its description.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from lib.errors import InvalidRequest
from lib.jobs.model import JobEvent
from lib.serving.schemas import WireModel

REQUEST_ID = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$"
MAX_WEBHOOKS = 9
MAX_CREDENTIALS = 20
MAX_PUT_URLS = 1000
_MAX_ERRORS = 20
Seconds = Annotated[int, Field(ge=0, le=3600)]
Headers = Annotated[dict[str, str], Field(max_length=32)]


class _Request(WireModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class S3Block(_Request):
    """Upload target of one request; it stands alone when it has keys of its own."""

    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = Field("", description="Ours: token of temporary credentials.")
    endpoint_url: str = ""
    bucket_name: str = ""
    region: str = ""
    prefix: str = Field("", max_length=512, description="Ours: folders before the request's id in each key.")
    connect_timeout: Seconds = 60
    connect_attempts: int = Field(3, ge=0, le=100)


class WebhookBlock(_Request):
    """Told once the job is completed, failed or cancelled."""

    url: str = ""
    extra_params: dict[str, Any] = Field(default_factory=dict, description="Comes back as `extra`.")
    timeout: Seconds = 30
    secret: str = Field(
        "",
        description="Signs the body: `X-Webhook-Signature: sha256=<hex HMAC-SHA256>`; with the scheme `standard` a "
        "`whsec_...` secret of Standard Webhooks.",
    )
    events: list[JobEvent] = Field(
        default_factory=list,
        description="Ours: what it is told; every outcome when empty, `started` when asked for.",
    )
    scheme: Literal["wrapper", "standard"] | None = Field(
        None, description="Ours: `wrapper` (the default), or `standard` for Standard Webhooks, retried over days."
    )


class UploadBlock(_Request):
    """Ours: presigned URLs of your own storage; each file is sent to the next one by PUT."""

    put_urls: list[str] = Field(
        default_factory=list, max_length=MAX_PUT_URLS, description="One a file, in the order of `output`."
    )
    headers: Headers = Field(default_factory=dict, description="Sent with each PUT.")


class ConvertBlock(_Request):
    """Ours: another format for the pictures."""

    format: str = Field("", description="`png`, `jpeg`, `webp` or `avif`.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="The encoder's options by libvips' names, for example `{\"Q\": 80}`."
    )


class ThumbnailBlock(_Request):
    """Ours: a small copy of each picture that fits into this many pixels."""

    width: int | None = Field(None, ge=1, le=2048, description="256 if neither is given.")
    height: int | None = Field(None, ge=1, le=2048)
    format: str = Field("", description="`webp` (the default) or `jpeg`.")


class S3Credential(_Request):
    """Keys for inputs that are read from `s3://bucket/key`."""

    type: Literal["s3"]
    url_pattern: str = Field(pattern=r"^s3://.", max_length=2048, description="For example `s3://my-bucket/*`.")
    access_key_id: str = Field(min_length=1)
    secret_access_key: str = Field(min_length=1)
    session_token: str = ""
    endpoint_url: str = ""
    region: str = ""


class HttpCredential(_Request):
    """Headers for inputs that are read from a web server; they stay with its host when it redirects."""

    type: Literal["http"]
    url_pattern: str = Field(
        pattern=r"^https?://.", max_length=2048, description="For example `https://files.example.com/*`."
    )
    headers: Headers = Field(description='For example `{"Authorization": "Bearer ..."}`.')


Secret = Annotated[S3Credential | HttpCredential, Field(discriminator="type")]


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
    sync_timeout_s: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Ours, for `/generate/sync`: answer 202 with the `status_url` when the job takes longer.",
    )
    webhooks: list[WebhookBlock] = Field(
        default_factory=list, max_length=MAX_WEBHOOKS, description="Ours: further webhooks, each as `webhook`."
    )
    upload: UploadBlock | None = None
    convert_output: ConvertBlock | None = None
    metadata: Literal["keep", "strip"] | None = Field(
        None, description="Ours: what becomes of the workflow in the pictures' metadata; as ComfyUI wrote it if unset."
    )
    thumbnail: ThumbnailBlock | None = None
    credentials: list[Secret] = Field(
        default_factory=list, max_length=MAX_CREDENTIALS, description="Ours: what inputs are read with."
    )

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
