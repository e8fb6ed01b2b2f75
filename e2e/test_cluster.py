"""The local Kubernetes itself: what Kafka and the operator stand on. Here stands which part is broken, if they are."""

from __future__ import annotations

import secrets
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.provider import choose
from e2e.support.environment import connect, image_names, images_command, load_command, run, up_command
from e2e.support.kubectl import Body, Kubectl
from e2e.support.objects import namespace

PYTHON = "/opt/sluice/bin/python"
SERVE = "import http.server as h; h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"


@pytest.fixture(scope="module")
def kubernetes() -> Kubectl:
    """The local Kubernetes with our images, whether or not the operator is installed."""
    for command in (up_command(), images_command()):
        run(command, timeout=1800)
    run(load_command())
    return connect().kubectl


@pytest.fixture(scope="module")
def home(kubernetes: Kubectl) -> Iterator[Kubectl]:
    """A namespace with a web server that keeps its files on a volume."""
    space = kubernetes.within(f"e2e-cluster-{secrets.token_hex(2)}")
    space.apply(namespace(space.namespace))
    space.apply([claim("files", "16Mi"), service(), pod("server", SERVE, volume="files", labels={"app": "web"})])
    space.wait_ready("pod", "server", timeout=90)
    yield space
    space.delete("namespace", space.namespace, wait=False)


def pod(name: str, script: str, *, volume: str | None = None, labels: dict[str, str] | None = None) -> Body:
    """A pod that runs Python as Kafka and the operator run: not root, root file system read-only, nothing allowed."""
    container: dict[str, Any] = {
        "name": "main",
        "image": next(image for image in image_names() if "/operator:" in image),
        "imagePullPolicy": "IfNotPresent",
        "command": [PYTHON, "-uc", script],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec: dict[str, Any] = {
        "containers": [container],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1001,
            "fsGroup": 1001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if volume:
        container |= {"volumeMounts": [{"name": "data", "mountPath": "/data"}], "workingDir": "/data"}
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": volume}}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def claim(name: str, size: str, storage_class: str | None = None) -> Body:
    """A claim; of the default class unless another is named."""
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def service() -> Body:
    """The web server's service, open at a node port too."""
    spec = {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}


def finished(space: Kubectl, body: Body, timeout: float = 60) -> tuple[str, str]:
    """Run a pod to its end; its phase and what it printed."""
    name = body["metadata"]["name"]
    space.apply(body)

    def over(seen: Body | None) -> bool:
        return seen is not None and seen["status"].get("phase") in ("Succeeded", "Failed")

    ended = space.wait("pod", name, over, timeout=timeout)
    assert ended is not None
    return ended["status"]["phase"], space.run("logs", name)


def fetched(url: str) -> int:
    """HTTP status of a page; a few tries, as a service is open a moment after its pod is ready."""
    deadline = time.monotonic() + 15
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                return int(answer.status)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def embedded() -> bool:
    """Whether the local Kubernetes is the embedded one."""
    return choose().name == "embedded"


def test_what_a_pod_writes_to_its_volume_as_an_ordinary_user_can_be_read_by_exec(home: Kubectl) -> None:
    home.run(
        "exec", "server", "--", PYTHON, "-c", "open('/data/kept', 'w').write('by ' + str(__import__('os').getuid()))"
    )
    assert home.run("exec", "server", "--", "cat", "/data/kept") == "by 1001"
    assert home.run("exec", "server", "--", "stat", "-c", "%g", "/data").strip() == "1001", "fsGroup isn't applied"


def test_a_pod_reaches_a_service_by_name_and_reads_it_from_its_own_pod_too(home: Kubectl) -> None:
    ask = "import urllib.request as u; print(u.urlopen('http://{}', timeout=10).status)"
    phase, said = finished(home, pod("client", ask.format(f"web.{home.namespace}.svc")))
    assert (phase, said.strip()) == ("Succeeded", "200")
    assert home.run("exec", "server", "--", PYTHON, "-c", ask.format("web")).strip() == "200", "no hairpin"


def test_a_node_port_answers_on_this_machine(home: Kubectl) -> None:
    port = home.list("services")[0]["spec"]["ports"][0]["nodePort"]
    assert fetched(f"http://{connect().node_address}:{port}/") == 200


def test_the_api_server_reaches_pods_and_services(home: Kubectl) -> None:
    """Admission webhooks are called like this."""
    assert "Directory listing" in home.raw(f"/api/v1/namespaces/{home.namespace}/pods/server:8000/proxy/")
    assert "Directory listing" in home.raw(f"/api/v1/namespaces/{home.namespace}/services/web:80/proxy/")
    if embedded():  # its API server isn't in a pod: it finds services as everything on this machine does
        assert fetched(f"http://{home.list('services')[0]['spec']['clusterIP']}/") == 200


def test_a_pod_knows_its_service_account_and_the_api_server_knows_it(home: Kubectl) -> None:
    script = """
import json, ssl, urllib.request as u
folder = '/var/run/secrets/kubernetes.io/serviceaccount/'
request = u.Request('https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews', method='POST')
request.add_header('Authorization', 'Bearer ' + open(folder + 'token').read())
request.add_header('Content-Type', 'application/json')
tls = ssl.create_default_context(cafile=folder + 'ca.crt')
review = b'{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}'
print(json.load(u.urlopen(request, review, context=tls))['status']['userInfo']['username'])
"""
    phase, said = finished(home, pod("account", script))
    assert (phase, said.strip()) == ("Succeeded", f"system:serviceaccount:{home.namespace}:default")


def test_a_pod_reaches_nothing_outside(home: Kubectl) -> None:
    """203.0.113.0/24 is nobody's (RFC 5737); what is refused at once here isn't sent anywhere."""
    if not embedded():
        pytest.skip("only the embedded Kubernetes keeps pods inside")
    script = "import socket; socket.create_connection(('203.0.113.1', 443), timeout=5)"
    phase, said = finished(home, pod("runaway", script))
    assert phase == "Failed"
    assert "ConnectionRefusedError" in said


def test_a_limited_volume_runs_full_and_is_gone_with_its_claim(home: Kubectl) -> None:
    if not embedded():
        pytest.skip("only the embedded Kubernetes has the class `limited`")
    home.apply(claim("small", "16Mi", "limited"))
    script = """
import errno
try:
    open('/data/x', 'wb').write(b'x' * 2**25)
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    phase, said = finished(home, pod("filler", script, volume="small"))
    assert (phase, said.strip()) == ("Succeeded", "ENOSPC")
    bound = home.get("pvc", "small")
    assert bound is not None
    home.delete("pod", "filler")
    home.delete("pvc", "small")
    home.wait_gone("pv", bound["spec"]["volumeName"])
