"""Salad's request to a job spec: names of files, storages, whom to tell, and whether the caller waits. Pure."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Protocol

import orjson

from lib.dialects.port import Block
from lib.dialects.salad.conversion import ConvertOutput
from lib.dialects.salad.credentials import credentials
from lib.dialects.salad.echo import echo
from lib.dialects.salad.prefixes import prefixed
from lib.dialects.salad.schema import SaladOptions, SaladRequest, parse, plain_graph
from lib.dialects.salad.webhooks import render_webhook
from lib.errors import InvalidRequest
from lib.jobs.model import (
    ConvertSpec,
    DeliverySpec,
    Job,
    JobEvent,
    JobSpec,
    OnDisconnect,
    S3Target,
    StoreKind,
    StoreTarget,
    WebhookScheme,
    WebhookTarget,
)
from lib.settings import JobsSettings, SaladSettings
from lib.workflow.cost import measure
from lib.workflow.encoding import encode
from lib.workflow.graph import check_graph

NAME = "salad"
NO_OUTPUT = 'Prompt must contain a node with a "filename_prefix" input, such as "SaveImage"'
STORES: Mapping[str, StoreKind] = {
    "hf_upload": StoreKind.HUGGING_FACE,
    "azure_blob_upload": StoreKind.AZURE,
    "http_upload": StoreKind.HTTP,
}
S3 = "s3"
UPLOADS = (S3, *STORES)
"""Upload blocks; of several the first one counts."""
ASYNC = "async"


class PlanWebhook(Protocol):
    """Decides whom to tell."""

    def __call__(
        self, url: str, *, field: str, scheme: WebhookScheme, message_name: str | None
    ) -> WebhookTarget | None:
        """Return the target for a URL that the request has in ``field``, or for "" the operator's own, if there is
        one; ``None``: nobody. Raises: InvalidRequest, UnsafeInput."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SaladPlanner:
    """Turns blocks of a request into what is to be done with the outputs (``lib.delivery``). ``s3`` and ``store`` get
    a block as the request has it, defaults filled in and ``async`` left out; ``None``: that storage is not configured,
    and the block is passed over.

    Each raises InvalidRequest, with the place in ``details["errors"]`` (and ``details["unconfigured"]`` for a block
    that is of no use here), or UnsafeInput.
    """

    s3: Callable[[Mapping[str, Any]], S3Target | None]
    store: Callable[[StoreKind, Mapping[str, Any]], StoreTarget | None]
    convert: Callable[[Block], ConvertSpec | None]
    webhook: PlanWebhook


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request: the job, what answers tell of the request (``echo``), and whether the caller is answered at once."""

    spec: JobSpec
    echo: Mapping[str, Any] = field(repr=False)
    at_once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the files go; ``told`` are the upload blocks that count."""

    s3: S3Target | None = None
    store: StoreTarget | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def somewhere(self) -> bool:
        return self.s3 is not None or self.store is not None

    @property
    def at_once(self) -> bool:
        """Whether its caller looks for the files there."""
        return self.somewhere and bool(next(iter(self.told.values()))[ASYNC])


