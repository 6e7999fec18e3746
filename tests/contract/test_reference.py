"""``docs/reference.md`` says what the code says, and the code can be described."""

import difflib

import pytest

from benchmark.settings import BenchmarkSettings, load_benchmark_settings
from docs import build_reference
from lib.settings import Settings, load_settings
from provisioning.settings import HostSettings, InstallSettings, read_host_settings, read_install_settings
from router.settings import RouterSettings, load_router_settings


def test_the_reference_is_up_to_date() -> None:
    """Whoever changes a setting, metric, code or route refreshes the page."""
    shown = build_reference.TARGET.read_text(encoding="utf-8") if build_reference.TARGET.exists() else ""
    wanted = build_reference.build()
    changes = "\n".join(difflib.unified_diff(shown.splitlines(), wanted.splitlines(), lineterm="", n=0))
    assert shown == wanted, f"docs/reference.md is out of date; run: {build_reference.COMMAND}\n{changes}"


def test_every_setting_has_a_sentence() -> None:
    """What stands in the table is a sentence that ends as one."""
    unsaid = [
        f"{heading}.{name}"
        for heading, _, name, info in build_reference.settings_fields()
        if not (info.description or "").endswith(".")
    ]
    assert unsaid == []


def test_variables_are_named_once() -> None:
    """No variable means two things; those that provisioning reads too mean the same there."""
    meanings: dict[str, set[str]] = {}
    for heading, _, name, info in build_reference.settings_fields():
        for variable in build_reference.variables(info):
            meanings.setdefault(variable, set()).add(f"{heading}.{name}")
    shared = {variable for variable, places in meanings.items() if len(places) > 1}
    assert shared == {
        *("COMFYUI_INSTALL_PATH", "COMFY_HOME", "WORKSPACE_DIR", "WORKSPACE", "BENCHMARK_JSON_PATH", "HF_TOKEN"),
    }


def test_only_documented_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that happens to be named like a field (``PYTHON``, ``port``) sets nothing."""
    known = {variable for *_, info in build_reference.settings_fields() for variable in build_reference.variables(info)}
    for variable in known:
        monkeypatch.delenv(variable, raising=False)
    untouched = _everything()
    for _, _, name, _ in build_reference.settings_fields():
        for variable in {name, name.upper()} - known:
            monkeypatch.setenv(variable, "7")
    for name in Settings.model_fields:
        monkeypatch.setenv(name, "{}")
    assert _everything() == untouched


def _everything() -> tuple[object, ...]:
    return (
        *(load_settings(), load_benchmark_settings(), read_install_settings()),
        *(read_host_settings(), load_router_settings()),
    )


@pytest.mark.parametrize("model", [BenchmarkSettings, InstallSettings, HostSettings, RouterSettings])
def test_an_empty_variable_counts_as_unset(model: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates set variables to nothing; that is the default, and no mistake."""
    for info in model.model_fields.values():  # type: ignore[attr-defined]
        for variable in build_reference.variables(info):
            monkeypatch.delenv(variable, raising=False)
    untouched = model()
    for info in model.model_fields.values():  # type: ignore[attr-defined]
        for variable in build_reference.variables(info):
            monkeypatch.setenv(variable, "")
    assert model() == untouched
