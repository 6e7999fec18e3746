"""What the router prints when it listens: where, with which keys, and what workers and clients need."""

from router.endpoints import Endpoint
from router.keeping import KEYS, EndpointKeeping
from router.settings import RouterSettings

WIDTH = 78


def text(url: str, *, settings: RouterSettings, keeping: EndpointKeeping) -> str:
    """Return it as lines. Keys that we made are in it, once a start; those that the operator chose are not."""
    made = keeping.secrets
    lines = ["", "-" * WIDTH, f"  Router     {url}", f"  Page       {url}/", f"  Health     {url}/health"]
    if made.account_key:
        lines += [f"  Operator   API key {made.account_key}"]
    for endpoint in keeping.endpoints.all():
        lines += ["", *_endpoint(endpoint, url=url, settings=settings, keeping=keeping)]
    if made.account_key or any(endpoint.api_key for endpoint in keeping.endpoints.all()):
        lines += ["", f"  Keys that were made here are kept in {settings.state_dir / KEYS}"]
    if settings.is_loopback and settings.public_url is None:
        lines += ["", "  Only this machine reaches it. ROUTER_HOST=:: opens it to others."]
    elif settings.public_url is None:
        lines += ["", "  Others reach it by this machine's own name: say it with ROUTER_PUBLIC_URL."]
    return "\n".join([*lines, "-" * WIDTH, ""])


def _endpoint(endpoint: Endpoint, *, url: str, settings: RouterSettings, keeping: EndpointKeeping) -> list[str]:
    token = keeping.secrets.worker_token
    wanted = [f"REPORT_ADDR={url}/e/{endpoint.name}"]
    if endpoint.settings.tokens or not (token or settings.open_workers):
        wanted.append("MASTER_TOKEN=<yours>")
    elif token:
        wanted.append(f"MASTER_TOKEN={token}")
    key = endpoint.api_key or "<yours>"
    return [
        f"  Endpoint   {endpoint.name}   policy {endpoint.settings.policy}",
        f"    API key  {key}",
        f"    Workers  set {wanted[0]}",
        *(f"             and {one}" for one in wanted[1:]),
        f'    Clients  Serverless(api_key="{key}", autoscaler_url="{url}", webserver_url="{url}")',
    ]
