"""lib.comfy.tracebacks: where it happened, in ComfyUI's own names."""

import pytest

from lib.comfy.faults import execution_error, scrub
from lib.comfy.messages import Failed, message_of
from lib.comfy.tracebacks import MOST_CHARS, MOST_FRAMES, told

EXECUTOR = '  File "/home/bob/ComfyUI/execution.py", line 510, in execute\n    output = await get_output_data()\n'


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/bob/ComfyUI/nodes.py", "nodes.py"),
        ("/home/bob/ComfyUI/custom_nodes/pack/a/b.py", "custom_nodes/pack/a/b.py"),
        ("/home/bob/ComfyUI/../.ssh/x.py", "x.py"),
        ("/home/bob/ComfyUI2/x.py", "x.py"),
        ("/srv/packs/pack/x.py", "x.py"),
        ("/usr/lib/python3.12/asyncio/runners.py", "runners.py"),
        ("/home/bob/ComfyUI/venv/lib/python3.12/site-packages/torch/nn/linear.py", "torch/nn/linear.py"),
        ("/usr/lib/python3/dist-packages/PIL/Image.py", "PIL/Image.py"),
        ("<string>", "<string>"),
        ("nodes.py", "nodes.py"),
    ],
)
def test_paths_begin_at_comfyuis_folder_or_a_packages(path: str, shown: str) -> None:
    """Its folder is where its executor is; of anything else the last name is told."""
    frames = told([EXECUTOR, f'  File "{path}", line 7, in run\n    x()\n'], scrub=scrub)
    assert frames[0].startswith('  File "execution.py", line 510, in execute\n')
    assert frames[1] == f'  File "{shown}", line 7, in run\n    x()\n'


def test_windows_paths_are_told_alike() -> None:
    """With forward slashes."""
    frames = [
        '  File "C:\\AI\\ComfyUI\\execution.py", line 1\n',
        '  File "C:\\AI\\ComfyUI\\nodes\\a.py", line 2, in b\n',
    ]
    assert told(frames, scrub=scrub) == ['  File "execution.py", line 1\n', '  File "nodes/a.py", line 2, in b\n']


def test_paths_in_code_go_too() -> None:
    """Of the lines of a frame, and of what is no frame."""
    code = '  File "/srv/x.py", line 1, in f\n    open("/srv/secret/keys/a.txt")\n'
    assert told([code, "see /srv/secret/b.txt"], scrub=scrub) == [
        '  File "x.py", line 1, in f\n    open("a.txt")\n',
        "see b.txt",
    ]


def test_the_innermost_frames_are_told() -> None:
    """Not more of them than help, and none of endless lines."""
    frames = told([EXECUTOR, *["x" * 5000] * 200], scrub=scrub)
    assert len(frames) == MOST_FRAMES and {len(frame) for frame in frames} == {MOST_CHARS}


@pytest.mark.parametrize("wanted", [True, False])
def test_an_error_has_it_where_it_is_wanted(wanted: bool) -> None:
    """What is no list of texts is none."""
    facts = {"prompt_id": "p", "node_id": "1", "node_type": "K", "exception_type": "E", "exception_message": "m"}
    failed = message_of("execution_error", facts | {"traceback": [EXECUTOR, 7]})
    assert isinstance(failed, Failed)
    details = execution_error(failed, traceback=wanted).details
    assert details.get("traceback") == (told([EXECUTOR], scrub=scrub) if wanted else None)
    odd = message_of("execution_error", facts | {"traceback": "no list"})
    assert isinstance(odd, Failed) and "traceback" not in execution_error(odd, traceback=True).details
