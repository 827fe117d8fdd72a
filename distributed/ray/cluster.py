"""Ray on a laptop or at an address, and how much of it one trial may take."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlparse

import bo_distill
from bo_distill.distributed.machine import cores
from bo_distill.distributed.ray.private import died_with_its_node, environment, orphaned_groups, own_session
from bo_distill.methods.errors import UsageError, counted

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
NOTICED = 30.0  # seconds
START_SECONDS = 300.0  # on a quiet laptop Ray takes two
BUSY = ". Try again when the machine is less busy"
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # the longest that Ray makes
LONGEST = 103 if sys.platform == "darwin" else 107  # bytes of a socket's path


@dataclass(frozen=True)
class Layout:
    """What one trial takes of the cluster, and how many run side by side.

    Attributes:
        workers: processes that share one trial's batches. 1 trains in the trial's own process.
        cpus: cores of each worker, and the threads that it may use.
        gpus: of each worker.
        concurrency: trials at once.
    """

    workers: int
    cpus: int
    gpus: float
    concurrency: int

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU{'s' * (self.gpus != 1)}" if self.gpus else ""  # a GPU can be shared: 0.5
        each = f"{counted(self.workers, 'worker')} of {counted(self.cpus, 'CPU')}{gpus}"
        return f"{counted(self.concurrency, 'trial')} at once, each on {each}"


Node = Mapping[str, float]
"""What a node has: "CPU", "GPU"."""


def machine() -> list[Node]:
    """The node that a Ray of this process would have."""
    import torch

    return [{"CPU": float(cores()), "GPU": float(torch.cuda.device_count())}]


def _total(nodes: Sequence[Node]) -> tuple[int, int]:
    """CPUs and GPUs of them all."""
    cpus, gpus = (sum(int(node.get(kind, 0)) for node in nodes) for kind in ("CPU", "GPU"))
    return cpus, gpus


def room(nodes: Sequence[Node], workers: int) -> int:
    """How many trials of so many workers can run at once. A trial of one worker may share its GPU with others."""
    cpus, gpus = _total(nodes)
    return min(cpus // workers, gpus // workers) if gpus and workers > 1 else cpus // workers


def layout(nodes: Sequence[Node], *, workers: int, concurrency: int | None) -> Layout:
    """How trials fit on `nodes`.

    Raises:
        UsageError: more workers or trials than can ever run; a search would wait for ever.
    """
    cpus, gpus = _total(nodes)
    if workers > cpus:
        raise UsageError(f"--workers {workers}: Ray has {counted(cpus, 'CPU')}; give at most {cpus}")
    if gpus and workers > gpus:
        raise UsageError(
            f"--workers {workers}: Ray has {counted(gpus, 'GPU')} and each worker takes one; give at most {gpus}"
        )
    most = room(nodes, workers)
    if concurrency is not None and concurrency > most:
        has = counted(cpus, "CPU") + (f" and {counted(gpus, 'GPU')}" if gpus else "")
        raise UsageError(
            f"--concurrency {concurrency}: Ray has {has}, "
            f"room for {counted(most, 'trial')} of {counted(workers, 'worker')}; give at most {most}"
        )
    at_once = concurrency or (max(1, min(most, gpus // workers)) if gpus else most)
    # Ray splits no trial over two GPUs: each takes as large a share of one as that GPU's others do.
    gpu_share = (1.0 if workers > 1 else 1 / math.ceil(at_once / gpus)) if gpus else 0.0
    # A worker lies on one node: it may have that node's cores, or those beside one of its GPUs, and no more.
    fit = [(node.get("CPU", 0), node.get("GPU", 0) / gpu_share if gpus else 1) for node in nodes]
    widest = max(int(cores / max(1, places)) for cores, places in fit if places)
    return Layout(workers, max(1, min(widest, cpus // (at_once * workers))), gpu_share, at_once)


def check_address(address: str, seconds: float = 10.0) -> None:
    """Find out in seconds whether anything answers at host:port or ray://host:port.

    Raises:
        UsageError: nothing does.
    """
    parsed = urlparse(address if "://" in address else f"ray://{address}")
    try:
        if not parsed.hostname or not parsed.port:
            raise ValueError("not host:port")
        with socket.create_connection((parsed.hostname, parsed.port), timeout=seconds):
            pass
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--address {address}: {error}; give auto on the head node, host:port or ray://host:port"
        ) from None


def alive() -> dict[str, Node]:
    """The cluster's nodes, by Ray's ids."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def reach() -> list[Node]:
    """The nodes that there are, or those that the cluster may grow to, where it has an autoscaler and they are more.

    Ray tells its nodes nothing of the second, but `ray up` leaves its file with the head.
    """
    import yaml

    now, grown = list(alive().values()), []
    if BOOTSTRAP.expanduser().exists():
        config = yaml.safe_load(BOOTSTRAP.expanduser().read_text(encoding="utf-8"))
        for kind in config.get("available_node_types", {}).values():
            grown += [kind.get("resources", {})] * kind.get("max_workers", 0)
        grown = grown[: config.get("max_workers")]
    return max(now, grown, key=lambda nodes: sum(node.get("CPU", 0) + node.get("GPU", 0) for node in nodes))


class NodeLost(Exception):
    """A node went, such as a spot instance that was taken, and what ran there went with it."""


def node_lost(error: BaseException) -> bool:
    """Whether what `error` tells of is the loss of a node.

    Ray says so in words, and by a flag only where a drain was announced; its actor table has the reason.
    """

    def with_node(death: Any) -> bool:
        """Whether the actor died because its node did."""
        return death.preempted or bool(death.actor_id and died_with_its_node(death.actor_id))

    return isinstance(error, NodeLost) or any(map(with_node, dead_actors(error)))


