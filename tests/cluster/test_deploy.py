"""The files under cluster/deploy fit what will read them: Ray's own schema, KubeRay's CRDs, this project's settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.local import RAY_SETTINGS, SLOT
from serving.api import ApiArgs
from tests.conftest import ROOT, SHARED

DEPLOY = ROOT / "cluster" / "deploy"
MANIFESTS = {"RayCluster": "raycluster.yaml", "RayService": "rayservice.yaml"}


def _load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def _manifest(kind: str) -> dict[str, Any]:
    return next(yaml.safe_load_all((DEPLOY / "kuberay" / MANIFESTS[kind]).read_text()))


def _ray_spec(kind: str) -> dict[str, Any]:
    spec = _manifest(kind)["spec"]
    return spec if kind == "RayCluster" else spec["rayClusterConfig"]


def _groups(kind: str) -> dict[str, dict[str, Any]]:
    """The container of each pool, by its name."""
    groups = {group["groupName"]: group for group in _ray_spec(kind)["workerGroupSpecs"]}
    return {"head": _ray_spec(kind)["headGroupSpec"], **groups}


def _container(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]


# ray up


def test_ray_up_takes_the_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(_load("aws.yaml"), schema)
    with pytest.raises(jsonschema.ValidationError):  # the schema would see a wrong name
        jsonschema.validate({**_load("aws.yaml"), "max_worker": 1}, schema)


def test_ray_ups_pools() -> None:
    config = _load("aws.yaml")
    pools = config["available_node_types"]
    assert pools[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert pools["gpu"]["resources"][SLOT] == pools["gpu"]["resources"]["GPU"] > 0
    assert "GPU" not in pools["cpu"]["resources"]
    assert sum(pool.get("max_workers", 0) for pool in pools.values()) == config["max_workers"]


def test_ray_ups_head_is_guarded_and_durable() -> None:
    config = _load("aws.yaml")
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert config["file_mounts"]["/root/.ray/auth_token"] == "~/.ray/auth_token"
    folder = re.search(r"RAY_gcs_storage=rocksdb RAY_gcs_storage_path=(\S+)", start)[1]
    assert any(option.endswith(f":{folder}") for option in config["docker"]["head_run_options"])


# KubeRay


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kuberay_takes_the_manifest(kind: str) -> None:
    file = SHARED / "kuberay" / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip("KubeRay's CRDs (../shared/kuberay) are not here")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 18,000 lines
    crd = yaml.load(file.read_text(), loader)
    versions = {v["name"]: v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"]}
    manifest = _manifest(kind)
    group, version = manifest["apiVersion"].split("/")
    assert (group, manifest["kind"]) == ("ray.io", kind)
    schema = _closed(versions[version])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(manifest)
    spec = manifest["spec"] if kind == "RayCluster" else manifest["spec"]["rayClusterConfig"]
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["imag"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(manifest)


def _closed(schema: Any) -> Any:
    """Kubernetes drops fields that it does not know without a word: here they are errors."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return closed


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kuberays_pools(kind: str) -> None:
    """A GPU pool with a slot for each GPU, a CPU pool, and a head without jobs; all of one image."""
    groups = _groups(kind)
    assert set(groups) == {"head", "gpu", "cpu"}
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"
    gpus = int(_container(groups["gpu"])["resources"]["limits"]["nvidia.com/gpu"])
    assert json.loads(json.loads(groups["gpu"]["rayStartParams"]["resources"])) == {SLOT: gpus}
    assert "nvidia.com/gpu" not in _container(groups["cpu"])["resources"]["limits"]
    assert len({_container(group)["image"] for group in groups.values()}) == 1


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kuberays_cluster_is_guarded_and_durable(kind: str) -> None:
    spec = _ray_spec(kind)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == ray.__version__
    service, secret = list(yaml.safe_load_all((DEPLOY / "kuberay" / "redis.yaml").read_text())), "dreamrunner-redis"
    host, port = spec["gcsFaultToleranceOptions"]["redisAddress"].split(":")
    assert (service[0]["metadata"]["name"], service[0]["spec"]["ports"][0]["port"]) == (host, int(port))
    assert spec["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == secret
    assert "appendonly" in " ".join(service[1]["spec"]["template"]["spec"]["containers"][0]["args"])
    if kind == "RayCluster":
        assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    else:  # the operator must reach it
        policy = list(yaml.safe_load_all((DEPLOY / "kuberay" / "rayservice.yaml").read_text()))[1]
        open_to_all = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
        assert open_to_all == [[{"port": 8000}]]


def test_serve_takes_the_application() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(_manifest("RayService")["spec"]["serveConfigV2"]))
    (application,) = config.applications
    args = ApiArgs.model_validate(application.args)
    assert args.workers == _groups("RayService")["gpu"]["maxReplicas"] and args.storage.startswith("s3://")
    assert application.import_path == "serving.api:build"
    assert [deployment.name for deployment in application.deployments] == ["Api"]


# the image


def test_the_image_installs_a_lock_as_it_is() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert "--no-deps" in text and "-r requirements/$LOCK.lock" in text
    for lock in ("gpu", re.search(r"LOCK=(\w+)", text)[1]):
        assert (ROOT / "requirements" / f"{lock}.lock").exists()
    copied = [name for line in re.findall(r"^COPY (.+)$", text, re.M) for name in line.split()[:-1]]
    assert {"engine", "actors", "cluster", "serving", "requirements", "pyproject.toml"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_has_rays_settings() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    found = dict(re.findall(r"(RAY_\w+)=(\S+)", text))
    assert found == {**RAY_SETTINGS, "RAY_AUTH_MODE": "token"}