class SaladPayload:
    """The job format of comfyui-api."""

    name = NAME

    def __init__(self, *, planner: SaladPlanner, settings: SaladSettings, jobs: JobsSettings) -> None:
        self._planner = planner
        self._settings = settings
        self._jobs = jobs

    def read(self, body: object) -> Asked:
        """Turn a body of ``/prompt`` (decoded, checked JSON) into a job. Owner, base URL and trace are its caller's to
        fill.

        Raises: InvalidRequest, InvalidWorkflow, UnsafeInput.
        """
        asked = parse(SaladRequest, body)
        return self.ask(asked, plain_graph(asked.prompt), identity=body)

    def ask(self, asked: SaladOptions, graph: Mapping[str, Any], *, identity: object) -> Asked:
        """Turn a graph and its options into a job. ``identity``: the whole request, which is compared where its id
        comes again. Raises: InvalidRequest, InvalidWorkflow, UnsafeInput."""
        request_id = asked.id or str(uuid.uuid4())
        workflow, counts = prefixed(graph, request_id, prepend=self._settings.prepend_filenames)
        if workflow:
            check_graph(workflow)
        if not counts:
            raise _refused(NO_OUTPUT, "prompt")
        place = self._place(asked)
        told = echo(asked, request_id=request_id, uploads=place.told)
        at_once = bool(asked.webhook or asked.webhook_v2) or place.at_once
        spec = JobSpec(
            request_id=request_id,
            dialect=NAME,
            workflow=encode(workflow),
            body_hash=_body_hash(identity) if asked.id else "",
            cost=self._jobs.workload_units if self._jobs.cost_model == "constant" else None,
            estimate=measure(workflow),
            credentials=credentials(asked.credentials),
            delivery=self._delivery(asked, place, told),
            on_disconnect=OnDisconnect.KEEP if at_once else OnDisconnect.CANCEL,
            max_wait_s=self._jobs.max_queue_time_s,
            keep_response=False,
            tells_traceback=True,
        )
        return Asked(spec=spec, echo=told, at_once=at_once)

    def render_webhook(self, job: Job, target: WebhookTarget) -> bytes | list[bytes]:
        """Return the body that a job's webhook gets, or one for each output."""
        return render_webhook(job, target)

    def _delivery(self, asked: SaladOptions, place: _Place, told: Mapping[str, Any]) -> DeliverySpec:
        if asked.webhook and not self._settings.webhook_uploads:
            place = _Place()
        output = asked.convert_output
        return DeliverySpec(
            s3=place.s3,
            store=place.store,
            must_arrive=place.somewhere,
            inline_base64=not place.somewhere,
            inline_large=True,
            convert=self._converted(output) if output else None,
            keep_metadata=output.keep_metadata or None if output else None,
            webhooks=self._webhooks(asked, told),
        )

    def _converted(self, output: ConvertOutput) -> ConvertSpec | None:
        if output.options is None:
            return self._planner.convert({"format": output.format})
        options = output.options.model_dump(exclude_unset=True)
        convert = self._planner.convert({"format": output.format, "options": options})
        text = f"convert_output.options.{{}} has no effect: {output.format} has no such option"
        unknown = tuple(map(text.format, output.options.unknown))
        return replace(convert, warnings=(*convert.warnings, *unknown)) if convert and unknown else convert

    def _place(self, asked: SaladOptions) -> _Place:
        """Where the files go. Each block has to be right, also those that don't count."""
        first: _Place | None = None
        told: dict[str, Any] = {}
        for name in UPLOADS:
            block = getattr(asked, name)
            if block is None:
                continue
            given = block.model_dump(by_alias=True)
            place = self._planned(name, {key: value for key, value in given.items() if key != ASYNC})
            if place.somewhere:
                told[name], first = given, first or place
        return replace(first, told=told) if first is not None else _Place()

    def _planned(self, name: str, block: Mapping[str, Any]) -> _Place:
        if name == S3:
            return _Place(s3=self._planner.s3(block))
        return _Place(store=self._planner.store(STORES[name], block))

    def _webhooks(self, asked: SaladOptions, told: Mapping[str, Any]) -> tuple[WebhookTarget, ...]:
        """Whom to tell; of a failure the first webhook hears only where there is no second one, as upstream has it."""
        plan, name = self._planner.webhook, str(told["id"])
        plain = signed = own = None
        if asked.webhook:
            plain = plan(asked.webhook, field="webhook", scheme=WebhookScheme.SALAD, message_name=None)
        if asked.webhook_v2:
            signed = plan(asked.webhook_v2, field="webhook_v2", scheme=WebhookScheme.SALAD_SIGNED, message_name=name)
        if not asked.webhook and not asked.webhook_v2:
            own = plan("", field="webhook_v2", scheme=WebhookScheme.SALAD_SIGNED, message_name=name)
        if plain is not None and signed is not None:
            plain = replace(plain, events=frozenset({JobEvent.COMPLETED}))
        if signed is not None:
            signed = replace(signed, extra_params=told)
        return tuple(target for target in (plain, signed, own) if target is not None)


def _refused(message: str, place: str) -> InvalidRequest:
    problem = {"type": "value_error", "loc": [place], "msg": message}
    return InvalidRequest(message, details={"field": place, "errors": [problem]})


def _body_hash(body: object) -> str:
    """Identify a request, whatever the order of its keys."""
    return blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
