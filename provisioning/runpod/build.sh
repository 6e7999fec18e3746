#!/usr/bin/env bash
# The steps of the image's build, each run once, as root on Debian or Ubuntu: build.sh tools|comfyui|models
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
source provisioning/runpod/versions.sh
here="$PWD/provisioning/runpod"

case "${1:-}" in
    tools)  # what start_server.sh wants, what node packs often want, sshd, tcmalloc; then our own environment
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        apt-get install -y -q --no-install-recommends ca-certificates curl git make \
            libgl1 libglib2.0-0 libgomp1 libtcmalloc-minimal4 openssh-server
        if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
            apt-get install -y -q --no-install-recommends python3 python3-venv
        fi
        rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*
        RUNPOD_WEBHOOK_GET_JOB=build ./start_server.sh --setup-only
        ln -sf "$here/comfy-node-install" "$here/comfy-manager-set-mode" /usr/local/bin/
        ;;
    comfyui)  # ComfyUI and torch with CUDA, although no GPU is here
        COMFYUI_DEVICE="${COMFYUI_DEVICE:-cuda}" .venv/bin/python -m provisioning comfyui
        ln -sfn "$WORKSPACE_DIR/ComfyUI" /comfyui  # where worker-comfyui's images have it
        .venv/bin/python -m provisioning manager-mode offline
        ;;
    models)  # what the example needs, and what it is called by at start
        .venv/bin/python -m provisioning apply "examples/${MODEL_TYPE:-sd15}/manifest.yaml"
        ;;
    *) echo "usage: $0 tools|comfyui|models" >&2; exit 64 ;;
esac
