"""The cluster's file by Ray's own rules, and what fits where."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from bo_distill.distributed.ray import cluster
from bo_distill.distributed.ray.cluster import layout
from bo_distill.methods.errors import UsageError
from bo_distill.search.run import parser

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config() -> Any:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_the_file(config: Any) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"
    assert prepared["available_node_types"]["gpu"]["resources"] == {"CPU": 8, "GPU": 1}


@pytest.mark.parametrize("most", [4, 6])
def test_a_search_reckons_with_the_nodes_that_may_come(
    most: int, config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At first there is the head alone, which offers no CPU. The one number in the file bounds the rest."""
    from ray.autoscaler._private.util import prepare_config

    assert config["max_workers"] == 4
    left = tmp_path / "ray_bootstrap_config.yaml"
    left.write_text(json.dumps(prepare_config(config | {"max_workers": most})))  # as `ray up` leaves it with the head
    monkeypatch.setattr(cluster, "alive", lambda: {"head": {"memory": 1.0}})
    monkeypatch.setattr(cluster, "BOOTSTRAP", left)
    assert cluster.reach() == [{"CPU": 8, "GPU": 1}] * most
    place = layout(cluster.reach(), workers=4, concurrency=None)
    assert (place.cpus, place.gpus, place.concurrency) == (8, 1.0, 1)
    monkeypatch.setattr(cluster, "BOOTSTRAP", tmp_path / "none")
    assert cluster.reach() == [{"memory": 1.0}]


def test_the_file_is_safe_to_share(config: Any) -> None:
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|aws_access_key|password", text, re.IGNORECASE)
    assert "--dashboard-host=127.0.0.1" in text and "0.0.0.0" not in text
    assert "SecurityGroup" not in text, "Ray's own group opens ssh only"
    assert config["available_node_types"]["gpu"]["min_workers"] == 0
    assert len(re.findall("# EDIT [123] of 3", text)) == 3


FILES = ("cluster.yaml", "docs/cluster/onprem.yaml")


@pytest.mark.parametrize("file", FILES)
def test_every_ray_that_is_started_asks_for_the_token(file: str) -> None:
    config = yaml.safe_load((ROOT / file).read_text())
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token " in line for line in starts if "ray start" in line)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_nodes_have_no_more_rights_than_they_need(config: Any) -> None:
    head, worker = (config["available_node_types"][kind]["node_config"] for kind in ("head", "gpu"))
    assert head["IamInstanceProfile"] != worker["IamInstanceProfile"]
    for node in (head, worker):
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
    job = yaml.safe_load((ROOT / "docs/cluster/kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for container in (c for pod in pods for c in pod["template"]["spec"]["containers"]):
        rights = container["securityContext"]
        assert rights["runAsNonRoot"] and not rights["allowPrivilegeEscalation"]
    assert "USER ray" in (ROOT / "docs/cluster/Dockerfile").read_text() and (ROOT / ".dockerignore").exists()


@pytest.mark.parametrize("file", FILES)
def test_keys_stay_behind_but_the_one_that_the_head_needs(file: str, tmp_path: Path) -> None:
    """By the options that Ray gives to rsync. It copies its own key as one file more, under the same ones."""
    from ray.autoscaler._private.command_runner import SSHCommandRunner

    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed")
    config = yaml.safe_load((ROOT / file).read_text())
    options = SSHCommandRunner._create_rsync_filter_args(None, config)

    def sent(source: str, to: str, name: str = "") -> set[str]:
        """What is in the folder after it."""
        folder = tmp_path / to
        folder.mkdir()
        words = ["rsync", "-avz", *options, source, f"{to}/{name}"]
        subprocess.run(words, check=True, cwd=tmp_path, capture_output=True)
        return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}

    travel = {".git/HEAD", ".gitignore", "README.md", "methods/data/cifar.py", "docs/results/README.md"}
    stay = {
        ".env",
        "own.pem",
        "docs/own.key",
        ".venv/bin/python",
        "results/a.parquet",
        "data/x",
        "search/__pycache__/a.pyc",
    }
    for name in travel | stay:
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).touch()
    shutil.copy(ROOT / ".gitignore", tmp_path / "project")
    assert sent("project/", "search") == travel
    for key in ("ray-autoscaler_us-west-2.pem", "own.key", "id_ed25519"):
        (tmp_path / key).touch()
        assert sent(key, f"head of {key}", "ray_bootstrap_key.pem") == {"ray_bootstrap_key.pem"}


