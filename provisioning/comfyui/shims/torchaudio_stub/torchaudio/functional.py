"""Empty: ComfyUI imports this module when it starts and calls into it for audio models only."""
