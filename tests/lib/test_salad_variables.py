"""Every variable of Salad's comfyui-api: accepted, with the meaning that its page gives it; native names win."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.settings import BenchmarkSettings
from docs.build_reference import TARGET
from docs.outside import NOT_READ
from lib.serving.access import keys_required
from lib.settings import (
    AccessSettings,
    ServerSettings,
    Settings,
    SettingsError,
    child_environment,
    load_settings,
)
from provisioning.settings import read_host_settings, read_install_settings

Read = Callable[[Settings], object]


def secret(value: Any) -> object:
    return value.get_secret_value() if value is not None else None


ROWS: list[tuple[str, str, Read, object]] = [
    ("ALWAYS_RESTART_COMFYUI", "TRUE", lambda s: s.engine.always_restart, True),
    ("ALWAYS_RESTART_COMFYUI", "false", lambda s: s.engine.always_restart, False),
    ("CMD", "comfy launch -- --listen *", lambda s: s.engine.command, "comfy launch -- --listen *"),
    ("COMFY_HOME", "/opt/ComfyUI", lambda s: s.engine.install_path, Path("/opt/ComfyUI")),
    ("COMFYUI_PORT_HOST", "8190", lambda s: s.engine.port, 8190),
    ("DIRECT_ADDRESS", "127.0.0.2", lambda s: s.engine.address, "127.0.0.2"),
    ("HOST", "::", lambda s: s.server.api_host, "::"),
    ("PORT", "3000", lambda s: s.server.api_port, 3000),
    ("INPUT_DIR", "/data/in", lambda s: s.engine.input_path, Path("/data/in")),
    ("OUTPUT_DIR", "/data/out", lambda s: s.engine.output_path, Path("/data/out")),
    ("MODEL_DIR", "/data/models", lambda s: s.salad.models_dir, Path("/data/models")),
    ("WORKFLOW_DIR", "/data/flows", lambda s: s.salad.workflows_folder, Path("/data/flows")),
    *(
        ("LOG_LEVEL", word, lambda s: s.telemetry.log_level.upper(), level)
        for word, level in (
            ("trace", "DEBUG"), ("debug", "DEBUG"), ("info", "INFO"), ("warn", "WARN"), ("error", "ERROR"),
            ("fatal", "FATAL"),
        )
    ),
    ("MARKDOWN_SCHEMA_DESCRIPTIONS", "false", lambda s: s.salad.markdown_descriptions, False),
    ("MAX_BODY_SIZE_MB", "3", lambda s: s.server.max_body_bytes, 3 << 20),
    ("MAX_QUEUE_DEPTH", "4", lambda s: s.salad.max_queue_depth, 4),
    ("PROMPT_WEBHOOK_RETRIES", "0", lambda s: s.delivery.salad_webhook_attempts, 0),
    ("STARTUP_CHECK_INTERVAL_S", "2", lambda s: s.engine.probe_interval_ms, 2000.0),
    ("STARTUP_CHECK_MAX_TRIES", "30", lambda s: s.engine.startup_timeout_s, 30.0),
    ("SYSTEM_META_batch", "abc", lambda s: dict(s.salad.system_metadata), {"batch": "abc"}),
    ("SYSTEM_WEBHOOK_EVENTS", "status,executed", lambda s: s.salad.system_webhook_events, ("status", "executed")),
    ("SYSTEM_WEBHOOK_URL", "https://h/x", lambda s: s.salad.system_webhook_url, "https://h/x"),
    ("AWS_REGION", "eu-west-1", lambda s: s.salad.aws_region, "eu-west-1"),
    ("AWS_DEFAULT_REGION", "eu-west-2", lambda s: s.salad.aws_region, "eu-west-2"),
    ("AWS_ACCESS_KEY_ID", "k", lambda s: secret(s.salad.aws_access_key_id), "k"),
    ("AWS_SECRET_ACCESS_KEY", "k", lambda s: secret(s.salad.aws_secret_access_key), "k"),
    ("AWS_SESSION_TOKEN", "k", lambda s: secret(s.salad.aws_session_token), "k"),
    ("AWS_ENDPOINT_URL", "http://s3:9000", lambda s: s.salad.aws_endpoint_url, "http://s3:9000"),
    ("CACHE_DIR", "/cache", lambda s: s.inputs_folder, Path("/cache/pyworker")),
    ("HF_TOKEN", "k", lambda s: secret(s.salad.hf_token), "k"),
    ("PREPEND_FILENAMES", "false", lambda s: s.salad.prepend_filenames, False),
    ("HTTP_AUTH_HEADER_NAME", "X-Key", lambda s: s.salad.http_header_name, "X-Key"),
    ("HTTP_AUTH_HEADER_VALUE", "k", lambda s: secret(s.salad.http_header_value), "k"),
    ("AZURE_STORAGE_CONNECTION_STRING", "k", lambda s: secret(s.salad.azure_connection_string), "k"),
    ("AZURE_STORAGE_ACCOUNT", "a", lambda s: s.salad.azure_account, "a"),
    ("AZURE_STORAGE_KEY", "k", lambda s: secret(s.salad.azure_key), "k"),
    ("AZURE_STORAGE_SAS_TOKEN", "k", lambda s: secret(s.salad.azure_sas_token), "k"),
    ("LRU_CACHE_SIZE_GB", "1.5", lambda s: s.salad.models_quota_bytes, 3 << 29),
    ("WEBHOOK_SECRET", "k", lambda s: secret(s.delivery.webhook_secret), "k"),
    ("HTTP_PROXY", "http://p:1", lambda s: secret(s.storage.http_proxy), "http://p:1"),
    ("HTTPS_PROXY", "http://p:2", lambda s: secret(s.storage.https_proxy), "http://p:2"),
    ("NO_PROXY", "a,b", lambda s: s.storage.no_proxy, ("a", "b")),
    *(
        (f"SALAD_{name.upper()}", "x", lambda s: s.salad.cloud, {f"salad_{name}": "x"})
        for name in (
            "machine_id", "container_group_id", "container_group_name", "organization_name", "organization_id",
            "project_name", "project_id", "instance_id",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "read", "meant"), ROWS, ids=[f"{row[0]}={row[1]}" for row in ROWS])
def test_it_means_what_it_meant(name: str, value: str, read: Read, meant: object) -> None:
    """Set alone; and it is no default of ours, or the row would prove nothing."""
    assert read(load_settings({name: value})) == meant
    if name not in ("ALWAYS_RESTART_COMFYUI", "LOG_LEVEL"):
        assert read(load_settings({})) != meant


@pytest.mark.parametrize(
    ("variable", "read"),
    [
        ("COMFY_HOME", lambda: read_install_settings().install_path),
        ("MANIFEST", lambda: read_host_settings().manifest_path),
        ("MANIFEST_JSON", lambda: secret(read_host_settings().manifest_json)),
        ("HF_TOKEN", lambda: secret(read_host_settings().hf_token)),
        ("WARMUP_PROMPT_FILE", lambda: BenchmarkSettings().warmup_prompt_file),
        ("WARMUP_PROMPT_URL", lambda: secret(BenchmarkSettings().warmup_prompt_url)),
    ],
)
def test_others_read_theirs(variable: str, read: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Provisioning and the boot benchmark."""
    monkeypatch.delenv(variable, raising=False)
    assert read() is None
    monkeypatch.setenv(variable, "/x")
    assert str(read()) == "/x"


