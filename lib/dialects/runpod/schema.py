"""Bodies of RunPod's serverless API (its documentation of August 2026) around worker-comfyui's input (release 5.8.5).

Only what the platform itself looks at is validated here; ``input`` goes on as it is, since the platform hands it to the
handler whatever it holds (``inputs`` reads it). Unknown keys are dropped, ``null`` and ``""`` mean "not given". What we
added says so in its description.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SkipValidation, ValidationError

from lib.errors import InvalidRequest
from lib.serving.schemas import WireModel

WEEK_MS = 604_800_000
LEAST_TIMEOUT_MS = 5_000
LEAST_TTL_MS = 10_000
NO_INPUT = "Please provide input"
_MAX_ERRORS = 20
_NO_OBJECT = frozenset({"dict_type", "model_type"})

Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value, json_schema_input_type=str | None)]
Switch = Annotated[
    bool,
    Field(strict=True),
    BeforeValidator(lambda value: False if value is None else value, json_schema_input_type=bool | None),
]
Milliseconds = Annotated[float, Field(strict=True)]


def _within(least: int) -> AfterValidator:
    return AfterValidator(lambda value: min(max(value, least), WEEK_MS))


class _Request(WireModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class RunPodPolicy(_Request):
    """Limits of one job, in milliseconds; what is out of range is taken to the nearest value in it."""

    executionTimeout: Annotated[Milliseconds, _within(LEAST_TIMEOUT_MS)] | None = Field(
        None, description=f"Longest execution, {LEAST_TIMEOUT_MS} to {WEEK_MS}; then the job is `TIMED_OUT`."
    )
    ttl: Annotated[Milliseconds, _within(LEAST_TTL_MS)] | None = Field(
        None,
        description=f"Whole life from submission on, {LEAST_TTL_MS} to {WEEK_MS}; then it is stopped and forgotten.",
    )
    lowPriority: Switch = Field(False, description="Gets a turn when no other job waits for one.")


class RunPodS3(_Request):
    """Your own bucket for the files of this job; they are named `<objectPath>/<job id>/<file name>`."""

    accessId: Text = ""
    accessSecret: Text = ""
    bucketName: Text = ""
    endpointUrl: Text = ""
    objectPath: Text = Field("", description="Folders before the job's id.")


class RunPodImage(_Request):
    """A file that the workflow's loaders name."""

    name: str = Field(description="As the workflow has it, for example in `LoadImage`; unique in the list.")
    image: str = Field(description="Base64, a data URI, or (ours) an http or https URL.")


class RunPodInput(_Request):
    """What worker-comfyui's handler gets."""

    workflow: dict[str, Any] = Field(description="Graph in ComfyUI's API format. `prompt` is its name before 2.0.0.")
    images: list[RunPodImage] | None = None
    comfy_org_api_key: str | None = Field(
        None,
        description="Pays for partner nodes, in place of the operator's COMFY_ORG_API_KEY; `api_key_comfy_org` too.",
    )


class RunPodRequest(_Request):
    """Body of `/run` and `/runsync`."""

    input: SkipValidation[RunPodInput | str] = Field(description="An object, or the same as a JSON string.")
    webhook: Text = Field("", description="URL that gets the job object once the job is over.")
    webhookV2: Text = Field("", description="Another name of `webhook`.")
    policy: RunPodPolicy | None = None
    s3Config: RunPodS3 | None = None


def parse(body: object) -> RunPodRequest:
    """Validate a submitted body, ``input`` aside. Raises: InvalidRequest without any of the values, which may be
    secret."""
    try:
        return RunPodRequest.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
    problems: list[dict[str, Any]] = [
        {
            "type": item["type"],
            "loc": ["body", *item["loc"]],
            "msg": "must be an object" if item["type"] in _NO_OBJECT else item["msg"],
        }
        for item in found
    ]
    first = problems[0]
    field = ".".join(map(str, first["loc"][1:]))
    message = NO_INPUT if (field, first["type"]) == ("input", "missing") else f"{field or 'body'}: {first['msg']}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise InvalidRequest(message + more, details={"field": field, "errors": problems[:_MAX_ERRORS]})
