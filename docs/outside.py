"""What the code says nowhere itself: variables without a class of settings, routes outside the OpenAPI document."""

STARTER = {
    "BACKEND": ("`comfyui-json`", "Folder under `workers/` that is started."),
    "COMFYUI_TEST_DIR": ("`.comfyui`", "`make`: where the ComfyUI of the tests lies."),
    "IS_DEPLOYMENT": ("false", "Vast's deployments are not served here: true stops the start with a message."),
    "PYTHON": ("-", "Python 3.11 or newer that makes the environment; else one is looked for."),
    "PYWORKER_REF": ("-", "Tag, branch or commit of this project that an update checks out."),
    "PYWORKER_VENV": ("`.venv`", "Folder of the Python environment."),
    "PYWORKER_VERSION": ("`0`", "`version` in the report of a start that failed."),
    "URL": ("-", "`url` in the report of a start that failed."),
}
"""Variables that only ``start_server.sh``, the launcher and the Makefile read: default and meaning."""
IMAGE = {
    "BASE_IMAGE": ("`python:3.12-slim-bookworm`", "Build argument: any Debian or Ubuntu with Python 3.11 or newer."),
    "COMFYUI_VERSION": ("`v0.3.75`", "Build argument: tag, branch or commit of ComfyUI; `latest` = the newest commit."),
    "CUDA_VERSION_FOR_COMFY": ("-", "Build argument: torch from PyTorch's index for that CUDA, for example `12.6`."),
    "MODEL_TYPE": ("`sd15`", "Build argument: the folder under `examples/` whose models are in the image."),
    "PUBLIC_KEY": ("-", "sshd is started, and opens for this key."),
    "PYTORCH_INDEX_URL": ("-", "Build argument: another package index for torch."),
}
"""What only the image for RunPod knows (``provisioning/runpod``): default and meaning."""
NOT_READ = {
    "ANTHROPIC_API_KEY": "Drafts of workflow endpoints (`python -m lib.workflow draft`) are made offline, by no model.",
    "BASE": "It names an image whose environment comfyui-api sources; ComfyUI is asked for its samplers here.",
    "ENABLE_PYTORCH_UPGRADE": "worker-comfyui's build argument; here `PYTORCH_INDEX_URL` alone says it.",
    "HUGGINGFACE_ACCESS_TOKEN": "worker-comfyui's build argument, kept in its image; ours: the secret `HF_TOKEN`.",
    "MINIMAX_API_KEY": "As `ANTHROPIC_API_KEY`.",
    "WEBSOCKET_MESSAGE_TIMEOUT": "Proposed for worker-comfyui; see `COMFYUI_HISTORY_POLL_S` for quiet prompts.",
}
"""Variables of the programs whose users we serve that mean nothing here: why."""
INTERNAL = frozenset({"BASH_SOURCE", "DEBIAN_FRONTEND", "HOME", "PYWORKER_HOST_READY", "PYWORKER_SECOND_INTERPRETER"})
"""Names in those files that nobody sets by hand."""
ROUTES = {
    "/": "Redirects to `/docs`.",
    "/docs": "The API page; works without internet.",
    "/docs/start.js": "Part of that page.",
    "/docs/{asset}": "Part of that page.",
    "/openapi.json": "The OpenAPI document.",
    "/internal/live": "What the clean-up's cron process asks: our folders, and paths that must stay.",
}
PUBLIC_ROUTES = {
    "/generate/sync": "Run a workflow and wait for its result, in Vast's envelope. Signed.",
    "/generate": "Run a workflow in the background, in Vast's envelope; the answer has the job's token. Signed.",
    "/generate/stream": "Run a workflow and follow it, in Vast's envelope. Signed.",
    "/result/{job_id}": "The state or the result of a job; `POST` in the envelope does the same. The job's token.",
    "/generate/stream/{job_id}": "The events of a job. The job's token.",
    "/cancel/{job_id}": "Cancel a job. The job's token.",
    "/outputs/{job_id}/{name}": "A file of a job. A signed link or the job's token.",
    "/session/create": "Open a session. Signed.",
    "/session/get": "What the session is. Its `session_auth`.",
    "/session/health": '`{"ok": true}` while it is open. Its `session_auth`.',
    "/session/end": "End it. Its `session_auth`.",
    "/pyworker/update": "Ask for an update at the next start. `Authorization: Bearer <MASTER_TOKEN>`.",
}
