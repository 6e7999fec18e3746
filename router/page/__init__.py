"""The page at ``/``: the fleet live, for people. What it shows is collected only while somebody looks."""

from router.page.part import page

__all__ = ["page"]
