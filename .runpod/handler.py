"""The file that RunPod's Hub looks for. The worker's handler of RunPod's queue is in ``lib.fleet.runpod``; this starts
it as the image does."""

import os
from pathlib import Path

START = Path(__file__).resolve().parent.parent / "provisioning" / "runpod" / "start.sh"

if __name__ == "__main__":
    os.execv(START, [str(START)])  # noqa: S606  # no shell is meant
