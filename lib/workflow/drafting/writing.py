"""A draft of the file that names a graph's inputs, as text."""

from collections.abc import Mapping
from typing import Any

import yaml

from lib.workflow.decoding import check
from lib.workflow.drafting.facts import Info
from lib.workflow.drafting.proposals import Proposal, propose
from lib.workflow.endpoints.declared import FileProblem, parse_declared, read_graph
from lib.workflow.graph import check_graph
from lib.workflow.kinds import FILES, Kind

HEAD = """\
# Inputs of {file}, drafted from it: names, texts and ranges are yours to change, what callers need not set can go.
# What is left out keeps the graph's own value. `required: true` makes an input one that must be given.
"""


def draft_inputs(graph_data: bytes, *, file: str, info: Info | None = None) -> str:
    """Return the YAML file for a graph's bytes; it is loadable, and with its defaults makes the very same graph.

    Raises: FileProblem, InvalidWorkflow, UnsafeInput.
    """
    graph = read_graph(graph_data)
    check_graph(graph)
    inputs = {proposal.name: _input(proposal) for proposal in propose(graph, info)}
    name = file.rpartition("/")[2].rpartition(".")[0]
    document = {"summary": name, "description": "", "inputs": inputs}
    text = HEAD.format(file=file.rpartition("/")[2]) + yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True, width=110
    )
    parse_declared(graph_data, text.encode(), name=name)
    return text


def read_info(data: bytes) -> Info:
    """Read what ``/object_info`` of a ComfyUI answers. Raises: FileProblem."""
    value = check(data)
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise FileProblem("is no object of node classes; expected what ComfyUI answers at /object_info", in_graph=True)
    return value


def _input(proposal: Proposal) -> Mapping[str, Any]:
    fact = proposal.wish.fact
    facts: dict[str, Any] = {
        "type": str(fact.kind),
        "targets": proposal.targets[0] if len(proposal.targets) == 1 else proposal.targets,
        "title": proposal.title if fact.kind is Kind.STRING and not fact.listed else "",
        "description": proposal.description,
        "required": fact.kind in FILES and not proposal.wish.found.value,
        "random": fact.random,
        "minimum": fact.minimum,
        "maximum": fact.maximum,
        "multiple_of": fact.multiple_of,
        "options": ".".join(proposal.wish.source) if fact.listed else "",
    }
    return {key: value for key, value in facts.items() if value is not None and value != "" and value is not False}
