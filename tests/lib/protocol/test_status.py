"""The report bodies, field by field."""

import json

import pytest
from pydantic import ValidationError

from lib.protocol.status import DeletedRequest, DeleteRequests, RequestOutcome, WorkerFacts, WorkerStatus

FIELDS = {
    "id", "mtoken", "version", "loadtime", "cur_load", "new_load", "rej_load", "cur_perf", "max_perf", "error_msg",
    "num_requests_working", "num_requests_recieved", "additional_disk_usage", "disk_usage", "working_request_idxs",
    "cur_capacity", "max_capacity", "url",
}  # fmt: skip


def test_a_status_has_the_eighteen_fields_and_no_nulls() -> None:
    """Vast's own spelling, an integer id, zero capacities."""
    body = json.loads(WorkerStatus(id=12).to_json())
    assert set(body) == FIELDS
    assert len(FIELDS) == 18
    assert body["id"] == 12 and isinstance(body["id"], int)
    assert (body["cur_capacity"], body["max_capacity"]) == (0, 0)
    assert None not in body.values()


def test_a_partial_status_is_understood() -> None:
    """start_server.sh sends five fields; only id is required, unknown fields are ignored."""
    assert WorkerStatus.model_validate({"id": 1, "error_msg": "x", "news": 1}).error_msg == "x"
    with pytest.raises(ValidationError):
        WorkerStatus.model_validate({"error_msg": "x"})


def test_deleted_requests_have_the_shape_of_2026() -> None:
    """A list of objects with status and times."""
    item = DeletedRequest(request_idx=5, success=True, status=RequestOutcome.CANCELLED, entered_queue_at=1.5)
    assert json.loads(DeleteRequests(worker_id=1, mtoken="t", requests=(item,)).to_json()) == {
        "worker_id": 1,
        "mtoken": "t",
        "requests": [
            {
                "request_idx": 5,
                "success": True,
                "status": "Cancelled",
                "entered_queue_at": 1.5,
                "work_started_at": 0.0,
                "work_completed_at": 0.0,
            }
        ],
    }


def test_what_ours_add_stands_behind_vasts_report() -> None:
    """Its own part stays byte for byte; what is not known is left out."""
    status = WorkerStatus(id=12, url="http://me:1")
    facts = WorkerFacts(slots=2, engines=1, gpu_name="RTX", swap_s={"m": 1.5})
    body = facts.added_to(status)
    assert body.startswith(status.to_json()[:-1])
    added = {name: value for name, value in json.loads(body).items() if name not in FIELDS}
    assert added["slots"] == 2 and added["swap_s"] == {"m": 1.5} and added["gpu_name"] == "RTX"
    assert not {"models", "vram_gib", "backlog_s"} & set(added)
