"""What a schema cannot tell of the manifests: that they fit each other, and the daemon.

Usage: manifests.py BASE OVERLAY [PROGRAM]: two rendered files, and the daemon that is to accept the
arguments of its container.
"""

import re
import subprocess
import sys

import yaml


def read(path):
    """The objects of a file, by kind and name."""
    with open(path, encoding="utf-8") as file:
        return {(it["kind"], it["metadata"]["name"]): it for it in yaml.safe_load_all(file) if it}


def selects(selector, labels):
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def seconds(text):
    return float(re.fullmatch(r"([0-9.]+)s?", text).group(1))


def mebibytes(text):
    number, unit = re.fullmatch(r"([0-9]+)([KM])i?B?", text).groups()
    return int(number) / (1024 if unit == "K" else 1)


def check_base(objects, program):
    deployment = objects["Deployment", "tcp-echo"]["spec"]
    pod = deployment["template"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    options = dict(re.fullmatch(r"--([^=]+)=(.*)", it).groups() for it in container["args"])
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}

    yield "the deployment selects its pods", selects(deployment["selector"]["matchLabels"], labels)
    for (kind, name), it in objects.items():
        selector = it["spec"].get("selector", {})
        if kind in ("Service", "PodDisruptionBudget"):
            selector = selector if kind == "Service" else selector.get("matchLabels")
            yield f"{kind} {name} selects the pods, and none beside them", selects(selector, labels)
        if kind == "Service":
            named = all(port["targetPort"] in ports for port in it["spec"]["ports"])
            yield f"{kind} {name} leads to ports that there are", named
            same = all(port["port"] == ports[port["targetPort"]] for port in it["spec"]["ports"])
            yield f"{kind} {name} has the container's numbers", same
    spread = pod["topologySpreadConstraints"]
    yield "pods are spread over nodes", any(
        it["topologyKey"] == "kubernetes.io/hostname" and selects(it["labelSelector"]["matchLabels"], labels)
        for it in spread
    )

    yield "the admin port is the daemon's", options["admin"] == f"0.0.0.0:{ports['admin']}"
    yield "the echo port is the daemon's", int(options.get("port", 8090)) == ports["echo"]
    for probe, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/healthz")):
        get = container[f"{probe}Probe"]["httpGet"]
        yield f"the {probe} probe asks {path}", (get["path"], get["port"]) == (path, "admin")
    drain = seconds(options["shutdown-delay"]) + seconds(options["graceful-timeout"])
    yield "there is time to drain", pod["terminationGracePeriodSeconds"] >= drain + 2
    ready = container["readinessProbe"]
    noticed = ready["periodSeconds"] * ready["failureThreshold"]
    yield "a pod that goes is unready before it stops accepting", seconds(options["shutdown-delay"]) > noticed
    buffers = int(options["workers"]) * int(options["max-concurrent-connections"])
    buffers *= mebibytes(options["buffer-size"])
    yield "the buffers fit the memory", buffers <= mebibytes(container["resources"]["limits"]["memory"]) / 1.5

    yield "the user is nobody", pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    yield "seccomp is on", pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    confined = container["securityContext"]
    yield "it may do nothing", (
        confined["allowPrivilegeEscalation"],
        confined["readOnlyRootFilesystem"],
        confined["capabilities"],
    ) == (False, True, {"drop": ["ALL"]})
    yield "the image has a version", re.search(r":[0-9]+\.[0-9]+\.[0-9]+", container["image"])

    scaler = objects["HorizontalPodAutoscaler", "tcp-echo"]["spec"]
    target = scaler["scaleTargetRef"]
    yield "the autoscaler scales the deployment", (target["kind"], target["name"]) == ("Deployment", "tcp-echo")
    yield "the number of pods is the autoscaler's alone", "replicas" not in deployment
    budget = objects["PodDisruptionBudget", "tcp-echo"]["spec"]
    yield "a pod can be spared", scaler["minReplicas"] > budget["maxUnavailable"]
    if program:
        call = subprocess.run([program, *container["args"], "--check-config"], capture_output=True, text=True, check=False)
        yield f"the daemon takes its arguments {call.stderr.strip()}", call.returncode == 0


def check_overlay(base, overlay):
    yield "the overlay has all of the base", all(overlay.get(key) == it for key, it in base.items())
    monitor = overlay["ServiceMonitor", "tcp-echo"]["spec"]
    selector = monitor["selector"]["matchLabels"]
    (endpoint,) = monitor["endpoints"]
    services = [it for (kind, _), it in overlay.items() if kind == "Service"]
    chosen = [it for it in services if selects(selector, it["metadata"].get("labels", {}))]
    yield "the monitor selects one service", len(chosen) == 1
    ports = [port["name"] for port in chosen[0]["spec"]["ports"]]
    yield "and a port that it has", endpoint["port"] in ports
    yield "it asks /metrics", endpoint["path"] == "/metrics"
    yield "also those that are about to go", chosen[0]["spec"]["publishNotReadyAddresses"]


def main(base, overlay, program=None):
    base, overlay = read(base), read(overlay)
    findings = [*check_base(base, program), *check_overlay(base, overlay), *check_base(overlay, None)]
    wrong = [what for what, holds in findings if not holds]
    for what in wrong:
        print(f"not so: {what}")
    print(f"{len(findings) - len(wrong)} of {len(findings)} hold")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
