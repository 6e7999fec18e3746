"""Whose key pays for partner nodes, and that it is found nowhere afterwards."""

import pytest
from pydantic import SecretStr

from lib.comfy.partner import HIDDEN, hide, key_of, without
from lib.errors import EngineDied
from lib.jobs.model import Credential
from lib.settings import EngineSettings
from tests.fakes.jobs import spec

OWN, OPERATORS = "comfyui-callers-own", "comfyui-operators"


@pytest.mark.parametrize(
    ("own", "operators", "expected"),
    [
        (OWN, OPERATORS, OWN),
        (OWN, None, OWN),
        (None, OPERATORS, OPERATORS),
        ("", OPERATORS, OPERATORS),
        (None, None, None),
    ],
)
def test_the_callers_own_key_goes_first(own: str | None, operators: str | None, expected: str | None) -> None:
    """Keys of other kinds are for other things."""
    given = [Credential(kind="http", pattern="*", values={"api_key": "not this one"})]
    given += [Credential(kind="comfy_org", values={"api_key": own})] if own is not None else []
    settings = EngineSettings(comfy_org_api_key=SecretStr(operators) if operators else None)
    assert key_of(spec(credentials=tuple(given)), settings) == expected


def test_a_key_is_taken_out_of_any_depth() -> None:
    """Names of keys too; what is no key, or too short for one, changes nothing."""
    told = {"a": [f"x {OWN} y", ("b", OWN)], OWN: 1, "n": None}
    assert without(told, OWN) == {"a": [f"x {HIDDEN} y", ["b", HIDDEN]], HIDDEN: 1, "n": None}
    assert without(told, None) is told and without(told, "x") is told


def test_an_error_tells_its_story_without_the_key() -> None:
    """Message, text and details."""
    error = EngineDied(f"ended with {OWN}", started=True, details={"log_tail": [f"key={OWN}"]})
    hide(error, OWN)
    assert (error.message, str(error)) == ("ended with ***", "ended with ***")
    assert error.details == {"log_tail": ["key=***"]} and error.started
