"""lib.comfy.tap: messages of the socket are passed on whole, under the callers' own ids."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lib.comfy.tap import pass_on
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.engine_world import engine_world, job_of
from tests.fakes.workflows import diffusion

NAMES = {"p1": "mine"}


@dataclass
class Ear:
    """A tap that remembers."""

    wanted: Collection[str]
    heard_: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def wants(self, kind: str) -> bool:
        return kind in self.wanted

    def heard(self, kind: str, message: dict[str, Any]) -> None:
        self.heard_.append((kind, message))


def test_ids_are_replaced_where_the_prompt_is_ours() -> None:
    """In the message and in each node's state; others keep theirs, and what else is there stays as it came."""
    ear = Ear({"progress_state"})
    nodes = {"3": {"value": 1, "prompt_id": "p1"}, "4": {"prompt_id": "p2"}}
    frame = {"type": "progress_state", "data": {"prompt_id": "p1", "nodes": nodes}, "sid": "s"}
    pass_on(ear, json.dumps(frame), NAMES.get)
    [(kind, message)] = ear.heard_
    assert kind == "progress_state" and message["sid"] == "s"
    assert message["data"]["prompt_id"] == "mine"
    assert message["data"]["nodes"] == {"3": {"value": 1, "prompt_id": "mine"}, "4": {"prompt_id": "p2"}}


def test_a_list_of_nodes_is_left_alone() -> None:
    """execution_cached names them by id alone."""
    ear = Ear({"execution_cached"})
    pass_on(ear, '{"type": "execution_cached", "data": {"nodes": ["p1"], "prompt_id": "p9"}}', NAMES.get)
    assert ear.heard_[0][1]["data"] == {"nodes": ["p1"], "prompt_id": "p9"}


@pytest.mark.parametrize(
    "frame", ['{"type": "logs", "data": {}}', '{"type": "status"', '{"type": "status", "data": 1}', "x"]
)
def test_what_is_not_wanted_or_not_readable_is_not_heard(frame: str) -> None:
    """Nothing breaks on it either."""
    ear = Ear({"status"})
    pass_on(ear, frame, NAMES.get)
    assert ear.heard_ == []


def test_numbers_that_json_does_not_know_are_read() -> None:
    """Python writes NaN; a third party's node may report it."""
    ear = Ear({"progress"})
    pass_on(ear, '{"type": "progress", "data": {"value": NaN, "prompt_id": "p1"}}', NAMES.get)
    assert ear.heard_[0][1]["data"]["prompt_id"] == "mine"


async def test_a_job_is_heard_from_start_to_success_under_its_request_id(tmp_path: Path) -> None:
    """One executed for its one output, one success, progress in between."""
    ear = Ear({"execution_start", "executed", "execution_success", "progress", "status"})
    async with (
        FakeComfyUI(tmp_path / "c") as fake,
        engine_world(comfyui=fake, root=fake.folder, fetched=tmp_path / "f", tap=ear) as world,
    ):
        await world.run(diffusion(), job=job_of("their-own-id"))
    kinds = [kind for kind, message in ear.heard_ if message["data"].get("prompt_id") == "their-own-id"]
    assert kinds[0] == "execution_start" and "progress" in kinds
    assert kinds.count("executed") == 1 and kinds[-1] == "execution_success"
    assert any(kind == "status" for kind, _ in ear.heard_)