@pytest.mark.slow
def test_a_cluster_answers_nobody_without_its_token(tmp_path: Path) -> None:
    """As the files start Ray, asked over the network from another HOME."""
    ours, other = tmp_path / "ours", tmp_path / "other"
    (ours / ".ray").mkdir(parents=True)
    other.mkdir()
    (ours / ".ray/auth_token").write_text(secrets.token_hex(32))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_AUTH_MODE": "token"}
    ray = str(Path(sys.executable).with_name("ray"))
    words = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
    ask = f"import ray; ray.init(address='127.0.0.1:{port}', logging_level='ERROR'); print('in', len(ray.nodes()))"
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    head = subprocess.Popen(words, env=base | {"HOME": str(ours)}, **quiet)

    def asked(**environment: str) -> str:
        words = [sys.executable, "-c", ask]
        done = subprocess.run(words, env=base | environment, capture_output=True, text=True, timeout=200)
        return done.stdout.strip() or "refused"

    try:
        deadline = time.monotonic() + 200
        while (found := asked(HOME=str(ours))) != "in 1":
            assert head.poll() is None and time.monotonic() < deadline, found
        assert asked(HOME=str(other)) == "refused"
        assert asked(HOME=str(other), RAY_AUTH_MODE="disabled") == "refused"
        assert asked(HOME=str(other), RAY_AUTH_TOKEN="0" * 64) == "refused"
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)


def test_the_nodes_install_from_the_lock(config: Any) -> None:
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(config)  # with Ray's own commands where the file has none
    for kind in ("head_setup_commands", "worker_setup_commands"):
        installs = [line for line in prepared[kind] if "pip install" in line]
        assert installs and all("-c requirements.lock" in line for line in installs)
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(r"^ray==\d", lock, re.MULTILINE)
    assert "://" not in lock, "the lock names no registry"


def test_the_lock_with_digests_is_the_lock() -> None:
    """`pip install --require-hashes` refuses a requirement without a digest; scripts/hash-lock makes the file."""
    hashed = (ROOT / "requirements-hashed.lock").read_text()
    entries = re.split(r"\n(?=\S)", hashed.strip())
    assert {entry.split()[0] for entry in entries} == set((ROOT / "requirements.lock").read_text().split())
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries)
    assert "://" not in hashed, "the lock names no registry"


def test_ray_accepts_machines_of_our_own() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "docs/cluster/onprem.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    (kind,) = prepared["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"])
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert "RAY_enable_autoscaler_v2=0 " in config["head_start_ray_commands"][1], "the other does not know the provider"
    config["head_start_ray_commands"][1] = config["head_start_ray_commands"][1].replace(
        "RAY_enable_autoscaler_v2=0 ", ""
    )
    for same in ("head_start_ray_commands", "worker_start_ray_commands", "file_mounts", "rsync_filter"):
        assert config[same] == aws[same]


def test_every_file_of_the_project_reaches_the_nodes(config: Any) -> None:
    """As rsync reads .gitignore: a pattern that begins with a slash holds at the top only, others at any depth."""
    assert config["rsync_filter"] == [".gitignore"]
    patterns = (ROOT / ".gitignore").read_text().split()
    assert {".env", "*.pem", "*.key"} <= set(patterns)

    def left_out(path: Path) -> bool:
        top = [pattern.strip("/") for pattern in patterns if pattern.startswith("/")]
        deep = [pattern.strip("/") for pattern in patterns if not pattern.startswith("/")]
        return any(fnmatch(path.parts[0], pattern) for pattern in top) or any(
            fnmatch(part, pattern) for part in path.parts for pattern in deep
        )

    folders = ("methods", "distributed", "search", "tests", "benchmarks", "docs")
    files = [
        file.relative_to(ROOT) for folder in folders for file in (ROOT / folder).rglob("*.*") if file.suffix != ".pyc"
    ]
    assert Path("methods/data/texts/file.py") in files and not [file for file in files if left_out(file)]
    assert left_out(Path("results/stages/some")) and left_out(Path("search/__pycache__/run.pyc"))


