"""A study's page at an address of this machine while its search runs; it changes in the browser without a reload.

It is drawn and served by a process of its own, which reads the study's folder as any other reader does: whatever
happens to it, the search goes on. Only this machine's own address is listened at, nothing can be changed there, and a
name that an outside page resolves to this machine is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TextIO

from bo_distill.methods.errors import UsageError
from bo_distill.methods.outside import trust
from bo_distill.search.command.interruption import interruption
from bo_distill.search.execution.processes import Fresh
from bo_distill.search.rows.export import printable

if TYPE_CHECKING:
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.study.ledger import Study

TICK = 1.0  # seconds between two looks at the study
REST = 4  # times as long as a drawing took, nothing is drawn: the cores are the trials'
LINGER = 3.0  # seconds in which a browser may still fetch the last state
HOST = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """A socket that this machine alone can reach; port 0 is a free one.

    Raises:
        UsageError: the port is taken, or not this user's to take.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise UsageError(f"--live {port}: {os.strerror(error.errno or 0)}; give another port or none") from None


def address(door: socket.socket) -> str:
    """What a browser is given."""
    host, port = door.getsockname()
    return f"http://{host}:{port}/"


class Board:
    """What browsers see: the page as it was last drawn.

    Attributes:
        page: HTML; None before the first drawing.
        version: of the page, from 1.
        ended: nothing will change any more.
        asked: when a browser last asked, by the monotonic clock.
        told: a browser was told the end.
    """

    def __init__(self) -> None:
        self.page: bytes | None = None
        self.version, self.ended = 0, False
        self.asked, self.told = 0.0, threading.Event()
        self.drawn = threading.Event()

    def put(self, page: str) -> None:
        """Show another page."""
        self.page = page.encode()
        self.version += 1
        self.drawn.set()


class Server(ThreadingHTTPServer):
    """Answers browsers, each request in a thread of its own, from a socket that listens already."""

    daemon_threads = True

    def __init__(self, door: socket.socket, board: Board) -> None:
        super().__init__(door.getsockname(), Answer, bind_and_activate=False)
        self.socket.close()
        self.socket, self.board = door, board
        port = door.getsockname()[1]
        hosts = (HOST, "localhost")
        self.names = {f"{name}:{port}" for name in hosts} | ({*hosts} if port == 80 else set())  # a browser omits 80

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that went away is no error of ours."""


class Answer(BaseHTTPRequestHandler):
    """Answers one request: the page, or which version of it there is."""

    server: Server
    timeout = 10.0
    server_version, sys_version = "live", ""

    def do_GET(self) -> None:
        """The page at /, its version at /version, nothing else."""
        board = self.server.board
        if self.headers.get("Host") not in self.server.names:
            self._send(403, "text/plain", b"give the address as the search printed it\n")
        elif self.path == "/":
            board.drawn.wait(30)
            if board.page is None:
                self._send(503, "text/plain", b"the page is not drawn yet; try again in a moment\n")
            else:
                self._send(200, "text/html; charset=utf-8", board.page)
        elif self.path == "/version":
            board.asked, ended = time.monotonic(), board.ended
            self._send(200, "application/json", json.dumps({"version": board.version, "ended": ended}).encode())
            if ended:
                board.told.set()
        else:
            self._send(404, "text/plain", b"there is only /\n")

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the search's."""


def serve(door: socket.socket, storage: Storage, name: str, over: Callable[[float], bool]) -> None:
    """Serve a study's page until its search has ended.

    Args:
        door: listens.
        over: waits so many seconds, less where the search ends meanwhile; returns whether it has.
    """
    board = Board()
    with Server(door, board) as server:
        answers = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        answers.start()
        try:
            _draw(board, storage, name, over)
            board.ended = True
            if time.monotonic() - board.asked < LINGER:
                board.told.wait(LINGER)
        finally:
            server.shutdown()
            answers.join()


def _draw(board: Board, storage: Storage, name: str, over: Callable[[float], bool]) -> None:
    """Draw the page whenever something has changed, until the search has ended."""
    from bo_distill.search.pages.study import live_page
    from bo_distill.search.study.ledger import Study

    seen: Any = None
    spent, ended = 0.0, False
    while not ended:
        ended = over(max(TICK if seen else 0.0, REST * spent))
        try:
            study = Study.open(storage, name)
            if study.trials == seen:
                ended = ended or study.complete
                continue
            seen, before = study.trials, time.process_time()
            page = live_page(study, board.version + 1)
            spent = time.process_time() - before
            board.put(page)
            ended = ended or study.complete
        except Exception as error:  # what draws is a dozen libraries, and the folder may be gone
            print(printable(f"the page was not drawn: {error}"), file=sys.stderr, flush=True)


class LivePage:
    """The live page of a search that this process runs.

    Args:
        port: as `listen` takes it.

    Raises:
        UsageError: the port cannot be listened at.
    """

    def __init__(self, port: int) -> None:
        self.door = listen(port)
        self.process: Any = None

    def show(self, study: Study, terminal: TextIO) -> None:
        """Begin to serve the study, whose folder is there, and say where."""
        print(f"live page: {address(self.door)}", file=terminal, flush=True)
        context = Fresh()
        heard, self.line = context.Pipe(duplex=False)
        task = study.plan.task
        what = (self.door, heard, study.storage, task.study, task.method)
        self.process = context.Process(target=_beside, args=what, daemon=True)
        self.process.start()
        heard.close()
        self.door.close()

    def close(self, at_once: bool) -> None:
        """End it; unless at once, open browsers are shown the last state before."""
        self.door.close()
        if self.process is None:
            return
        with contextlib.suppress(OSError):  # it is gone
            if not at_once:
                self.line.send(None)
            self.line.close()
        self.process.join(0.5 if at_once else 30.0)
        self.process.kill()


@contextlib.contextmanager
def live(args: argparse.Namespace) -> Iterator[LivePage | None]:
    """The live page that --live asks for, closed with the search; None where it does not.

    Raises:
        UsageError: the port cannot be listened at.
    """
    if args.live is None:
        yield None
        return
    page = LivePage(args.live)
    try:
        yield page
    except BaseException:
        page.close(at_once=True)
        raise
    page.close(at_once=interruption().asked)


def follow(study: Study, port: int) -> None:
    """Serve the page of a study that another process runs, until its search has ended or the person ends this.

    Raises:
        UsageError: it has ended, or the port cannot be listened at.
    """
    name = study.plan.task.study
    if study.complete:
        raise UsageError(f"--live: the search of {name} has ended; leave it out to write its page")
    door = listen(port)
    print(f"live page: {address(door)} (Ctrl-C ends it)", file=sys.stderr, flush=True)

    def over(seconds: float) -> bool:
        """False, after so many seconds: the study's folder says when its search has ended."""
        time.sleep(seconds)
        return False

    with contextlib.suppress(KeyboardInterrupt):
        serve(door, study.storage, name, over)


def _beside(door: socket.socket, line: Connection, storage: Storage, name: str, method: str) -> None:
    """What the process of a live page does, until the search says that it has ended, or is gone itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the search, which closes the page
    os.nice(10)
    os.environ["OMP_NUM_THREADS"] = "1"
    trust(method)  # the search's process has looked at it

    def over(seconds: float) -> bool:
        """Whether the search has ended, within so many seconds."""
        if not line.poll(seconds):
            return False
        try:
            line.recv()
        except EOFError:
            os._exit(0)  # nobody waits for the last state
        return True

    serve(door, storage, name, over)
