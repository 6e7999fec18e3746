"""Instances at Vast.ai, through the official ``vastai`` package: a program for ``router.scaling.command``.

It stands alone, so that it runs in any environment that has the package (whose exact pins need not be the router's).
The API key is read by the package itself (``VAST_API_KEY``), and so is another server (``VAST_URL``). Instances are
known by their label, ``pyrouter/<endpoint>/<group>``. Made for ``vastai`` 1.9.1.
"""

import importlib
import json
import sys
from typing import Any

TRIES = 5
"""Offers that are tried for one instance; somebody else may have taken the first."""
LEAVING = ("destroying",)
STOPPED = ("stopped", "exited", "inactive")


def main() -> int:
    """Read what is asked for, do it, print the answer; the status says whether it went well."""
    asked = json.load(sys.stdin)
    try:
        package = importlib.import_module("vastai")
    except ImportError:
        sys.stderr.write("the package vastai is not installed (pip install vastai), or ROUTER_SCALING_VAST_PYTHON\n")
        return 3
    try:
        client = package.VastAI()
        instances = ACTIONS[asked["action"]](client, asked)
    except Exception as error:  # noqa: BLE001 - the package raises whatever it likes; this is the program's edge
        sys.stderr.write(f"{type(error).__name__}: {_words(error)}\n")
        return 1
    sys.stdout.write(json.dumps({"instances": instances}))
    return 0


def start(client: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Rent the best offers; fewer than asked for where there are no more."""
    options = asked["options"]
    kind = "bid" if options.get("bid_price") else "on-demand"
    limit = asked["count"] + TRIES
    offers = client.search_offers(query=_query(options), type=kind, order=options["order"], limit=limit)
    made: list[dict[str, Any]] = []
    trouble = "no offer fits search_params"
    for offer in offers:
        if len(made) == asked["count"]:
            break
        try:
            answer = client.create_instance(id=offer["id"], **_request(asked))
        except Exception as error:  # noqa: BLE001 - this offer is gone; the next may be there
            trouble = f"{type(error).__name__}: {_words(error)}"
            continue
        if answer.get("new_contract"):
            made.append({"id": answer["new_contract"], "state": "running", "price": offer.get("dph_total")})
        else:
            trouble = str(answer.get("msg") or answer.get("error") or "the offer was not granted")
    if not made:
        raise RuntimeError(trouble)
    return made


def resume(client: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Start a stopped one."""
    client.start_instance(id=asked["id"])
    return []


def restart(client: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Restart its container; the disk stays."""
    client.reboot_instance(id=asked["id"])
    return []


def stop(client: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Stop it; the disk stays, and costs."""
    client.stop_instance(id=asked["id"])
    return []


def remove(client: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Destroy it, unless it is gone already."""
    if any(one["id"] == asked["id"] for one in listed(client, asked)):
        client.destroy_instance(id=asked["id"])
    return []


def listed(client: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the group, by their label."""
    rows = (row for row in client.show_instances() if row.get("label") == _label(asked))
    return [
        {
            "id": row["id"],
            "state": _state(row),
            "started_at": row.get("start_date") or 0.0,
            "price": row.get("dph_total"),
            "detail": " ".join(str(row.get("status_msg") or "").split())[:200],
        }
        for row in rows
    ]


def _state(row: dict[str, Any]) -> str:
    """What is intended counts before what is: an instance that is on its way up is no stopped one."""
    actual, intended = str(row.get("actual_status")), str(row.get("intended_status") or "running")
    if actual in LEAVING:
        return "leaving"
    return "stopped" if intended in STOPPED else "running"


def _label(asked: dict[str, Any]) -> str:
    return f"pyrouter/{asked['endpoint']}/{asked['group']}"


def _query(options: dict[str, Any]) -> str:
    most = options.get("max_price")
    return f"{options['search_params']} dph_total<={most}" if most else str(options["search_params"])


def _request(asked: dict[str, Any]) -> dict[str, Any]:
    options = asked["options"]
    return {
        "template_hash": options.get("template_hash") or None,
        "image": options.get("image") or None,
        "onstart_cmd": options.get("onstart") or None,
        "disk": options["disk"],
        "bid_price": options.get("bid_price"),
        "label": _label(asked),
        "env": {**asked["environment"], "-p 3000:3000": "1"},
        "cancel_unavail": True,
    }


def _words(error: Exception) -> str:
    """Its message; that of the HTTP client names the URL, where the key may be a part of the query."""
    response = getattr(error, "response", None)
    if response is None:
        return str(error)
    return f"Vast answered {response.status_code}: {response.text[:300]}"


ACTIONS = {"start": start, "resume": resume, "restart": restart, "stop": stop, "remove": remove, "list": listed}

if __name__ == "__main__":
    raise SystemExit(main())
