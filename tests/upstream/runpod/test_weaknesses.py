"""Where worker-comfyui is wrong (section 7.1 of its reference, W1 to W24) and what its users ask for (7.2): each with
the tests that prove it of us. What other tests show is not shown here again; that they are there is."""

import re

import pytest

from tests.comfyui_fixture import REPOSITORY

API, FILES = "integration/test_runpod_api.py", "integration/test_runpod_files.py"
QUEUE, CLIENTS = "integration/test_runpod_queue.py", "integration/test_runpod_clients.py"
ENGINE, STANDALONE = "lib/comfy/test_engine.py", "integration/test_standalone_worker.py"
SHOWN = {
    "W1 a lost end marker": (
        f"{ENGINE}::test_a_lost_end_marker_is_made_up_for_by_the_history",
        f"{ENGINE}::test_a_dropped_socket_loses_no_prompt",
        "integration/test_faults_comfyui.py::test_a_socket_that_tells_nothing",
    ),
    "W2 cancel, timeout and the GPU": (
        f"{API}::test_cancel_reaches_the_gpu",
        f"{API}::test_execution_timeout_and_ttl",
        f"{QUEUE}::test_a_stop_interrupts_comfyui",
    ),
    "W3 REFRESH_WORKER": (
        f"{QUEUE}::test_each_job_may_end_in_a_new_worker",
        "lib/test_runpod_variables.py::test_a_clean_state_outside_of_runpod",
        "lib/comfy/test_engine_launched.py::test_settings_reach_the_process_and_a_planned_restart_costs_no_job",
    ),
    "W4 outputs of other kinds": (
        f"{FILES}::test_every_kind_of_output",
        f"{FILES}::test_files_under_other_keys",
    ),
    "W5 the error itself": (f"{FILES}::test_nothing_to_show", f"{CLIENTS}::test_a_failed_job_says_why"),
    "W6 an error before the history": (f"{FILES}::test_a_part_of_the_outputs",),
    "W7 a dead ComfyUI": (
        f"{STANDALONE}::test_kill_of_comfyui_during_a_job",
        f"{QUEUE}::test_no_job_is_taken_while_comfyui_is_down",
        f"{QUEUE}::test_a_worker_without_comfyui_is_unfit",
    ),
    "W8 holes in validation": (
        f"{API}::test_texts_that_clients_compare",
        "lib/dialects/runpod/test_golden.py::test_golden",
    ),
    "W9 progress": (f"{API}::test_progress_in_status_and_stream", f"{CLIENTS}::test_stream"),
    "W10 big results": (
        f"{QUEUE}::test_a_result_that_the_platform_would_refuse",
        f"{API}::test_a_file_that_is_too_large_for_an_answer",
    ),
    "W11 S3": (
        f"{FILES}::test_the_operators_bucket",
        f"{FILES}::test_a_bucket_that_refuses",
        "upstream/runpod/test_handler.py::test_bucket_endpoint_configured_but_env_vars_wrong_or_missing",
    ),
    "W12 a part of the graph is dropped": (f"{FILES}::test_outputs_that_comfyui_refuses",),
    "W13 what ComfyUI did not like": (
        f"{FILES}::test_a_graph_that_comfyui_refuses",
        "lib/comfy/test_faults.py::test_a_missing_model_is_told_with_what_is_there",
    ),
    "W14 cleaning, names": (
        f"{FILES}::test_pictures_of_one_name_belong_to_their_jobs",
        "lib/upkeep/test_sweep.py::test_on_a_full_disk_old_files_go_with_their_empty_folders",
    ),
    "W15 one job at a time": (f"{QUEUE}::test_two_jobs_are_in_hand_at_once",),
    "W16 the volume": (
        "provisioning/volume/test_folders.py::test_everything_that_worker_comfyui_maps_is_mapped",
        "provisioning/volume/test_paths.py::test_real_comfyui_finds_every_kind_on_the_volume",
        "provisioning/volume/test_survey.py::test_usual_mistakes_are_named",
    ),
    "W17 keys": (
        f"{API}::test_a_key_in_every_form",
        "provisioning/test_image_files.py::test_compose_is_one_service_on_loopback",
    ),
    "W18 tests that run": ("upstream/runpod/test_handler.py::test_queue_prompt",),
    "W19 fixed host and flags": (
        "lib/comfy/test_engine_launched.py::test_settings_reach_the_process_and_a_planned_restart_costs_no_job",
    ),
    "W20 versions": ("provisioning/test_image_files.py::test_versions_are_bounded",),
    "W21 outside RunPod it serves": (f"{API}::test_jobs_wait_for_the_start",),
    "W22 the local server": (
        "upstream/runpod/test_fastapi.py::test_status",
        f"{CLIENTS}::test_run_status_output",
        f"{FILES}::test_a_webhook_of_a_job_that_did_not_succeed",
    ),
    "W23 progress after the end": (f"{QUEUE}::test_progress_is_in_order_and_never_after_the_end",),
    "W24 URLs": (
        f"{FILES}::test_a_picture_that_cannot_be",
        "lib/storage/test_downloads.py::test_a_redirect_inward_is_refused",
        "lib/storage/test_downloads.py::test_a_rebinding_name_gains_nothing",
    ),
    "videos, sound, texts": (f"{FILES}::test_every_kind_of_output",),
    "pictures by URL": (f"{FILES}::test_a_picture_in_every_form", f"{QUEUE}::test_a_picture_by_url"),
    "a bucket of the request": (f"{FILES}::test_a_bucket_of_the_request",),
    "models and nodes of the volume": (
        "provisioning/volume/test_mount.py::test_file_of_paths_comes_and_goes_with_the_volume",
        "provisioning/volume/test_survey.py::test_node_packs_of_the_volume",
    ),
    "nodes that really import": (
        "provisioning/nodes/test_install.py::test_requirements_go_into_comfyuis_interpreter",
        "provisioning/nodes/test_check.py::test_real_comfyui_says_which_packs_import",
    ),
    "snapshots": ("provisioning/nodes/test_snapshot.py::test_everything_that_can_not_be_restored_is_named",),
    "examples that fit the image": ("provisioning/test_examples.py::test_graph_request_and_manifest_agree",),
    "cancel what waits": (f"{API}::test_a_waiting_job_is_cancelled",),
}


def test_each_weakness_has_its_row() -> None:
    """W1 to W24."""
    assert {row.split()[0] for row in SHOWN if row.startswith("W")} == {f"W{number}" for number in range(1, 25)}


@pytest.mark.parametrize("row", SHOWN)
def test_it_is_shown(row: str) -> None:
    """The tests that a row names are there."""
    for named in SHOWN[row]:
        path, _, name = named.partition("::")
        text = (REPOSITORY / "tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:async )?def {name}", text, re.MULTILINE), named
