"""A server that speaks S3, in a process of its own on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="package")
def server() -> Iterator[dict[str, str]]:
    """A fresh server; yields the environment that leads to it."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    address = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    # Makes the bucket, and the first request is the slow one: it imports what answers it.
    urlopen(Request(f"{address}/results", method="PUT"), timeout=300).close()
    yield {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    process.stdin.close()
    process.wait()


@pytest.fixture
def bucket(server: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URI of a folder in a bucket, this test's own."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return f"s3://results/team/{request.node.name.replace('[', '-').rstrip(']')}"