@pytest.mark.parametrize(
    ("environ", "read", "meant"),
    [
        ({"API_HOST": "127.0.0.1", "HOST": "::"}, lambda s: s.server.api_host, "127.0.0.1"),
        ({"API_PORT": "1", "PORT": "2"}, lambda s: s.server.api_port, 1),
        ({"COMFYUI_PORT": "1", "COMFYUI_PORT_HOST": "2"}, lambda s: s.engine.port, 1),
        ({"COMFYUI_INSTALL_PATH": "/a", "COMFY_HOME": "/b"}, lambda s: s.engine.install_path, Path("/a")),
        ({"COMFYUI_CMD": "a", "CMD": "b"}, lambda s: s.engine.command, "a"),
        ({"MAX_BODY_BYTES": "2048", "MAX_BODY_SIZE_MB": "1"}, lambda s: s.server.max_body_bytes, 2048),
        (
            {"COMFYUI_STARTUP_TIMEOUT_S": "900", "STARTUP_CHECK_MAX_TRIES": "20"},
            lambda s: s.engine.startup_timeout_s,
            900.0,
        ),
        (
            {"COMFY_API_AVAILABLE_INTERVAL_MS": "50", "STARTUP_CHECK_INTERVAL_S": "5"},
            lambda s: s.engine.probe_interval_ms,
            50.0,
        ),
        ({"MODELS_CACHE_BYTES": "7", "LRU_CACHE_SIZE_GB": "1"}, lambda s: s.salad.models_quota_bytes, 7),
    ],
)
def test_native_names_win(environ: dict[str, str], read: Read, meant: object) -> None:
    """Whoever knows ours means ours."""
    assert read(load_settings(environ)) == meant


