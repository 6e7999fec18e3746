#!/usr/bin/env bash
# Entry of the image: sshd where PUBLIC_KEY asks for it, what the image was built with, then start_server.sh.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
source provisioning/runpod/versions.sh

if [[ -n "${PUBLIC_KEY:-}" ]]; then
    mkdir -p ~/.ssh /run/sshd
    chmod 700 ~/.ssh
    grep -qxF "$PUBLIC_KEY" ~/.ssh/authorized_keys 2>/dev/null || echo "$PUBLIC_KEY" >>~/.ssh/authorized_keys
    chmod 600 ~/.ssh/authorized_keys
    ssh-keygen -A >/dev/null  # keys of this container, not of the image
    "$(command -v sshd)" -o PasswordAuthentication=no || echo "sshd could not be started; going on without it" >&2
fi

tcmalloc="$(ldconfig -p | awk '/libtcmalloc_minimal\.so/ {print $NF; exit}')"
[[ -z "$tcmalloc" ]] || export LD_PRELOAD="${LD_PRELOAD:+$LD_PRELOAD:}$tcmalloc"

# The image's own models: nothing is downloaded at start, the warm-up loads the model, and it is not measured for long.
example="$PWD/examples/${MODEL_TYPE:-sd15}"
export PROVISIONING_MANIFEST="${PROVISIONING_MANIFEST:-$example/manifest.yaml}"
export BENCHMARK_JSON_PATH="${BENCHMARK_JSON_PATH:-$example/workflow.json}"
export BENCHMARK_BUDGET_S="${BENCHMARK_BUDGET_S:-1}"

if [[ -n "${RUNPOD_ENDPOINT_ID:-}" && -z "${RUNPOD_WEBHOOK_GET_JOB:-}" ]]; then
    # A load-balancing endpoint: RunPod's own gateway asks for the key before anybody comes here.
    export API_HOST="${API_HOST:-0.0.0.0}" API_ALLOW_OPEN="${API_ALLOW_OPEN:-true}" API_ALLOWED_HOSTS="${API_ALLOWED_HOSTS:-*}"
    export API_PORT="${API_PORT:-${PORT:-80}}"
fi

exec ./start_server.sh
