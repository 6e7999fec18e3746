"""A network volume with models: which of its folders ComfyUI looks at, and what lies where nobody looks."""
