"""What the docs page says about paths that several dialects have: each one once, with the answers of them all.

A dialect describes what it answers about a job of its own, on any shared path, whether that path is its own or not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from lib.serving.openapi import Answer, Operation

Others = Mapping[str, Operation]
"""What the other dialects say about the same act, by their names."""


def once(
    described: Mapping[str, Sequence[Operation]],
    *,
    acts: Mapping[str, object],
    mounted: Collection[tuple[str, str]],
) -> list[Operation]:
    """Return the operations in their order; ``described`` has them by dialect. Of the shared ones (``acts``: what is
    done there, by path) those remain that are ``mounted`` (method and path), as the first dialect describes them; what
    the others answer is added."""
    left, found = set(mounted), []
    for name, operations in described.items():
        for operation in operations:
            if operation.path not in acts:
                found.append(operation)
            elif (place := (operation.method, operation.path)) in left:
                left.remove(place)
                found.append(_with(operation, _others(described, name, act=acts[operation.path], acts=acts)))
    return found


def _others(
    described: Mapping[str, Sequence[Operation]], name: str, *, act: object, acts: Mapping[str, object]
) -> Others:
    found: dict[str, Operation] = {}
    for other, operations in described.items():
        for operation in operations:
            if other != name and acts.get(operation.path) is act:
                found.setdefault(other, operation)
    return found


def _with(operation: Operation, others: Others) -> Operation:
    answers, text = dict(operation.answers), operation.description
    for name, other in others.items():
        text = f"{text} About a job of `{name}` it answers as that API does{_beside(operation, other)}.".lstrip()
        for status, answer in other.answers.items():
            own = answers.get(status)
            answers[status] = _either(own, answer, name) if own is not None else _said_of(answer, name)
    return replace(operation, description=text, answers=answers)


def _beside(operation: Operation, other: Operation) -> str:
    """Parameters that only the other one reads: no schema can say that what they hold matters for its jobs alone."""
    known = {item.name for item in operation.parameters}
    names = [f"`{item.name}`" for item in other.parameters if item.name not in known]
    return f", and reads {' and '.join(names)}" if names else ""


def _said(name: str, text: str) -> str:
    return f"`{name}`: {text}"


def _said_of(answer: Answer, name: str) -> Answer:
    return replace(answer, description=_said(name, answer.description))


def _either(first: Answer, second: Answer, name: str) -> Answer:
    text = first.description
    return replace(
        first,
        description=text if second.description == text else f"{text} {_said(name, second.description)}",
        model=tuple(dict.fromkeys((*first.models, *second.models))),
        headers={**second.headers, **first.headers},
    )
