"""Loaded by a ComfyUI that we launch, as a custom node pack without nodes; imports nothing of ComfyUI.

ComfyUI runs all prompts in one thread. A node that raises ``SystemExit`` ends that thread without a word, and the
server goes on taking prompts that never run. This pack makes the thread say so on stderr, where
``lib.comfy.process`` reads it.
"""

import sys
import threading

ENDED = "pyworker: the executor thread has ended"
_run = threading.Thread.run


def _watched(self):
    name = getattr(getattr(self, "_target", None), "__name__", "")
    try:
        _run(self)
    finally:
        if name == "prompt_worker":
            sys.stderr.write(ENDED + "\n")
            sys.stderr.flush()


threading.Thread.run = _watched

NODE_CLASS_MAPPINGS = {}
