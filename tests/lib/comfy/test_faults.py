"""From ComfyUI's errors to ours: named, scrubbed; ``tests/upstream/test_error_classifiers.py`` has the classes."""

import json
import subprocess
import sys

import pytest

from lib.comfy.faults import (
    MOST_CHARS,
    MOST_HINTS,
    MOST_TOLD,
    dropped,
    is_dead_executor,
    misfits,
    rejection,
    scrub,
    tell_of_dead_executor,
)
from lib.comfy.install import NODES
from lib.comfy.rewrite import Plan
from tests.fakes import workflows as w
from tests.fakes.comfyui_executor import LAST_WORDS


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("No such file: '/srv/in/job/x.png'", "No such file: 'x.png'"),
        ('File "/home/u/ComfyUI/execution.py", line 5', 'File "execution.py", line 5'),
        ("C:\\Users\\bob\\ComfyUI\\x.png is bad", "x.png is bad"),
        ("~/models/x.ckpt", "x.ckpt"),
        ("see https://host/a/b/c.png", "see https://host/a/b/c.png"),
        ("and/or 1/2/3, models/x", "and/or 1/2/3, models/x"),
        ("ratio 3/4 of 16:9", "ratio 3/4 of 16:9"),
    ],
)
def test_host_paths_shrink_to_their_last_name(text: str, scrubbed: str) -> None:
    """Links, fractions and relative names stay."""
    assert scrub(text) == scrubbed


def test_a_rejection_carries_comfyuis_own_objects_without_tracebacks() -> None:
    """``error`` and ``node_errors``, both."""
    problem = {
        "type": "exception_during_validation",
        "message": "Exception when validating node",
        "details": "'99'",
        "extra_info": {"exception_type": "KeyError", "traceback": ['  File "/opt/comfy/execution.py"']},
    }
    node_errors = {"3": {"errors": [problem], "dependent_outputs": ["3"], "class_type": "SaveImage"}}
    top = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""}
    error = rejection({"error": top, "node_errors": node_errors}, classes=(), choices=lambda *_: ())
    assert error.details["error"] == top
    assert error.message == "node 3 (SaveImage): Exception when validating node ('99')"
    text = json.dumps(dict(error.details))
    assert "traceback" not in text and "/opt" not in text


@pytest.mark.parametrize(
    "top",
    [
        {
            "type": "invalid_prompt",
            "message": "Cannot execute because node KSamplr does not exist.",
            "details": "Node ID '#2'",
            "extra_info": {},
        },
        {
            "type": "missing_node_type",
            "message": "Node 'My title' not found. The custom node may not be installed.",
            "details": "Node ID '#2'",
            "extra_info": {"node_id": "2", "class_type": "KSamplr", "node_title": "My title"},
        },
    ],
    ids=["0.3.75", "tip"],
)
def test_a_missing_class_comes_with_near_names(top: dict[str, object]) -> None:
    """In both versions' words."""
    error = rejection({"error": top, "node_errors": {}}, classes=("KSampler", "SaveImage"), choices=lambda *_: ())
    assert "did you mean KSampler?" in error.message
    assert "#2" in error.message
    assert error.details["nearest"] == {"KSamplr": ["KSampler"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "is not among this ComfyUI's files; there are none"),
        (("sd15.safetensors",), "is not among this ComfyUI's files; expected one of: sd15.safetensors"),
        (("flux1-dev.safetensors", "sd15.ckpt"), "is not among this ComfyUI's files; nearest: flux1-dev.safetensors"),
        (("euler", "heun"), "is not a valid choice; expected one of: euler, heun"),
    ],
)
def test_a_missing_model_is_told_with_what_is_there(options: tuple[str, ...], expected: str) -> None:
    """Nearest names, else some of them, else that there are none."""
    problem = {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "...",
        "extra_info": {"input_name": "unet_name", "received_value": "flux-dev.safetensors", "input_config": None},
    }
    body = {"error": {}, "node_errors": {"1": {"errors": [problem], "class_type": "UNETLoader"}}}
    error = rejection(body, classes=(), choices=lambda *_: options)
    assert "node 1 (UNETLoader), input unet_name: 'flux-dev.safetensors'" in error.message
    assert expected in error.message


def test_many_errors_are_summed_up() -> None:
    """Five sentences, then a number; the details have them all."""
    problem = {"type": "required_input_missing", "message": "Required input is missing", "details": "x"}
    nodes = {str(index): {"errors": [problem], "class_type": "A"} for index in range(9)}
    error = rejection({"error": {}, "node_errors": nodes}, classes=(), choices=lambda *_: ())
    assert error.message.endswith("and 4 more")
    assert len(error.details["node_errors"]) == 9  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "dead"),
    [
        ("Exception in thread Thread-7 (prompt_worker):", True),
        ("pyworker: the executor thread has ended", True),
        ("Exception in thread Thread-7 (other):", False),
        ("invalid prompt: {'x': 'Exception in thread Thread-7 (prompt_worker)'}", False),
        ("Value not in list: pyworker: the executor thread has ended", False),
    ],
)
def test_only_a_whole_line_tells_that_the_executor_died(line: str, dead: bool) -> None:
    """Callers' words are logged inside other lines; who writes one must not be able to restart ComfyUI."""
    assert is_dead_executor(line) is dead


