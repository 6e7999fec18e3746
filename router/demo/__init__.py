"""``python -m router.demo`` (``make demo``): a router, three workers of different speed, load, and the page to look at.

Everything is a real process of this repository, but for ComfyUI: a fake one with the speed of a card takes its place.
"""
