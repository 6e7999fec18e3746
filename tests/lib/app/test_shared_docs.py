"""What the docs page says about paths that several dialects have."""

from pydantic import BaseModel

from lib.app.shared_docs import once
from lib.serving.openapi import Answer, Operation, Parameter

ACTS = {"/result/{job_id}": "show", "/status/{job_id}": "show", "/cancel/{job_id}": "cancel"}
MOUNTED = {("GET", "/result/{job_id}"), ("POST", "/status/{job_id}"), ("POST", "/cancel/{job_id}")}


class Ours(BaseModel):
    """One API's body."""


class Theirs(BaseModel):
    """Another one's."""


def asked(path: str, model: type[BaseModel], *, method: str = "GET", also: int = 200, **more: str) -> Operation:
    """An operation that answers 200, and something else."""
    wait = Parameter(name=more.get("parameter", "wait"), place="query", description="D", example=1)
    done = Answer(description=more.get("text", "Done."), model=model)
    answers = {also: Answer(description="So."), 200: done}
    return Operation(method=method, path=path, tag="T", summary="s", parameters=(wait,), answers=answers)


def test_a_shared_path_is_told_once_with_the_answers_of_all() -> None:
    """By the first that has it; of the others also those that describe it for the same act on another path."""
    described = {
        "first": [asked("/result/{job_id}", Ours, also=422), asked("/own", Ours)],
        "second": [asked("/status/{job_id}", Theirs, method="POST", also=404, parameter="ttl", text="Now.")],
    }
    result, own, status = once(described, acts=ACTS, mounted=MOUNTED)
    assert [(item.method, item.path) for item in (result, own, status)] == [
        ("GET", "/result/{job_id}"),
        ("GET", "/own"),
        ("POST", "/status/{job_id}"),
    ]
    assert own == described["first"][1]
    assert (result.answers[200].models, status.answers[200].models) == ((Ours, Theirs), (Theirs, Ours))
    assert result.answers[200].description == "Done. `second`: Now."
    assert (result.answers[404].description, status.answers[422].description) == ("`second`: So.", "`first`: So.")
    assert (result.parameters, status.parameters) == (
        described["first"][0].parameters,
        described["second"][0].parameters,
    )
    assert result.description == "About a job of `second` it answers as that API does, and reads `ttl`."


def test_a_dialect_describes_what_it_does_not_mount() -> None:
    """It adds its answers, and no operation; another act's stay where they are."""
    described = {
        "first": [asked("/result/{job_id}", Ours), asked("/cancel/{job_id}", Ours, method="POST")],
        "second": [asked("/result/{job_id}", Theirs), asked("/status/{job_id}", Theirs)],
    }
    result, cancel = once(described, acts=ACTS, mounted=MOUNTED)
    assert result.answers[200].models == (Ours, Theirs)
    assert result.answers[200].description == "Done."
    assert cancel == described["first"][1]
