"""JSON Schemas of the parts of Kubernetes and of KubeRay's `v1` that ``deploy/kuberay`` uses.

They are closed: a field that is not listed is an error. The complete definitions of KubeRay are checked as well if
``KUBERAY_CRDS`` names a folder with ``ray.io_rayclusters.yaml`` and ``ray.io_rayjobs.yaml`` of a release.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"}


def closed(required: str = "", **fields: Schema) -> Schema:
    """Return the schema of an object with these fields alone.

    Args:
        required: names of the fields that it must have, separated by spaces.
        **fields: schema by name.
    """
    return {"type": "object", "required": required.split(), "properties": fields, "additionalProperties": False}


def list_of(schema: Schema, at_least: int = 1) -> Schema:
    """Return the schema of a list of such objects."""
    return {"type": "array", "items": schema, "minItems": at_least}


def one_of(*values: str) -> Schema:
    """Return the schema of a text with a few possible values."""
    return {"enum": list(values)}


METADATA = closed("name", name=NAME, labels=LABELS)
SELECTOR = closed(
    matchLabels=LABELS,
    matchExpressions=list_of(
        closed("key operator", key=TEXT, operator=one_of("In", "NotIn", "Exists", "DoesNotExist"))
    ),
)
AMOUNTS: Schema = {"type": "object", "additionalProperties": QUANTITY}
PROBE = closed(
    "httpGet",
    httpGet=closed("path port", path=TEXT, port=TEXT),
    periodSeconds=POSITIVE,
    timeoutSeconds=POSITIVE,
    failureThreshold=POSITIVE,
)
CONTAINER = closed(
    "name image securityContext resources",
    name=NAME,
    image={"type": "string", "pattern": r"^[\w./-]+:\d+\.\d+\.\d+$"},
    args=list_of(TEXT),
    ports=list_of(closed("containerPort name", containerPort=POSITIVE, name=NAME)),
    env=list_of(closed("name value", name=TEXT, value={"type": "string"})),
    envFrom=list_of(closed("secretRef", secretRef=closed("name", name=NAME))),
    lifecycle=closed("preStop", preStop=closed("exec", exec=closed("command", command=list_of(TEXT)))),
    startupProbe=PROBE,
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    securityContext=closed(
        "allowPrivilegeEscalation capabilities",
        allowPrivilegeEscalation={"const": False},
        capabilities=closed("drop", drop={"const": ["ALL"]}),
    ),
    resources=closed("requests limits", requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts=list_of(closed("name mountPath", name=NAME, mountPath={"type": "string", "pattern": "^/"})),
)
POD = closed(
    "containers securityContext",
    automountServiceAccountToken={"const": False},
    terminationGracePeriodSeconds=POSITIVE,
    securityContext=closed(
        "runAsNonRoot runAsUser",
        runAsNonRoot={"const": True},
        runAsUser=POSITIVE,
        runAsGroup=POSITIVE,
        fsGroup=POSITIVE,
    ),
    nodeSelector=LABELS,
    tolerations=list_of(
        closed("key operator effect", key=TEXT, operator=one_of("Exists", "Equal"), effect=one_of("NoSchedule"))
    ),
    containers=list_of(CONTAINER),
    volumes=list_of(
        closed("name emptyDir", name=NAME, emptyDir=closed("sizeLimit", medium=one_of("Memory"), sizeLimit=QUANTITY))
    ),
)
GROUP: dict[str, Schema] = {
    "rayStartParams": LABELS,
    "template": closed("spec", metadata=closed(labels=LABELS), spec=POD),
}
CLUSTER = closed(
    "rayVersion headGroupSpec workerGroupSpecs",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=closed("mode", mode=one_of("disabled", "token"), secretName=NAME),
    headGroupSpec=closed("rayStartParams template", **GROUP),
    workerGroupSpecs=list_of(
        closed(
            "groupName replicas minReplicas maxReplicas rayStartParams template",
            groupName=NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            **GROUP,
        )
    ),
)
JOB = closed(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterConfig=closed("backoffLimit", backoffLimit=COUNT),
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    preRunningDeadlineSeconds=POSITIVE,
    suspend=FLAG,
    rayClusterSpec=CLUSTER,
)
DEPLOYMENT = closed(
    "replicas selector template",
    replicas=COUNT,
    selector=SELECTOR,
    template=closed("metadata spec", metadata=closed("labels", labels=LABELS), spec=POD),
)
SERVICE = closed(
    "selector ports", selector=LABELS, ports=list_of(closed("name port", name=NAME, port=POSITIVE, targetPort=NAME))
)
POLICY = closed(
    "podSelector policyTypes ingress",
    podSelector=SELECTOR,
    policyTypes=list_of(one_of("Ingress", "Egress")),
    ingress=list_of(
        closed(
            "from ports",
            **{"from": list_of(closed("podSelector", podSelector=SELECTOR))},
            ports=list_of(closed("port protocol", port=NAME, protocol=one_of("TCP"))),
        )
    ),
)


def _kind(version: str, name: str, spec: Schema) -> Schema:
    return closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": name},
        metadata=METADATA,
        spec=spec,
    )


KINDS = {
    "RayCluster": _kind("ray.io/v1", "RayCluster", CLUSTER),
    "RayJob": _kind("ray.io/v1", "RayJob", JOB),
    "Deployment": _kind("apps/v1", "Deployment", DEPLOYMENT),
    "Service": _kind("v1", "Service", SERVICE),
    "NetworkPolicy": _kind("networking.k8s.io/v1", "NetworkPolicy", POLICY),
}
"""Schema of a document by its kind."""
