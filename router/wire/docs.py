"""What the docs page says of the protocol's routes. Vast's own words for fields; what each means is in
``docs/dialects/vast.md``."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from lib.serving.access import Need
from lib.serving.openapi import NUMBER, OBJECT, TEXT, Answer, Operation, Parameter
from lib.serving.payloads import JSON_TYPE
from router.wire.answers import SCALING
from router.wire.certificates import PEM_TYPE

ROUTING, WORKERS, LOOKING, CONSOLE = "Routing", "Reports of workers", "Workers and logs", "Endpoints and groups"
WHOLE: Mapping[str, Any] = {"type": "integer", "minimum": 0}
FLAG: Mapping[str, Any] = {"type": "boolean"}
ID = Parameter(name="id", place="path", description="Its number.", schema=WHOLE)
ENDPOINT = Parameter(name="endpoint", place="path", description="The endpoint that the worker serves.")
KEY = "The key may also be `api_key` in the query or the body."


def operations() -> Sequence[Operation]:
    """Every route of the protocol."""
    return [_route(), *_of_workers(), *_looks(), _update(), *_endpoints(), *_groups(), *_certificates()]


def _object(*required: str, **properties: Mapping[str, Any]) -> Mapping[str, Any]:
    described = {name: dict(schema) for name, schema in properties.items()}
    return {"type": "object", "properties": described} | ({"required": list(required)} if required else {})


def _body(*required: str, **properties: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {JSON_TYPE: _object(*required, **properties)}


ERROR = _object("success", "error", "msg", success=FLAG, error=TEXT, msg=TEXT, error_msg=TEXT)
DONE = Answer(description="Done.", schema=_object("success", success=FLAG))
LIST: Mapping[str, Any] = {"type": "array", "items": OBJECT}


def _answers(found: Answer, *refusals: HTTPStatus) -> Mapping[int, Answer]:
    usual = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND)
    told = {
        HTTPStatus.BAD_REQUEST: "The body is no JSON object, or lacks something.",
        HTTPStatus.UNAUTHORIZED: "No key or token, or a wrong one.",
        HTTPStatus.FORBIDDEN: "The key may not do this.",
        HTTPStatus.NOT_FOUND: "There is no such thing, or the key does not reach it.",
        HTTPStatus.CONFLICT: "There is one of this name.",
    }
    refused = {int(one): Answer(description=told[one], schema=ERROR) for one in (*usual, *refusals)}
    return {int(HTTPStatus.OK): found} | refused


def _route() -> Operation:
    ready = _object(
        *("url", "signature", "reqnum", "cost", "endpoint", "request_idx"),
        url=TEXT,
        signature=TEXT,
        reqnum=WHOLE,
        cost=NUMBER,
        endpoint=TEXT,
        request_idx=WHOLE,
        ticket=TEXT,
        __request_id=TEXT,
    )
    waiting = _object("endpoint", "status", "request_idx", endpoint=TEXT, status=TEXT, request_idx=WHOLE)
    return Operation(
        method="POST",
        path="/route/",
        tag=ROUTING,
        summary="Which worker to call",
        description="Held for some seconds while there is none. READY has a `url`: send the whole answer to the worker "
        f"as `auth_data`. WAITING has none: ask again with its `request_idx`, also when the worker failed you. {KEY}",
        other_requests=_body(endpoint=TEXT, api_key=TEXT, cost=NUMBER, request_idx=WHOLE, replay_timeout=NUMBER),
        answers=_answers(Answer(description="READY or WAITING.", schema={"anyOf": [ready, waiting]})),
    )


def _of_workers() -> Sequence[Operation]:
    report = _body("id", id=WHOLE, mtoken=TEXT, url=TEXT, version=TEXT, max_perf=NUMBER, cur_load=NUMBER)
    ended = _body("worker_id", worker_id=WHOLE, mtoken=TEXT, requests=LIST)
    key = Answer(description="RSA, PEM.", media_type="text/plain", schema=TEXT)
    found = []
    for prefix, parameters in (("", ()), ("/e/{endpoint}", (ENDPOINT,))):
        for method, name, summary, request, answers in (
            ("GET", "pubkey", "The key that signs routes", {}, {int(HTTPStatus.OK): key}),
            ("POST", "worker_status", "How a worker is", report, _answers(DONE)),
            ("POST", "delete_requests", "Requests that are over on a worker", ended, _answers(DONE)),
        ):
            found.append(
                Operation(
                    method=method,
                    path=f"{prefix}/{name}/",
                    tag=WORKERS,
                    summary=summary,
                    description="Workers show their `MASTER_TOKEN` as `mtoken`." if request else "",
                    other_requests=request,
                    parameters=parameters,
                    answers=answers,
                    need=Need.FREE,
                )
            )
    return found


def _looks() -> Sequence[Operation]:
    workers = Answer(description="Workers.", schema=LIST)
    logs = Answer(
        description="Texts: who came and went, who was given what, why, and last reports.",
        schema=_object("info0", "info1", "trace", "debug", info0=TEXT, info1=TEXT, trace=TEXT, debug=TEXT),
    )
    tail: Mapping[str, Any] = {"type": "integer", "description": "Bytes of each text; -1 = all."}
    return [
        Operation(
            method="POST",
            path=f"/get_{of}_{what}/",
            tag=LOOKING,
            summary=f"{what.capitalize()} of an endpoint" if of == "endpoint" else f"{what.capitalize()} of a group",
            description=KEY,
            other_requests=_body("id", id=WHOLE, **({"tail": tail} if what == "logs" else {})),
            answers=_answers(answer, HTTPStatus.FORBIDDEN),
        )
        for of in ("endpoint", "workergroup", "autogroup")
        for what, answer in (("workers", workers), ("logs", logs))
    ]


def _update() -> Operation:
    """The route is ``router.scaling``'s, which starts workers."""
    begun = _object("success", success=FLAG, workers_to_update=WHOLE, cancelled=FLAG, error_msg=TEXT)
    return Operation(
        method="POST",
        path="/update_workers/",
        tag=LOOKING,
        summary="Update the workers of a group",
        description=f"One after the other, each when it has nothing to do. {KEY}",
        other_requests=_body("workergroup_id", workergroup_id=WHOLE, cancel_update=FLAG),
        answers=_answers(Answer(description="What was begun or called off.", schema=begun), HTTPStatus.FORBIDDEN),
    )


