"""Node packs of ComfyUI: where they come from, what they need, whether they import, snapshots of them."""
