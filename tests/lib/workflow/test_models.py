"""Large models of a graph, by the names that workers and routers both use."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.workflow.models import large_models, large_models_of

GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": 'sd\\x "é".safetensors'}},
    "2": {"class_type": "UnetLoaderGGUF", "inputs": {"unet_name": "flux.GGUF", "clip_name": "t5.safetensors"}},
    "3": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "https://host/a.safetensors"}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ["1", 0]}},
    "5": {"class_type": "Text", "inputs": {"text": '"ckpt_name": "no.safetensors"'}},
    "6": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": 'sd\\x "é".safetensors'}},
    "7": {"class_type": "Other", "inputs": {"unet_name": "not a file"}},
}
FOUND = ('sd\\x "é".safetensors', "flux.GGUF")


@pytest.mark.parametrize("ascii_only", [True, False])
def test_checkpoints_and_diffusion_models_are_large(ascii_only: bool) -> None:
    """Links, URLs and texts are not; the bytes say the same as the graph, however they are written."""
    assert large_models(GRAPH) == FOUND
    assert large_models_of(json.dumps(GRAPH, indent=2, ensure_ascii=ascii_only).encode()) == FOUND


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_nonsense_is_survived(value: Any) -> None:
    """Callers are strangers."""
    graph = value if isinstance(value, dict) else {"1": value}
    assert large_models(graph) == () == large_models_of(json.dumps(graph).encode())


def test_a_broken_text_is_survived() -> None:
    """It is looked through before anybody checked it, and takes no longer for it."""
    assert large_models_of(b'"ckpt_name": "\\ud800\\x.ckpt", "unet_name": "' + b"\\a" * 100_000) == ()
