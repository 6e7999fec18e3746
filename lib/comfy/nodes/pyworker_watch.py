"""Loaded by a ComfyUI that we launch, as a custom node pack without nodes; imports nothing of ComfyUI.

ComfyUI runs all prompts in one thread. A node that raises ``SystemExit`` ends that thread without a word, and the
server goes on taking prompts that never run. This pack makes the thread say so on stderr, where
``lib.comfy.process`` reads it. An operator may put it into the ``custom_nodes`` of any other ComfyUI: then
``lib.comfy.follow`` finds the same line in what that keeps of its log.
"""

import sys
import threading

ENDED = "pyworker: the executor thread has ended"
_run = threading.Thread.run


def _watched(self):
    if getattr(getattr(self, "_target", None), "__name__", "") == "prompt_worker":
        _last_words(self)
    else:
        _run(self)


def _last_words(thread):
    """Tell of an uncaught exception here and not after us: ComfyUI keeps only the last writes to its log for whoever
    asks over HTTP, and our line has to be among them."""
    try:
        _run(thread)
    except BaseException:  # noqa: BLE001 - the thread ends with it either way
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), thread)))
    sys.stderr.write(ENDED + "\n")
    sys.stderr.flush()


threading.Thread.run = _watched

NODE_CLASS_MAPPINGS = {}