def test_its_defaults_do_not_shorten_our_start() -> None:
    """comfyui-api gives ComfyUI 20 seconds by default; it has that limit here only where somebody sets it."""
    assert load_settings({}).engine.startup_timeout_s == 600.0
    both = load_settings({"STARTUP_CHECK_MAX_TRIES": "30", "STARTUP_CHECK_INTERVAL_S": "4"})
    assert (both.engine.startup_timeout_s, both.engine.probe_interval_ms) == (120.0, 4000.0)
    assert load_settings({"STARTUP_CHECK_INTERVAL_S": "4"}).engine.startup_timeout_s == 600.0


@pytest.mark.parametrize(
    "name", ["MAX_BODY_SIZE_MB", "STARTUP_CHECK_INTERVAL_S", "STARTUP_CHECK_MAX_TRIES", "COMFYUI_PORT_HOST"]
)
def test_a_wrong_number_stops_the_start(name: str) -> None:
    """As in comfyui-api, which wants positive whole ones; with the variable's name."""
    for value in ("-1", "1.5", "many"):
        with pytest.raises(SettingsError, match=f"{name}="):
            load_settings({name: value})


@pytest.mark.parametrize("name", sorted({*(row[0] for row in ROWS), "MANIFEST", "MANIFEST_JSON", "WARMUP_PROMPT_URL"}))
def test_the_reference_lists_it(name: str) -> None:
    """With the other names of the same setting."""
    shown = "SYSTEM_META_*" if name.startswith("SYSTEM_META_") else name
    assert f"`{shown}`" in TARGET.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["BASE", "ANTHROPIC_API_KEY", "MINIMAX_API_KEY"])
def test_what_means_nothing_here_is_said(name: str) -> None:
    """It changes nothing, and the reference says why."""
    assert load_settings({name: "ai-dock"}) == load_settings({})
    assert name in NOT_READ and f"`{name}`" in TARGET.read_text(encoding="utf-8")


def test_every_address_is_beyond_loopback() -> None:
    """The usual HOST asks for API keys, or for a word that there shall be none."""
    with pytest.raises(SettingsError, match="API_HOST=::"):
        keys_required(ServerSettings(api_host="::"), AccessSettings(), key_count=0)
    assert keys_required(ServerSettings(api_host="::"), AccessSettings(), key_count=1)


def test_secrets_of_it_do_not_reach_comfyui(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI is told comfyui-api's variables, but nobody's keys."""
    keys = ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY", "HF_TOKEN", "HTTP_AUTH_HEADER_VALUE", "WEBHOOK_SECRET")
    for name in (*keys, "MODEL_DIR"):
        monkeypatch.setenv(name, "x")
    seen = child_environment({"COMFYUI_PORT_HOST": "1"})
    assert seen["MODEL_DIR"] == "x" and seen["COMFYUI_PORT_HOST"] == "1"
    assert not set(keys) & set(seen)
