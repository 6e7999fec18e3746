#!/usr/bin/env bash
# Host entry: tools, Python, packages, host (python -m provisioning host), worker. No logic that Python could hold.
#   ./start_server.sh                       start the service; safe to run again at any time
#   ./start_server.sh --setup-only [--dev]  make the Python environment only (--dev: with the tools for tests)
#   ./start_server.sh --test_input [JOB]    do one job and end; this and --rp_* are the worker's (its --help has them)
set -euo pipefail
here="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)"
cd "$here"

setup_only=""
requirements=(requirements.txt)
[[ -z "${RUNPOD_WEBHOOK_GET_JOB:-}" ]] || requirements+=(requirements-runpod.txt)
[[ -z "${AZURE_STORAGE_CONNECTION_STRING:-}${AZURE_STORAGE_ACCOUNT:-}" ]] || requirements+=(requirements-azure.txt)
arguments=("$@")
while [[ $# -gt 0 ]]; do
    case "$1" in
        --setup-only) setup_only=1 ;;
        --dev) requirements=(requirements.txt requirements-dev.txt) ;;
        --test_input | --test_input=* | --rp_*) break ;;  # from here on they are the worker's
        *) echo "usage: $0 [--setup-only [--dev]] [flags of the worker]" >&2; exit 2 ;;
    esac
    shift
done

venv="${PYWORKER_VENV:-$here/.venv}"
steps=5
[[ -z "$setup_only" ]] || steps=3
step=0

announce() { step=$((step + 1)); echo "[$step/$steps] $*"; }

report() {  # every address in REPORT_ADDR learns of it; nothing happens in standalone mode
    local python
    for python in "$venv/bin/python" python3 python; do
        if command -v "$python" >/dev/null 2>&1; then
            "$python" provisioning/error_report.py "$1" || true
            return
        fi
    done
}

fail() {  # fail CAUSE NEXT
    printf '\nFAILED: %s\nNext: %s\n' "$1" "$2" >&2
    report "$1"
    exit 1
}

truth() { case "${1,,}" in 1 | true | t | yes | y | on) return 0 ;; *) return 1 ;; esac; }

choose_environment() {
    if truth "${SERVERLESS:-}" && [[ -z "${REPORT_ADDR:-}" ]]; then
        export REPORT_ADDR="https://run.vast.ai"
    fi
    serverless=""
    [[ -z "${REPORT_ADDR:-}" ]] || serverless=1
    export BACKEND="${BACKEND:-comfyui-json}"
    local workspace="${WORKSPACE_DIR:-${WORKSPACE:-}}"
    if [[ -z "$workspace" ]]; then
        workspace="$here/workspace"
        [[ ! -d /workspace || ! -w /workspace ]] || workspace=/workspace
    fi
    mkdir -p "$workspace" 2>/dev/null || fail "The workspace $workspace can't be made." "Set WORKSPACE_DIR to a writable folder."
    [[ -w "$workspace" ]] || fail "The workspace $workspace is not writable." "Set WORKSPACE_DIR to a writable folder."
    WORKSPACE_DIR="$(cd "$workspace" && pwd)"
    export WORKSPACE_DIR
}

log_to_file() {  # serverless hosts have nobody at the console
    local log="$WORKSPACE_DIR/debug.log"
    if [[ -f "$log" && "$(stat -c %s "$log")" -gt 52428800 ]]; then mv "$log" "$log.old"; fi
    exec > >(exec tee -a "$log") 2>&1
    tee_pid=$!
}

check_environment() {
    ! truth "${IS_DEPLOYMENT:-}" || fail "IS_DEPLOYMENT is true; deployments are not served by this project." \
        "Unset IS_DEPLOYMENT, or use Vast's own start script for deployments."
    [[ -z "$serverless" || -n "${CONTAINER_ID:-}" ]] || fail "CONTAINER_ID is not set; serverless mode needs the instance's number." \
        "Set CONTAINER_ID, or unset SERVERLESS and REPORT_ADDR to start standalone."
    [[ -f "workers/$BACKEND/worker.py" ]] || fail "BACKEND=$BACKEND has no workers/$BACKEND/worker.py." \
        "Set BACKEND to one of: $(cd workers && echo *)."
}

update_if_asked() {  # the flag is written by POST /pyworker/update
    local flag="${FORCE_UPDATE_PATH:-/.force_update}"
    [[ -e "$flag" ]] || return 0
    echo "$flag asks for an update"
    rm -f "$flag"
    if git fetch --quiet --tags origin && { [[ -z "${PYWORKER_REF:-}" ]] || git checkout --quiet "$PYWORKER_REF"; } &&
        { ! git symbolic-ref --quiet HEAD >/dev/null || git pull --quiet --ff-only; }; then
        rm -f "$venv"/.installed-*
        exec bash "$here/start_server.sh" "${arguments[@]}"
    fi
    echo "The update did not work; going on with what is here: $(git describe --always --dirty 2>/dev/null || echo unknown)"
}

suitable='import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.14 "${HOME:-}"/.pyenv/versions/*/bin/python3; do
        if [[ -n "$candidate" ]] && command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$suitable" 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }

