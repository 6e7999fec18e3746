"""Whether a worker can be reached: any answer over HTTP will do, whatever it says."""

import aiohttp

from router.fleet import Probe

PATH = "/healthz"


def http_probe(http: aiohttp.ClientSession, *, timeout_s: float) -> Probe:
    """Make a probe of worker URLs."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def probe(url: str) -> bool:
        try:
            async with http.get(url + PATH, timeout=timeout, allow_redirects=False):
                return True
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return False

    return probe
