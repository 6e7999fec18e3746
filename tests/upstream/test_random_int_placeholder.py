"""``__RANDOM_INT__`` on its way from a request to what is posted to ComfyUI."""

import re
from typing import Any

import orjson
import pytest

from lib.comfy.inputs import InputPreparer
from lib.dialects.port import Planner
from lib.dialects.wrapper.translate import WrapperPayload
from lib.jobs.ids import new_job_id
from lib.settings import JobsSettings, StorageSettings
from lib.workflow.placeholders import TOKEN
from lib.workflow.template import load_templates
from tests.upstream.stand_ins import JOB

NOTHING: Any = None
TEMPLATES = load_templates()


async def posted(asked: dict[str, Any], *, job_id: str = "") -> Any:
    """The graph that a request's job posts."""
    planner = Planner(
        s3=lambda _: None,
        webhooks=lambda *_: (),
        put=lambda _: None,
        convert=lambda _: None,
        thumbnail=lambda _: None,
    )
    payload = WrapperPayload(templates=TEMPLATES, planner=planner, settings=JobsSettings())
    spec = payload.parse({"input": asked}, {})
    preparer = InputPreparer(
        placer=NOTHING,
        fetcher=NOTHING,
        rights=NOTHING,
        uploaded=NOTHING,
        settings=StorageSettings(),
        uploads=lambda _: (),
        options=lambda *_: (),
    )
    job = JOB.with_(job_id=job_id or new_job_id(), spec=spec)
    return (await preparer.prepare(job, orjson.loads(spec.workflow))).graph


async def inputs(**values: Any) -> dict[str, Any]:
    """One node's inputs, as they are posted."""
    graph = await posted({"workflow_json": {"1": {"class_type": "X", "inputs": values}}})
    found: dict[str, Any] = graph["1"]["inputs"]
    return found


async def test_a_whole_value_becomes_an_integer_in_range() -> None:
    """A JSON integer from 0 to 2**32 - 1, as ComfyUI's validation wants it."""
    seed = (await inputs(seed=TOKEN))["seed"]
    assert type(seed) is int and 0 <= seed <= 2**32 - 1


async def test_inside_a_longer_string_it_becomes_digits() -> None:
    """All in one string are the same number; it stays a string."""
    text = (await inputs(text=f"a {TOKEN} and {TOKEN}"))["text"]
    found = re.fullmatch(r"a (\d+) and (\d+)", text)
    assert found is not None and found[1] == found[2]


async def test_fields_are_independent() -> None:
    """Each string draws its own; so does each job."""
    drawn = list((await inputs(**{f"seed_{number}": TOKEN for number in range(20)})).values())
    assert len(set(drawn)) == 20
    assert (await inputs(seed=TOKEN)) != (await inputs(seed=TOKEN))


async def test_nested_objects_and_lists_are_reached() -> None:
    """At any depth; the keys stay."""
    nested = (await inputs(loras=[{"seed": TOKEN, TOKEN: 1}, [TOKEN]]))["loras"]
    assert type(nested[0]["seed"]) is int and type(nested[1][0]) is int
    assert nested[0][TOKEN] == 1


@pytest.mark.parametrize("value", ["_RANDOM_INT_", "RANDOMINT", "__random_int__", "__RANDOM_INT", 7, 1.5, True, None])
async def test_lookalikes_and_other_types_stay(value: Any) -> None:
    """Only the exact token counts."""
    assert (await inputs(value=value))["value"] is value or (await inputs(value=value))["value"] == value


async def test_a_modification_may_be_a_placeholder_and_a_job_keeps_its_number() -> None:
    """It is drawn after the template is filled; the same job prepared again is the same job."""
    asked = {"modifier": "Text2Image", "modifications": {"seed": TOKEN}}
    job_id = new_job_id()
    first, again = await posted(asked, job_id=job_id), await posted(asked, job_id=job_id)
    assert type(first["3"]["inputs"]["seed"]) is int
    assert first == again
