"""What a prompt carries through ComfyUI, and what is made of it afterwards."""

from datetime import UTC, datetime
from typing import Any

import pytest

from lib.comfy.catalog import Catalog, NodeClass
from lib.comfy.recall import is_owned, mark, recalled, shown, without_mark
from lib.comfy.rewrite import plan
from tests.fakes import workflows as w

CATALOG = Catalog({"SaveImage": NodeClass(is_output=True, has_prefix=True), "EmptyImage": NodeClass()})


def _item(graph: Any, extra: Any, outputs: Any = ("2",)) -> list[Any]:
    return [3, "id", graph, extra, list(outputs)]


def test_a_plan_comes_back_as_it_was() -> None:
    """Folder, graph and wanted nodes."""
    planned = plan(w.picture(), CATALOG, folder="job/2", nonce="n", now=datetime.now(UTC))
    extra = {"client_id": "c", **mark(planned, owner="me")}
    assert recalled(_item(planned.graph, extra), folder="other") == planned
    assert without_mark(extra) == {"client_id": "c"}
    paid = {"client_id": "c", **mark(planned, owner="me", api_key="k"), "auth_token_comfy_org": "t"}
    assert paid["api_key_comfy_org"] == "k" and without_mark(paid) == {"client_id": "c"}
    assert is_owned(_item({}, extra), "me")
    assert not is_owned(_item({}, extra), "you")


@pytest.mark.parametrize("extra", [None, [], {}, {"pyworker": 5}, {"pyworker": {"wanted": 3, "folder": ""}}])
def test_a_record_without_our_mark_is_read_as_far_as_it_goes(extra: object) -> None:
    """What ComfyUI ran is what was wanted; nobody owns it."""
    found = recalled(_item({"2": {}}, extra), folder="job")
    assert found is not None and (found.wanted, found.folder) == (("2",), "job")
    assert not is_owned(_item({}, extra), "") and not is_owned(_item({}, extra), "me")
    assert without_mark(extra) in (None, [], {})


@pytest.mark.parametrize("item", [[], [1, "id"], [1, "id", None, {}, []], [1, "id", {}, {}, None]])
def test_a_record_that_cannot_be_read_is_none(item: list[Any]) -> None:
    """Its prompt can't be followed."""
    assert recalled(item, folder="job") is None


def test_the_callers_graph_shows_what_ran_without_our_rewrites() -> None:
    """Values of the posted graph, own prefix, and the nodes that were pruned."""
    posted = w.picture("hw/a", color=5)
    planned = plan({**posted, "7": w.empty()}, CATALOG, folder="job", nonce="n", now=datetime.now(UTC))
    now = {**w.picture("hw/a", color=6), "7": w.empty(color=1)}
    assert shown(planned, now) == {**posted, "7": now["7"]}
