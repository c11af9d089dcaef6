"""Real services for tests, each a process of its own that can be killed and started again: an S3 server, a Ray cluster.

Both run on loopback, on ports that were free, and take what they started down with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.forking import MARK

S3_KEY, S3_SECRET = "test:tester", "swift-secret-3f9c"  # as in swift_s3.sh
PROGRAMS = Path(sys.executable).parent
DEADLINE = 300.0  # seconds for what takes a few: a slow machine is no fault
OBJECT_STORE = 200 * 2**20  # bytes on each node of a cluster: Ray takes a third of the memory if it isn't told
# A lost node is noticed after three seconds; Ray's own default takes about half a minute.
# Ray's provider of pretended machines wants its head known by this name.
FAKE_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
FAKE_HEAD, FAKE_HEAD_TYPE = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000", "ray.head.default"
AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",  # as `ray up` does by default
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD,
    "RAY_NODE_TYPE_NAME": FAKE_HEAD_TYPE,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
HEALTH_CHECKS = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


class S3Server:
    """A real S3 API on loopback (`swift_s3.sh`), as a context. What it holds outlives `kill` and `start`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": S3_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            "AWS_REGION": "us-east-1",
        }

    @cached_property
    def client(self) -> Any:
        config = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            retries={"total_max_attempts": 1},
        )
        session = boto3.session.Session(S3_KEY, S3_SECRET, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.endpoint, config=config)

    def start(self) -> None:
        """Start the server, and return when it answers."""
        self._process = subprocess.Popen(
            ["bash", str(Path(__file__).parent / "swift_s3.sh"), str(self._folder), str(self._port)],
            env={**os.environ, "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + DEADLINE
        while True:
            try:
                self.client.create_bucket(Bucket="ready")
                return
            except self.client.exceptions.BucketAlreadyOwnedByYou:  # from before it was killed
                return
            except (BotoCoreError, ClientError):
                if self._process.poll() is not None or time.monotonic() > end:
                    self.kill()
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """End all its processes at once, as a power cut would."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait(timeout=DEADLINE)
            self._process = None

    def pause(self) -> None:
        """It takes connections, and says nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            for pid in [self._process.pid, *descendants(self._process.pid)]:
                send(pid, number)

    def new_bucket(self) -> str:
        name = f"b{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    def upload(self, folder: Path, uri: str) -> None:
        """Put the files under `folder` under the s3:// prefix `uri`."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}".lstrip("/"))


@dataclass(frozen=True, eq=False)
class Node:
    """One node of a cluster: the process of `ray start --block`, below which all the others of the node are."""

    process: subprocess.Popen[bytes]
    folder: Path
    ip: str

    @property
    def log(self) -> Path:
        return self.folder / "start.log"

    def workers(self) -> dict[int, str]:
        """The processes of actors and tasks on this node, by what Ray calls them. The node's own agents aren't among
        them: it doesn't live without these."""
        found = {pid: title(pid) for pid in descendants(self.process.pid)}
        idle = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
        return {pid: name for pid, name in found.items() if name.startswith("ray::") and name not in idle}

    def kill(self) -> None:
        """End all its processes at once, as the loss of a machine does. Asked to end, Ray takes half a minute."""
        kill_tree(self.process.pid)
        self.process.wait(timeout=DEADLINE)
        shutil.rmtree(self.folder, ignore_errors=True)


class RayCluster:
    """A Ray cluster of several nodes on this machine, as a context; `nodes[0]` is the head.

    Args:
        head_cpus: of the head, as Ray counts them, whatever the machine has; 0 keeps work off it.
        dashboard: whether the head takes jobs, at `dashboard_address`.
        types: node types, as in the cluster launcher's file, of which Ray's autoscaler starts and ends nodes here.
        variables: of the environment of all nodes.
    """

    def __init__(
        self,
        head_cpus: int = 2,
        dashboard: bool = False,
        types: Mapping[str, Mapping[str, Any]] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._head_cpus, self._dashboard, self._types = head_cpus, dashboard, types
        self._variables = dict(variables or {})
        self._port, self._token = free_ports(4), uuid.uuid4().hex
        self.nodes: list[Node] = []

    def __enter__(self) -> RayCluster:
        ports = [f"--port={self._port}", f"--dashboard-port={self._port + 1}"]
        ports += [f"--dashboard-agent-listen-port={self._port + 2}", f"--ray-client-server-port={self._port + 3}"]
        try:
            self._start("", self._head_cpus, "--head", "--num-gpus=0", f"--include-dashboard={self._dashboard}", *ports)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        self.nodes.clear()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use the cluster. A token of its own: Ray's default is a file in the user's home."""
        address = f"127.0.0.1:{self._port}"
        return {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}

    @property
    def dashboard_address(self) -> str:
        return f"http://127.0.0.1:{self._port + 1}"

    @property
    def agent_address(self) -> str:
        """Of the head's agent, which tells whether the node is well."""
        return f"http://127.0.0.1:{self._port + 2}"

    def add_node(self, cpus: int = 2, gpus: int = 0, **environment: str) -> Node:
        """One more node, at an address of its own: to Ray, another machine. Ray believes in GPUs that it is told of."""
        taken = {node.ip for node in self.nodes}
        ip = next(f"127.0.0.{i}" for i in range(2, 255) if f"127.0.0.{i}" not in taken)
        agent = f"--dashboard-agent-listen-port={free_ports(1)}"
        address = self.environment["RAY_ADDRESS"]
        given = [f"--address={address}", f"--node-ip-address={ip}", agent, f"--num-gpus={gpus}"]
        return self._start(ip, cpus, *given, **environment)

    def kill_node(self, node: Node) -> None:
        self.nodes.remove(node)
        node.kill()

    def _start(self, ip: str, cpus: int, *arguments: str, **given: str) -> Node:
        folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # Ray's socket paths must be under 108 characters
        sizes = [f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE}"]
        command = [str(PROGRAMS / "ray"), "start", "--block", "--disable-usage-stats", f"--temp-dir={folder}", *sizes]
        environment = without_ray() | self.environment | HEALTH_CHECKS | self._variables | given
        if self._types is not None and not self.nodes:
            command.append(f"--autoscaling-config={self._autoscaling(folder)}")
            environment |= AUTOSCALER
        with (folder / "start.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        node = Node(process, folder, ip)
        self.nodes.append(node)
        self._wait(node)
        return node

    def _autoscaling(self, folder: Path) -> Path:
        """The launcher's file for `types`, by Ray's own provider of nodes that are processes of this machine."""
        provider = {"type": "external", "module": FAKE_PROVIDER, "launch_multiple": True, "head_node_id": FAKE_HEAD}
        provider["gcs_address"] = self.environment["RAY_ADDRESS"]
        head = {"resources": {"CPU": self._head_cpus}, "node_config": {}, "max_workers": 0}
        types = {name: {**type, "node_config": {}} for name, type in (self._types or {}).items()}
        for type in types.values():
            type["resources"] = {**type["resources"], "object_store_memory": OBJECT_STORE}
        config = {"cluster_name": "test", "max_workers": 8, "idle_timeout_minutes": 0.1, "provider": provider}
        config |= {"available_node_types": {**types, FAKE_HEAD_TYPE: head}, "head_node_type": FAKE_HEAD_TYPE}
        empty: dict[str, Any] = {"file_mounts": {}, "cluster_synced_files": [], "auth": {}}
        lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
        lists += ("head_start_ray_commands", "worker_start_ray_commands")
        path = folder / "autoscaling.json"
        path.write_text(json.dumps(config | empty | {name: [] for name in lists}))
        return path

    def alive(self) -> list[dict[str, float]]:
        """What the nodes that are alive have, by Ray's own account; the head takes jobs, so it answers."""
        request = urllib.request.Request(
            f"{self.dashboard_address}/api/v0/nodes", headers={"Authorization": f"Bearer {self._token}"}
        )
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
        return [node["resources_total"] for node in nodes if node["state"] == "ALIVE"]

    def _wait(self, node: Node) -> None:
        """Until the node is up: a cluster of this many nodes, and, where it takes jobs, a list of them."""
        end = time.monotonic() + DEADLINE
        while b"Ray runtime started" not in node.log.read_bytes() or not self._takes_jobs():
            if node.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a Ray node didn't start: {node.log.read_text()[-3000:]}")
            time.sleep(0.2)

    def _takes_jobs(self) -> bool:
        if not self._dashboard:
            return True
        request = urllib.request.Request(
            f"{self.dashboard_address}/api/jobs/", headers={"Authorization": f"Bearer {self._token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10):
                return True
        except OSError:
            return False


def without_ray() -> dict[str, str]:
    """This process's environment, without what would tie another to its Ray or to this checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports of loopback that are free."""
    for first in range(20_000 + os.getpid() % 10_000, 60_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, server in enumerate(sockets):
                server.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for server in sockets:
                server.close()
    raise OSError(f"no {count} neighbouring free ports")


def parents() -> dict[int, int]:
    """The parent of each process. Of a forked child (tests/forking.py) it is the process that asked for it, which may
    be gone."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            name, _, values = path.read_text().partition(" (")[2].rpartition(")")
            asker = name.removeprefix(MARK) if name.startswith(MARK) else values.split()[1]
            found[int(path.parent.name)] = int(asker)
    return found


def descendants(pid: int) -> list[int]:
    """The processes that `pid` started, and those that they did."""
    of, found = parents(), [pid]
    for parent in found:
        found += [child for child, its in of.items() if its == parent]
    return found[1:]


def title(pid: int) -> str:
    """A process's command line, or what it calls itself; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def kill_tree(pid: int) -> None:
    """End a process and all below it at one moment: each is stopped first, so that none can clean up after another
    or start a new one."""
    stopped: list[int] = []
    while new := [found for found in (pid, *descendants(pid)) if found not in stopped]:
        stopped += new
        for found in new:
            send(found, signal.SIGSTOP)
    for found in stopped:
        send(found, signal.SIGKILL)


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether the process was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
