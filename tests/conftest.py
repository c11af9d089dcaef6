"""What several parts' tests share: one Ray, one real S3 server, one small model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch is imported: on two cores that Ray shares, small models with two spinning threads are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

S3_KEY, S3_SECRET = "test:tester", "swift-secret-3f9c"  # as in swift_s3.sh


@dataclass(frozen=True)
class S3Server:
    """A real S3 API on loopback."""

    endpoint: str
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": S3_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            "AWS_REGION": "us-east-1",
        }

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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    port = free_ports(4)
    endpoint = f"http://127.0.0.1:{port}"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        ["bash", str(Path(__file__).parent / "swift_s3.sh"), str(tmp_path_factory.mktemp("swift")), str(port)],
        env={**os.environ, "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield S3Server(endpoint, _wait_for_s3(endpoint, process))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _wait_for_s3(endpoint: str, process: subprocess.Popen[bytes]) -> Any:
    """A client of the server, once it answers."""
    config = Config(
        s3={"addressing_style": "path"}, request_checksum_calculation="when_required", retries={"total_max_attempts": 1}
    )
    session = boto3.session.Session(S3_KEY, S3_SECRET, region_name="us-east-1")
    client = session.client("s3", endpoint_url=endpoint, config=config)
    end = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket="ready")
            return client
        except (BotoCoreError, ClientError):
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.2)


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


@pytest.fixture(scope="session")
def ray_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray on two CPUs, whatever the machine has."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-NeXT with random weights; its words are w0 to w199."""
    from tests.tiny_models import build

    return build(tmp_path_factory.mktemp("models") / "tiny")
