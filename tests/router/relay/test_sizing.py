"""What a request is worth by its graph, in every dialect's form; nothing of it is changed or refused in vain."""

import orjson
import pytest

from lib.errors import InvalidRequest
from lib.workflow.cost import measure
from lib.workflow.template import load_templates
from router.model import Priority
from router.relay.ports import Work
from router.relay.sizing import BIG_BODY_BYTES, RequestSizing

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"steps": 20, "seed": "__RANDOM_INT__", "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
    "6": {"class_type": "LoraLoader", "inputs": {"lora_name": "small.safetensors"}},
}


@pytest.fixture(scope="module")
def sizing() -> RequestSizing:
    return RequestSizing(load_templates())


async def sized(sizing: RequestSizing, dialect: str, body: object, *, path: str = "") -> Work:
    return await sizing.work("ep", dialect, orjson.dumps(body), path=path)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("wrapper", {"input": {"workflow_json": GRAPH}}),
        ("runpod", {"input": {"workflow": GRAPH}}),
        ("runpod", {"input": orjson.dumps({"workflow": GRAPH}).decode()}),
        ("salad", {"prompt": GRAPH}),
    ],
)
async def test_the_graph_says_it(sizing: RequestSizing, dialect: str, body: object) -> None:
    """The same graph has the same size, shape and models, wherever it stands."""
    work, estimate = await sized(sizing, dialect, body), measure(GRAPH)
    assert (work.cost, work.kind, work.dialect) == (estimate.units, estimate.shape, dialect)
    assert (work.models, work.family) == (("sd15.safetensors",), "sd15.safetensors")


async def test_a_modifier_is_its_template(sizing: RequestSizing) -> None:
    """With its values filled in; one that nobody here knows is of usual size, and the worker's to judge."""
    few, many = [
        await sized(sizing, "wrapper", {"input": {"modifier": "Text2Image", "modifications": {"steps": steps}}})
        for steps in (10, 40)
    ]
    assert many.cost > 3 * few.cost and few.models
    unknown = await sized(sizing, "wrapper", {"input": {"modifier": "Unknown"}})
    assert (unknown.cost, unknown.kind) == (100, "wrapper Unknown")
    bad = {"input": {"modifier": "Text2Image", "modifications": {"steps": "many"}}}
    assert (await sized(sizing, "wrapper", bad)).cost > 0


async def test_without_a_graph_the_path_is_the_kind(sizing: RequestSizing) -> None:
    """Salad's workflow endpoints are learned one by one."""
    work = await sized(sizing, "salad", {"input": {"prompt": "x"}}, path="/workflow/sd15/txt2img")
    assert work.kind == "salad /workflow/sd15/txt2img" and work.cost == 100


async def test_large_bodies_are_the_same(sizing: RequestSizing) -> None:
    """In a thread."""
    body = orjson.dumps({"input": {"workflow_json": GRAPH, "x": "y" * BIG_BODY_BYTES}})
    work = await sizing.work("ep", "wrapper", body)
    assert work.kind == measure(GRAPH).shape and work.input_mb == len(body) / 1e6


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"a": NaN}', b"[" * 100 + b"]" * 100])
async def test_what_is_no_json_object_is_refused(sizing: RequestSizing, body: bytes) -> None:
    """With its place."""
    with pytest.raises(InvalidRequest) as caught:
        await sizing.work("ep", "wrapper", body)
    assert caught.value.details["errors"]


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"3": None}, {"3": {"inputs": []}}, {"3": {"inputs": {}}}])
async def test_any_json_is_survived(sizing: RequestSizing, value: object) -> None:
    """What is no graph is the worker's to refuse."""
    for dialect in ("wrapper", "runpod", "salad"):
        for body in ({"input": value}, {"prompt": value}, {"input": {"workflow_json": value, "workflow": value}}):
            assert (await sized(sizing, dialect, body)).cost > 0


@pytest.mark.parametrize(
    ("dialect", "body", "patience_s"),
    [
        ("wrapper", {"input": {"sync_timeout_s": 2.5}}, 2.5),
        ("wrapper", {"input": {}}, None),
        ("salad", {"prompt": GRAPH, "webhook": ""}, None),
        ("salad", {"prompt": GRAPH, "webhook": "http://a"}, 0.0),
        ("salad", {"prompt": GRAPH, "webhook_v2": "http://a"}, 0.0),
        ("salad", {"prompt": GRAPH, "s3": {"bucket": "b", "async": True}}, 0.0),
        ("salad", {"prompt": GRAPH, "s3": {"bucket": "b"}, "http_upload": {"async": True}}, None),
    ],
)
async def test_how_long_its_caller_waits(
    sizing: RequestSizing, dialect: str, body: object, patience_s: float | None
) -> None:
    """To the end, or for as long as the body says."""
    assert (await sized(sizing, dialect, body)).patience_s == patience_s


async def test_low_priority_is_runpods(sizing: RequestSizing) -> None:
    """Its policy says it; else it is the tenant's."""
    body = {"input": {"workflow": GRAPH}, "policy": {"lowPriority": True}}
    assert (await sized(sizing, "runpod", body)).priority is Priority.LOW
    assert (await sized(sizing, "salad", body)).priority is None
