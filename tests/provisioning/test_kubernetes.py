"""Manifests that only a cluster can run: read here, and held against what they name in this repository."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lib.settings import SettingsError
from provisioning.settings import REPOSITORY
from router.endpoint_settings import EndpointSettings, listed, load_endpoints
from router.keeping import EndpointKeeping
from router.settings import RouterSettings
from tests.provisioning.test_image_files import variables

FOLDER = REPOSITORY / "provisioning" / "kubernetes"
VERSIONS = {
    "Namespace": "v1",
    "Secret": "v1",
    "ConfigMap": "v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
    "ScaledObject": "keda.sh/v1alpha1",
}
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS = [one for name in KUSTOMIZATION["resources"] for one in yaml.safe_load_all((FOLDER / name).read_text()) if one]


def found(kind: str, name: str) -> dict[str, Any]:
    (one,) = [one for one in OBJECTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return dict(one)


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, however deep."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield str(key), inner
        yield from walk(inner)


def pod(kind: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod's specification and its one container."""
    spec = found(kind, name)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


ROUTER, WORKER = pod("Deployment", "pyrouter"), pod("StatefulSet", "comfyui-worker")
TRIGGER = found("ScaledObject", "comfyui-worker")["spec"]["triggers"][0]
ENDPOINTS = found("ConfigMap", "pyrouter")["data"]["endpoints.yaml"]


def test_all_files_are_applied_and_are_what_they_say() -> None:
    """Every manifest is in the kustomization; kinds have their versions; nothing is there twice."""
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    assert [(one["kind"], one["apiVersion"]) for one in OBJECTS if VERSIONS[one["kind"]] != one["apiVersion"]] == []
    names = [(one["kind"], one["metadata"]["name"]) for one in OBJECTS]
    assert len(names) == len(set(names))
    assert KUSTOMIZATION["namespace"] == found("Namespace", "comfyui")["metadata"]["name"]


def test_what_is_referred_to_is_there() -> None:
    """Secrets with their keys, config maps, claims, ports, labels, images."""
    secrets = {one["metadata"]["name"]: set(one["stringData"]) for one in OBJECTS if one["kind"] == "Secret"}
    for key, value in walk(OBJECTS):
        if key == "secretKeyRef":
            assert value["key"] in secrets[value["name"]]
        if key == "secretTargetRef":
            assert all(one["key"] in secrets[one["name"]] for one in value)
        if key == "configMap":
            found("ConfigMap", value["name"])
        if key == "persistentVolumeClaim":
            found("PersistentVolumeClaim", value["claimName"])
    for spec, container in (ROUTER, WORKER):
        ports = {one["name"] for one in container["ports"]}
        probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
        assert {probe["port"] for probe in probes} <= ports
        assert {probe["path"] for probe in probes} == {"/healthz", "/ready"}
        volumes = {one["name"] for one in spec["volumes"]}
        claims = found("StatefulSet", "comfyui-worker")["spec"]["volumeClaimTemplates"]
        assert {one["name"] for one in container["volumeMounts"]} <= volumes | {
            one["metadata"]["name"] for one in claims
        }
        assert container["image"] in {one["name"] for one in KUSTOMIZATION["images"]}
    for kind, name in (("Deployment", "pyrouter"), ("StatefulSet", "comfyui-worker")):
        spec = found(kind, name)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels == found("Service", name)["spec"]["selector"]
    assert found("StatefulSet", "comfyui-worker")["spec"]["serviceName"] == "comfyui-worker"


def test_variables_are_ours_and_fit_together() -> None:
    """The router's and the worker's, in their spelling; what one names the other serves."""
    router, worker = environment(ROUTER[1]), environment(WORKER[1])
    known = {
        str(choice)
        for field in RouterSettings.model_fields.values()
        for choice in getattr(field.validation_alias, "choices", [])
    }
    assert set(router) - known == set()
    assert set(worker) - variables() == set()
    service = found("Service", "pyrouter")
    url = f"http://{service['metadata']['name']}.{KUSTOMIZATION['namespace']}.svc.cluster.local:8080"
    assert service["spec"]["ports"][0]["port"] == int(router["ROUTER_PORT"]) == 8080
    assert router["ROUTER_PUBLIC_URL"] == url
    assert worker["REPORT_ADDR"] == f"{url}/e/images"
    assert TRIGGER["metadata"]["url"] == f"{url}/scaling/images"
    assert int(worker["WORKER_PORT"]) == WORKER[1]["ports"][0]["containerPort"]
    mounts = {one["mountPath"] for one in ROUTER[1]["volumeMounts"]}
    assert {router["ROUTER_STATE_DIR"], router["ROUTER_ENDPOINTS_FILE"].rpartition("/")[0]} <= mounts


def test_the_endpoints_can_be_read(tmp_path: Any) -> None:
    """By the router itself; as many workers as KEDA may start."""
    file = tmp_path / "endpoints.yaml"
    file.write_text(ENDPOINTS)
    (endpoint,) = load_endpoints(RouterSettings(endpoints_file=file, state_dir=tmp_path))
    assert isinstance(endpoint, EndpointSettings) and endpoint.name == "images"
    assert endpoint.max_workers == found("ScaledObject", "comfyui-worker")["spec"]["maxReplicaCount"]
    assert EndpointKeeping(RouterSettings(endpoints_file=file, state_dir=tmp_path)).endpoints.find("images")


def test_a_pod_that_goes_has_time_to_finish() -> None:
    """The pause before SIGTERM, the drain, and something to spare; nobody else sets the number of pods."""
    spec, container = WORKER
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert spec["terminationGracePeriodSeconds"] >= pause_s + int(environment(container)["DRAIN_TIMEOUT_S"]) + 20
    assert "replicas" not in found("StatefulSet", "comfyui-worker")["spec"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_keda_asks_as_the_router_answers() -> None:
    """One worker for each that is desired; with the operator's key."""
    metadata = TRIGGER["metadata"]
    assert (TRIGGER["type"], metadata["authMode"], metadata["targetValue"]) == ("metrics-api", "bearer", "1")
    source = (REPOSITORY / "router" / "scaling" / "control.py").read_text()
    assert f'"{metadata["valueLocation"]}": desired.workers' in source
    authentication = found("TriggerAuthentication", TRIGGER["authenticationRef"]["name"])
    (target,) = authentication["spec"]["secretTargetRef"]
    assert (target["parameter"], target["key"]) == ("token", "account-key")
    target_of = found("ScaledObject", "comfyui-worker")["spec"]["scaleTargetRef"]
    assert found(target_of["kind"], target_of["name"])["apiVersion"] == target_of["apiVersion"]


def test_nobody_starts_with_the_keys_of_the_template() -> None:
    """The router refuses them, so that they have to be replaced."""
    for value in found("Secret", "pyrouter")["stringData"].values():
        with pytest.raises(SettingsError):
            listed(RouterSettings(account_keys=value).account_keys, variable="ROUTER_ACCOUNT_KEYS")


def test_the_router_runs_with_little() -> None:
    """No root, no capabilities, nothing writable but its volume."""
    spec, container = ROUTER
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    dockerfile = (FOLDER / "router.Dockerfile").read_text()
    assert re.search(r"^USER (\d+)$", dockerfile, re.M)[1] == str(spec["securityContext"]["runAsUser"])  # type: ignore[index]
    copied = [part for line in re.findall(r"^COPY (.+)$", dockerfile, re.M) for part in line.split()[:-1]]
    assert [part for part in copied if not (REPOSITORY / part).exists()] == []
