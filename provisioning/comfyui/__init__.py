"""Finds or installs ComfyUI, and makes the checkpoint that GPU-less hosts run the default workflow with."""