missing=()
install_tools() {
    local tool
    for tool in git curl make; do
        command -v "$tool" >/dev/null 2>&1 || missing+=("$tool")
    done
    if ! find_python >/dev/null && ! command -v uv >/dev/null 2>&1; then
        missing+=(python3 python3-venv)
    fi
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ "$(id -u)" -eq 0 ]] && command -v apt-get >/dev/null 2>&1; then
        echo "    installing ${missing[*]}"
        apt-get update -q || true
        apt_install ca-certificates "${missing[@]}" || fail "apt-get could not install ${missing[*]}." "Install them by hand, then start again."
        find_python >/dev/null || command -v uv >/dev/null 2>&1 || apt_install python3.12 python3.12-venv || apt_install python3.11 python3.11-venv || true
    elif find_python >/dev/null || command -v uv >/dev/null 2>&1; then
        echo "    missing: ${missing[*]} (git brings other versions of ComfyUI, make runs the tests). To install: sudo apt-get install ${missing[*]}"
    fi
}

make_environment() {
    if [[ -x "$venv/bin/python" ]] && "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "    $("$venv/bin/python" --version) in $venv"
        return
    fi
    local python
    if python="$(find_python)"; then
        echo "    $("$python" --version) at $python"
        "$python" -m venv --clear "$venv" || fail "$python could not make the environment $venv." "See that the folder is writable (PYWORKER_VENV names another)."
    elif command -v uv >/dev/null 2>&1; then
        uv venv --quiet --seed --clear --python '>=3.11' "$venv" || fail "uv found no Python 3.11 or newer, and could not bring one." "Install Python 3.11 or newer with its venv module."
    else
        fail "No Python 3.11 or newer with its venv module was found." \
            "Install what is missing (Debian, Ubuntu: sudo apt-get install ${missing[*]}), or name a Python with PYTHON=/path/to/python."
    fi
}

install_packages() {
    local list="${requirements[-1]}" version quiet=() lists=() count key
    version="$("$venv/bin/python" --version)"
    key="$version $(cat "${requirements[@]}" | sha256sum)"
    if [[ -f "$venv/.installed-$list" && "$(cat "$venv/.installed-$list")" == "$key" ]]; then
        echo "    nothing has changed"
        return
    fi
    echo "    installing $list (half a minute the first time)"
    [[ -t 1 ]] || quiet=(--quiet)
    for ((count = 0; count < ${#requirements[@]}; count++)); do lists+=(-r "${requirements[count]}"); done
    "$venv/bin/python" -m pip install --no-input --disable-pip-version-check "${quiet[@]}" "${lists[@]}" ||
        fail "pip could not install $list." "Check the network (PyPI), then start again."
    for ((count = 1; count <= ${#requirements[@]}; count++)); do  # with the ones before it
        echo "$version $(cat "${requirements[@]:0:count}" | sha256sum)" >"$venv/.installed-${requirements[count - 1]}"
    done
}

run_worker() {  # gives the worker's exit status; SIGTERM reaches the worker, which drains
    local status="" worker interrupted=1 ended
    "$venv/bin/python" "workers/$BACKEND/worker.py" "$@" &
    worker=$!
    trap 'interrupted=1; kill -TERM "$worker" 2>/dev/null || true' TERM INT
    while [[ -n "$interrupted" ]]; do  # a trap ends wait early, with a status that is not the worker's
        interrupted=""
        ended=0
        wait "$worker" || ended=$?
        [[ "$ended" -eq 127 && -n "$status" ]] || status="$ended"  # 127: nothing left to wait for
    done
    return "$status"
}

choose_environment
if [[ -z "$setup_only" ]]; then
    update_if_asked
    [[ -z "$serverless" ]] || log_to_file
    check_environment
fi

exec 9<"${BASH_SOURCE[0]}"
if command -v flock >/dev/null 2>&1; then
    flock --nonblock 9 || { echo "Another process makes this environment; waiting for it."; flock 9; }
fi
announce "Tools"
install_tools
announce "Python"
make_environment
announce "Packages"
install_packages
exec 9<&-
if [[ -n "$setup_only" ]]; then
    [[ "${requirements[-1]}" == requirements-dev.txt ]] || echo "The environment is ready. Next: ./start_server.sh starts the service in it."
    exit 0
fi

announce "Host"
status=0
"$venv/bin/python" -m provisioning host || status=$?
case "$status" in
    0) ;;
    1 | 130) exit "$status" ;;  # said, and reported, where it happened
    *) fail "Provisioning ended with status $status." "See the lines above; start again to go on." ;;
esac
export PYWORKER_HOST_READY=1

announce "Worker ($BACKEND)"
[[ -n "$serverless" ]] || exec "$venv/bin/python" "workers/$BACKEND/worker.py" "$@"
status=0
run_worker "$@" || status=$?
if [[ "$status" -ne 0 ]]; then
    echo "The worker exited with status $status." >&2
    report "PyWorker exited with status $status"
fi
exec >&- 2>&-  # lets tee write its last lines
wait "$tee_pid" || true
exit "$status"