def dead_actors(error: BaseException) -> list[Any]:
    """The deaths that an error tells of; Ray Train's holds one of each worker."""
    from ray.exceptions import RayActorError

    errors = (error, *getattr(error, "worker_failures", {}).values())
    return [each for each in errors if isinstance(each, RayActorError)]


def await_loss(nodes: Collection[str]) -> bool:
    """Whether one of these nodes turns out to be gone. The errors of workers that lost their partner come at once, but
    Ray takes up to `NOTICED` seconds to notice that the partner's node went."""
    deadline = time.monotonic() + NOTICED
    while not set(nodes) - alive().keys():
        if len(nodes) == 1 or time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def free_orphans() -> None:
    """Give back what Ray Train's workers held in trials that died.

    Ray keeps an actor's placement groups until the whole job ends, and Ray Train's own cleaner asks a dashboard that a
    laptop does not run. The next trial would wait for ever.
    """
    from ray.util.placement_group import remove_placement_group

    for group in orphaned_groups():
        remove_placement_group(group)


@contextlib.contextmanager
def connected(address: str | None, terminal: TextIO) -> Iterator[list[Node]]:
    """A Ray to run on: the one at `address`, or a one-node Ray of this process that ends with it. Yields its nodes, or
    those that the one at `address` may grow to.

    A Ray that takes longer than `START_SECONDS` ends the process with one line on `terminal`.

    Raises:
        UsageError: no Ray answers at `address`, or this process is connected to one.
        SystemExit: with one line, Ray failed to start.
        KeyboardInterrupt: SIGTERM came while it started.
    """
    os.environ.update({name: value for name, value in environment().items() if name not in os.environ})
    import logging

    import ray

    if ray.is_initialized():  # a notebook's own, which would be shut down with the search
        raise UsageError("this process is connected to a Ray already; call ray.shutdown() first")

    package = Path(bo_distill.__file__).resolve().parent
    root = str(package.parent)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as stack:
        if address:
            excludes = [
                ".git",
                ".venv*",
                "/data",
                "/docs",
                "/results",
                "*.parquet",
                "*.safetensors",
                ".env",
                "*.pem",
                "*.key",
            ]
            # Of a checkout everything is sent, a person's own method too; of an installation the package alone.
            checkout = (package.parent / "pyproject.toml").exists()
            sent = {"working_dir": root, "excludes": excludes} if checkout else {"py_modules": [str(package)]}
            options |= {"address": address, "runtime_env": sent}
        else:
            found = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            options |= {"address": "local", "include_dashboard": False, "_temp_dir": stack.enter_context(_folder())}
            options["runtime_env"] = {"env_vars": {"PYTHONPATH": found}}
            _have_token()
        stack.callback(_shut_down)
        with own_session(), _watched(terminal):
            _start(options)
        yield reach() if address else list(alive().values())


def _start(options: Mapping[str, Any]) -> None:
    """`ray.init`, whose failures are one line. SIGTERM means what it did before: Ray sets a handler of its own."""
    import ray

    answer = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise UsageError(
            f"--address {options['address']}: no Ray answers ({_one_line(error)}); start one first"
        ) from None
    except SystemExit:  # Ray's own handler of SIGTERM
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray raises a bare one, also when its own processes are slow
        reason = _one_line(error)
        sys.exit(f"error: Ray did not start: {reason.rstrip('.') + BUSY if 'timed out' in reason else reason}")
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, answer)


def _shut_down() -> None:
    """`ray.shutdown`, during which SIGTERM keeps its meaning: Ray's C++ part gives it back the system's, which ends the
    process at once, a second or two before Ray's own processes have ended."""
    import ray

    if threading.current_thread() is not threading.main_thread():
        ray.shutdown()
        return
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(ray.shutdown)
        while not ended.done():
            wait([ended], timeout=0.01)
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
        ended.result()


def _one_line(error: BaseException) -> str:
    """All that an error says."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _folder() -> Iterator[str | None]:
    """Where a Ray of this process keeps its sockets and logs: its own choice, which follows RAY_TMPDIR and TMPDIR, or a
    short one of ours where TMPDIR, as of a scheduler's job, makes the path of a socket longer than the system takes."""
    usual = os.environ.get("TMPDIR", "")
    if "RAY_TMPDIR" in os.environ or len(os.fsencode(usual + SOCKET)) <= LONGEST:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix=f"ray-{os.getuid()}-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def _have_token() -> None:
    """Where HOME cannot be written, Ray cannot keep there the token that it makes: this process has its own then."""
    kept = Path("~/.ray/auth_token").expanduser()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(kept.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable and not kept.exists():
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def _watched(terminal: TextIO) -> Iterator[None]:
    """End the process if what is done in here takes longer than `START_SECONDS`."""
    watchdog = threading.Timer(START_SECONDS, _give_up, [terminal])
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _give_up(terminal: TextIO) -> None:
    """End the process: while it waits, Ray is deaf to signals and exceptions. What it started ends with it."""
    print(f"error: Ray did not start: it took more than {START_SECONDS:g} s{BUSY}", file=terminal, flush=True)
    os._exit(1)


@contextlib.contextmanager
def chatter_to(path: Path) -> Iterator[TextIO]:
    """Send all that this process writes to stdout and stderr, C++ code included, to a file. Yields the real stderr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = os.dup(1), os.dup(2)
    with open(path, "ab", buffering=0) as file, os.fdopen(os.dup(err), "w", buffering=1) as terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.close(out)
            os.close(err)