def _endpoints() -> Sequence[Operation]:
    path = "/api/v0/endptjobs/"
    scaling = dict.fromkeys(SCALING, NUMBER)
    many = Answer(description="With their keys.", schema=_object("success", "results", success=FLAG, results=LIST))
    one = Answer(description="With its key.", schema=_object("success", "result", success=FLAG, result=OBJECT))
    made = Answer(description="Its number.", schema=_object("success", "result", success=FLAG, result=WHOLE))
    new = _body("endpoint_name", endpoint_name=TEXT, **scaling)
    return [
        _console("GET", path, "Endpoints that the key reaches", many),
        _console("POST", path, "Make an endpoint", made, HTTPStatus.CONFLICT, request=new),
        _console("GET", path, "An endpoint", one, named=True),
        _console("PUT", path, "Change an endpoint's scaling", DONE, named=True, request=_body(**scaling)),
        _console("DELETE", path, "Remove an endpoint that was made here", DONE, named=True),
    ]


def _groups() -> Sequence[Operation]:
    many = Answer(description="Groups.", schema=_object("success", "results", success=FLAG, results=LIST))
    made = Answer(description="Its number.", schema=_object("success", "id", success=FLAG, id=WHOLE, result=WHOLE))
    most = {"max_workers": WHOLE}
    new = _body(endpoint_id=WHOLE, endpoint_name=TEXT, **most)
    return [
        operation
        for path in ("/api/v0/workergroups/", "/api/v0/autojobs/")
        for operation in (
            _console("GET", path, "Worker groups", many),
            _console("POST", path, "Add a worker group to an endpoint", made, request=new),
            _console("PUT", path, "Change a worker group", DONE, named=True, request=_body(**most)),
            _console("DELETE", path, "Remove a worker group", DONE, named=True),
        )
    ]


def _console(
    method: str,
    path: str,
    summary: str,
    answer: Answer,
    *refusals: HTTPStatus,
    named: bool = False,
    request: Mapping[str, Mapping[str, Any]] | None = None,
) -> Operation:
    return Operation(
        method=method,
        path=f"{path}{{id}}/" if named else path,
        tag=CONSOLE,
        summary=summary,
        description=KEY,
        other_requests=request or {},
        parameters=(ID,) if named else (),
        answers=_answers(answer, HTTPStatus.FORBIDDEN, *refusals),
    )


def _certificates() -> Sequence[Operation]:
    pem = Answer(description="PEM.", media_type=PEM_TYPE, schema=TEXT)
    return [
        Operation(
            method="GET",
            path="/static/jvastai_root.cer",
            tag=WORKERS,
            summary="The authority behind workers' certificates",
            answers={HTTPStatus.OK: pem},
            need=Need.FREE,
        ),
        Operation(
            method="POST",
            path="/api/v0/sign_cert/",
            tag=WORKERS,
            summary="A certificate for a worker",
            description="For the address that asks, from a request in PEM; with a worker's token as Bearer also for "
            "the names in the request.",
            other_requests={"application/octet-stream": TEXT},
            answers=_answers(pem),
            need=Need.FREE,
        ),
    ]
