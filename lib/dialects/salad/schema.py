"""Requests of SaladTechnologies' comfyui-api, 1.9 and 1.18.1 (seen at commit 4dfc930 of 2026-04-29).

Unknown keys are dropped, in nodes too; types are taken to the letter, and ``null`` is no value. An empty webhook, id or
prefix means "not given". What we added says so in its description.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from lib.dialects.salad.conversion import LEFT_OUT, ConvertOutput, Part
from lib.errors import InvalidRequest

MAX_CREDENTIALS = 100
MAX_PATTERN = 2048
_MAX_ERRORS = 20
_TAGGED = frozenset({"auth", "convert_output"})
"""Fields of several forms: pydantic names the form after them in a place."""
_BRANCHES = frozenset({"str", "list[int]"})
_NO_OBJECT = frozenset({"dict_type", "model_type"})
_NODE_KEYS = ("inputs", "class_type", "_meta")
Text = Annotated[str, Field(min_length=1)]
M = TypeVar("M", bound=BaseModel)


class BearerAuth(Part):
    """`Authorization: Bearer <token>`."""

    type: Literal["bearer"]
    token: str


class BasicAuth(Part):
    """`Authorization: Basic`, of name and password."""

    type: Literal["basic"]
    username: str
    password: str


class HeaderAuth(Part):
    """Any one header."""

    type: Literal["header"]
    header_name: Text
    header_value: str


class QueryAuth(Part):
    """A parameter of the URL; it is set on the request alone."""

    type: Literal["query"]
    query_param: Text
    query_value: str


class S3Auth(Part):
    """Keys for `s3://bucket/key`."""

    type: Literal["s3"]
    access_key_id: Text
    secret_access_key: Text
    session_token: Annotated[str | None, LEFT_OUT] = None
    endpoint: Annotated[str | None, LEFT_OUT] = None
    region: Annotated[str | None, LEFT_OUT] = None


Auth = Annotated[BearerAuth | BasicAuth | HeaderAuth | QueryAuth | S3Auth, Field(discriminator="type")]


class SaladCredential(Part):
    """What models and inputs are read with; of several that fit the first one counts."""

    url_pattern: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)] = Field(
        description="The whole URL: `**` any characters, `*` any but `/`, `?` one character."
    )
    auth: Auth


class _Upload(Part):
    async_: bool = Field(
        False, alias="async", description="Answer 202 at once; who sent it finds the files in the storage."
    )


class S3Upload(_Upload):
    """Files go to the operator's S3 account, as `s3://<bucket>/<prefix><file name>`."""

    bucket: Text
    prefix: str = Field("", description="Put before the name as it stands: folders need their own `/`.")


class HuggingFaceUpload(_Upload):
    """Files go to a repository at Hugging Face, all of a job in one commit."""

    repo: Text
    repo_type: Literal["model", "dataset"] = "model"
    revision: Text = "main"
    directory: str = "/"


class AzureUpload(_Upload):
    """Files go to the operator's Azure account."""

    container: Text
    blob_prefix: str = ""


class HttpUpload(_Upload):
    """Files are sent by PUT, to `<url_prefix>/<file name>`."""

    url_prefix: Text


class SaladOptions(Part):
    """What every job may say."""

    id: str = Field(
        "", max_length=1024, description="Yours; a UUID is made if it is unset. Files are named after it, webhooks too."
    )
    webhook: str = Field("", description="Deprecated: is told of each output apart, unsigned.")
    webhook_v2: str = Field("", description="Is told once, signed as Standard Webhooks are.")
    convert_output: Annotated[ConvertOutput | None, LEFT_OUT] = None
    credentials: Annotated[list[SaladCredential], Field(max_length=MAX_CREDENTIALS)] = Field(default_factory=list)
    s3: Annotated[S3Upload | None, LEFT_OUT] = None
    hf_upload: Annotated[HuggingFaceUpload | None, LEFT_OUT] = None
    azure_blob_upload: Annotated[AzureUpload | None, LEFT_OUT] = None
    http_upload: Annotated[HttpUpload | None, LEFT_OUT] = None


class SaladRequest(SaladOptions):
    """Body of `/prompt`. Of several upload blocks the first counts, in the order `s3`, `hf_upload`,
    `azure_blob_upload`, `http_upload`."""

    prompt: dict[str, Any] = Field(
        description="Graph in ComfyUI's API format: node id to `{inputs, class_type, _meta?}`."
    )


class SaladWorkflowRequest(SaladOptions):
    """Body of `/workflow/...`: as of `/prompt`, with `input` in place of `prompt`."""

    input: dict[str, Any] = Field(description="The endpoint's own inputs.")


class SaladInterrupt(Part):
    """Body of `/interrupt`."""

    id: str = Field(description="Of the request that is to be stopped.")


class SaladDownload(Part):
    """Body of `/download`."""

    url: Text = Field(description="`http`, `https` or `s3`.")
    model_type: Text = Field(description="Folder of ComfyUI's models, as `/models` names them.")
    filename: Annotated[str | None, LEFT_OUT] = Field(
        None, description="A name without folders; the last part of the URL's path if it is unset."
    )
    wait: bool = Field(False, description="Answer once the file is there.")
    auth: Annotated[Auth | None, LEFT_OUT] = None


def parse(model: type[M], body: object) -> M:
    """Validate a decoded body. Raises: InvalidRequest without any of the values, which may be secret."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
    problems = [{"type": item["type"], "loc": list(place(item["loc"])), "msg": _message(item)} for item in found]
    first = problems[0]
    field = ".".join(map(str, first["loc"]))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = f"{field or 'body'}: {first['msg']}{more}"
    raise InvalidRequest(message, details={"field": field, "errors": problems[:_MAX_ERRORS]})


def place(loc: Iterable[str | int]) -> tuple[str | int, ...]:
    """Return where in the body something is, without pydantic's names of forms and of branches of a type."""
    kept: list[str | int] = []
    tagged = False
    for part in loc:
        if not tagged and part not in _BRANCHES:
            kept.append(part)
        tagged = part in _TAGGED and not tagged
    return tuple(kept)


def _message(problem: Mapping[str, Any]) -> str:
    return "must be an object" if problem["type"] in _NO_OBJECT else str(problem["msg"])


def plain_graph(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a graph without what nodes have beside ``inputs``, ``class_type`` and ``_meta``."""
    return {
        node_id: {key: node[key] for key in _NODE_KEYS if key in node} if isinstance(node, dict) else node
        for node_id, node in prompt.items()
    }
