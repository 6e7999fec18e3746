# Sourced by build.sh and start.sh, which must agree: worker-comfyui's build arguments in our own names.
case "${COMFYUI_VERSION:-}" in
    "") ;;
    latest) export COMFYUI_REF=HEAD ;;
    [0-9]*.[0-9]*.[0-9]*) export COMFYUI_REF="v$COMFYUI_VERSION" ;;
    *) export COMFYUI_REF="$COMFYUI_VERSION" ;;
esac
if [[ -n "${PYTORCH_INDEX_URL:-}" ]]; then
    export TORCH_INDEX_URL="$PYTORCH_INDEX_URL"
elif [[ -n "${CUDA_VERSION_FOR_COMFY:-}" ]]; then
    export TORCH_INDEX_URL="https://download.pytorch.org/whl/cu${CUDA_VERSION_FOR_COMFY//./}"
fi
