"""What is read while the worker is put together."""

from pathlib import Path

import pytest

from lib.app.core import own_templates
from lib.settings import SettingsError


def test_a_mistake_in_the_operators_templates_names_its_variable(tmp_path: Path) -> None:
    """It is told in one sentence, as all mistakes in variables are."""
    assert "Text2Image" in own_templates(None)
    with pytest.raises(SettingsError, match=r"MODIFIERS_PATH: .*nowhere: expected a folder"):
        own_templates(tmp_path / "nowhere")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SettingsError, match=r"MODIFIERS_PATH: .*bad\.json: Invalid JSON"):
        own_templates(tmp_path)