def test_the_job_for_kubernetes() -> None:
    """What its custom resource definition asks for; the operator alone can say more."""
    job = yaml.safe_load((ROOT / "docs/cluster/kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("python -m search.run fsp") and "--address auto" in spec["entrypoint"]
    parser().parse_args(spec["entrypoint"].split()[3:])
    assert spec["shutdownAfterJobFinishes"] and spec["backoffLimit"] == 0
    ray = re.search(r"^ray==(.+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    kube = spec["rayClusterSpec"]
    assert ray and kube["rayVersion"] == ray[1]
    assert f"rayproject/ray:{ray[1]}-py311" in (ROOT / "docs/cluster/Dockerfile").read_text()
    head, (gpu,) = kube["headGroupSpec"], kube["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0" and head["serviceType"] == "ClusterIP"
    assert f"--workers {gpu['replicas']} " in spec["entrypoint"] and gpu["minReplicas"] == gpu["maxReplicas"]
    containers = [group["template"]["spec"]["containers"][0] for group in (head, gpu)]
    assert [container["name"] for container in containers] == ["ray-head", "ray-worker"]
    assert len({container["image"] for container in containers}) == 1
    assert "@sha256:" in containers[0]["image"], "a tag can be moved"
    for container in containers:
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert containers[1]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("nodes", "workers", "concurrency", "expected"),
    [
        ([{"CPU": 2.0}], 1, None, (1, 0.0, 2)),
        ([{"CPU": 2.0}], 2, None, (1, 0.0, 1)),
        ([{"CPU": 8.0}], 1, 2, (4, 0.0, 2)),
        ([{"CPU": 16.0, "GPU": 2.0}], 1, None, (8, 1.0, 2)),
        ([{"CPU": 16.0, "GPU": 1.0}], 1, 4, (4, 0.25, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}], 2, None, (4, 1.0, 2)),
        ([{"CPU": 16.0, "GPU": 2.0}], 1, 3, (4, 0.5, 3)),  # two thirds of a GPU would leave the third nowhere to run
        # A head without cores, and workers that no single node could hold together.
        ([{}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}], 2, None, (8, 1.0, 1)),
        ([{"CPU": 2.0}, {"CPU": 3.0}], 1, 1, (3, 0.0, 1)),
        ([{"CPU": 1.0}] * 4, 1, 2, (1, 0.0, 2)),
        ([{"CPU": 16.0}, {"CPU": 8.0, "GPU": 1.0}], 1, None, (8, 1.0, 1)),
    ],
)
def test_trials_fit(
    nodes: list[dict[str, float]], workers: int, concurrency: int | None, expected: tuple[Any, ...]
) -> None:
    place = layout(nodes, workers=workers, concurrency=concurrency)
    assert (place.cpus, place.gpus, place.concurrency) == expected
    assert place.cpus * place.workers * place.concurrency <= sum(node.get("CPU", 0.0) for node in nodes)
    assert place.gpus * place.workers * place.concurrency <= sum(node.get("GPU", 0.0) for node in nodes)


@pytest.mark.parametrize(
    ("nodes", "workers", "concurrency"),
    [
        ([{"CPU": 2.0}], 3, None),
        ([{"CPU": 2.0}], 1, 3),
        ([{"CPU": 8.0, "GPU": 1.0}], 2, None),
        ([{}], 1, None),
        ([{"CPU": 16.0, "GPU": 2.0}], 2, 4),
    ],
)
def test_what_can_never_run_is_refused(nodes: list[dict[str, float]], workers: int, concurrency: int | None) -> None:
    with pytest.raises(UsageError, match="at most"):
        layout(nodes, workers=workers, concurrency=concurrency)


def test_the_searches_in_the_words_of_the_docs_can_be_understood() -> None:
    found = []
    for line in (ROOT / "docs/cluster.md").read_text().splitlines():
        if line.startswith("    ") and "-m search.run " in line:
            found.append(line.split("-m search.run ")[1].split("'")[0].split())
            parser().parse_args(found[-1])
    assert len(found) == 3


def test_a_ray_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    """Something listens at the address and never answers."""
    script = """
import sys
from bo_distill.distributed.ray import cluster
from bo_distill.search import run
cluster.START_SECONDS = 3
sys.exit(run.main(sys.argv[1:]))
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        words = [sys.executable, "-c", script, "fsp", f"--address={address}", f"--storage={tmp_path / 'results'}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.startswith("error: Ray did not start: ")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "results").exists()


MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.50.0
    Python: 3.11.9
This process on node 10.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.12.1
"""


@pytest.mark.parametrize(
    ("error", "words", "code", "said"),
    [
        (RuntimeError(MISMATCH), ["--address=auto"], 1, f"Ray did not start: {' '.join(MISMATCH.split())}"),
        (Exception("The node timed out."), [], 1, "The node timed out. Try again when the machine is less busy"),
        (OSError("AF_UNIX path length\ncannot exceed"), [], 1, "Ray did not start: AF_UNIX path length cannot exceed"),
        (
            ConnectionError("Could not find any\nrunning Ray."),
            ["--address=auto"],
            2,
            "(Could not find any running Ray.)",
        ),
        (SystemExit(15), [], 130, "interrupted"),  # what Ray's handler of SIGTERM raises
    ],
)
@pytest.mark.parametrize("command", ["search.run", "search.compare"])
def test_a_start_that_fails_gives_the_whole_reason_and_leaves_nothing(
    command: str, error: BaseException, words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    def fail(**options: Any) -> None:
        """In the place of `ray.init`."""
        raise error

    storage = f"--storage={tmp_path / 'results'}"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as stderr:
        patch.setattr("ray.init", fail)
        try:
            found = importlib.import_module(command).main(["fsp", *words, storage])
        except SystemExit as end:
            found, line = 1, str(end.code)
        else:
            line = stderr.getvalue()
    assert found == code and said in line and line.strip().count("\n") == 0
    assert "busy" not in line or "timed out" in line
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("tmpdir", "ours"), [("/tmp", False), ("/scratch/" + "x" * 60, True), ("/" + "é" * 25, True)])
def test_sockets_fit_into_any_folder(tmpdir: str, ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", tmpdir)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with cluster._folder() as folder:
        assert (folder is not None) == ours
        if folder:
            assert len(folder) < 40 and Path(folder).stat().st_mode & 0o077 == 0
    assert not folder or not Path(folder).exists()
    monkeypatch.setenv("RAY_TMPDIR", "/scratch/" + "x" * 60)
    with cluster._folder() as folder:
        assert folder is None, "Ray is told by RAY_TMPDIR, and says itself what is wrong with it"