def test_a_traceback_that_nobody_caught_is_known_without_its_first_line() -> None:
    """ComfyUI keeps the last writes only, and each piece of such a traceback is one."""
    assert tell_of_dead_executor(LAST_WORDS)
    assert tell_of_dead_executor(LAST_WORDS[4:])
    logged = "!!! Exception during processing !!!\n" + "".join(LAST_WORDS[3:])
    assert not tell_of_dead_executor(["got prompt\n", logged, "Prompt executed in 0.01 seconds\n"])
    assert not tell_of_dead_executor([])


@pytest.mark.parametrize("nodes", [None, [], {"1": None}, {"1": {"errors": None}}, {"1": {"errors": ["x"]}}, "x"])
def test_a_refusal_of_an_odd_shape_is_still_a_refusal(nodes: object) -> None:
    """Whatever ComfyUI's answer looks like."""
    reply = {"error": {"message": "no"}, "node_errors": nodes}
    assert misfits(reply) == frozenset()
    assert "no" in rejection(reply, classes=(), choices=lambda *_: ()).message


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt()", "ValueError('x')"])
def test_the_node_pack_makes_the_executor_say_that_it_ended(raised: str) -> None:
    """Last of all, so that it is in what ComfyUI keeps of its log; other threads end as ever."""
    program = (
        "import runpy, sys, threading\n"
        f"runpy.run_path({str(NODES / 'pyworker_watch.py')!r})\n"
        f"def prompt_worker(): raise {raised}\n"
        "def other(): sys.exit()\n"
        "for work in (prompt_worker, other):\n"
        "    thread = threading.Thread(target=work)\n"
        "    thread.start()\n"
        "    thread.join()\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240
    ).stderr
    assert is_dead_executor(said.splitlines()[-1])
    assert said.count("pyworker:") == 1
    assert ("Traceback" in said) is not raised.startswith("SystemExit")


def test_not_every_wrong_value_of_thousands_is_looked_up() -> None:
    """A search for what was meant takes milliseconds; the first ones tell enough, and the same one is searched once."""

    def wrong(value: str) -> dict[str, object]:
        info = {"input_name": "ckpt_name", "received_value": value}
        return {"class_type": "L", "errors": [{"type": "value_not_in_list", "message": "", "extra_info": info}]}

    nodes: dict[str, object] = {str(number): wrong(f"b{number}.safetensors") for number in range(300)}
    nodes["0"] = {**wrong("b"), "dependent_outputs": [str(number) for number in range(300)]}
    error = rejection({"node_errors": nodes}, classes=[], choices=lambda *_: ["a.safetensors"])
    assert len(error.details["nearest"]) == MOST_HINTS  # type: ignore[arg-type]
    assert len(error.details["node_errors"]) == MOST_TOLD  # type: ignore[arg-type]
    assert len(error.details["node_errors"]["0"]["dependent_outputs"]) == MOST_TOLD  # type: ignore[index]


def test_each_refused_output_is_told_why_in_comfyuis_words() -> None:
    """By what it really needs, whatever ComfyUI lists as dependent; briefly, and without host paths."""
    graph = {
        "1": w.empty(),
        "2": w.node("ImageScale", image=["1", 0]),
        "3": w.node("SaveImage", images=["2", 0]),
        "4": w.node("SaveImage", images=["1", 0]),
        "5": w.node("SaveImage", images=["2", 0]),
    }
    planned = Plan(graph=graph, wanted=("4", "5", "3"), folder="f")
    long = [{"message": "Value not in list", "details": "file: '/opt/secret/a.png' not in " + "x" * 10_000}]
    missing = [{"message": "Required input is missing", "details": "filename_prefix"}, "rubbish"]
    reply = {
        "node_errors": {
            "2": {"errors": long, "dependent_outputs": ["3", "4", "5"], "class_type": "ImageScale"},
            "5": {"errors": missing, "class_type": "SaveImage"},
            "9": {"errors": missing},
        }
    }
    fifth, third = dropped(reply, planned)
    words = "was dropped: node 2 (ImageScale): Value not in list: file: 'a.png' not in xxx"
    assert third.startswith(f"Output node 3 (SaveImage) {words}") and fifth.startswith(
        f"Output node 5 (SaveImage) {words}"
    )
    assert fifth.endswith("xxx...; node 5 (SaveImage): Required input is missing: filename_prefix")
    assert max(map(len, (third, fifth))) <= MOST_CHARS
    reply["node_errors"]["2"] = None  # type: ignore[assignment]
    assert dropped(reply, planned)[0] == (
        "Output node 5 (SaveImage) was dropped: node 2 (?): not accepted; "
        "node 5 (SaveImage): Required input is missing: filename_prefix"
    )
    assert dropped({"node_errors": []}, planned) == ()
