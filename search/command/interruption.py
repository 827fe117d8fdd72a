"""What SIGINT, SIGTERM and SIGHUP do to a command: it ends within `PATIENCE` seconds and says how to go on."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10.0  # seconds that an orderly end may take
TOGETHER = 1.0  # seconds in which a second signal is the same request: `timeout` signals a process, then its group

_current: ContextVar[Interruption] = ContextVar("interruption")


class Interruption:
    """The request to end this command, which may come at any time.

    The first signal raises KeyboardInterrupt, or is only noted within `deferred`. A thread of its own ends the process
    when that takes longer than `PATIENCE` or at a second signal, even while the main thread waits in C++ for a Ray that
    is gone. Ray's processes on this machine end with this one.

    Attributes:
        words: the line to say.
        asked: whether a signal came.
    """

    def __init__(self) -> None:
        self.words = "interrupted"
        self.asked = False
        self._deferred = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a signal, for work that looks at `asked` by itself."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextlib.contextmanager
    def heeded(self, code: int) -> Iterator[None]:
        """Answer signals; those that the process was started to ignore (nohup) stay ignored.

        Python lets only the main thread handle signals: elsewhere, as in a notebook's server, nothing is answered.

        Args:
            code: to end the process with, where it does not end by itself.
        """
        token = _current.set(self)
        try:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            heard, told = os.pipe()
            terminal = os.dup(2)  # stderr itself may go to a file for a while
            os.set_blocking(told, False)
            kept = {number: signal.getsignal(number) for number in SIGNALS}
            for number in SIGNALS:
                if kept[number] != signal.SIG_IGN:
                    signal.signal(number, self._handle)
            before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
            watch = threading.Thread(target=self._watch, args=(heard, terminal, code), daemon=True)
            watch.start()
            try:
                yield
            finally:
                signal.set_wakeup_fd(before)
                os.close(told)
                watch.join()
                if not self.asked:  # else `say` ignores what else comes while the process ends
                    for number, handler in kept.items():
                        signal.signal(number, handler)
                os.close(heard)
                os.close(terminal)
        finally:
            _current.reset(token)

    @contextlib.contextmanager
    def noticed(self) -> Iterator[None]:
        """Answer SIGINT within a program that goes on afterwards: it is noted or raised, and ends no process.

        Nothing is answered in other threads than the main one.
        """

        def handle(number: int, frame: Any) -> None:
            again, self.asked = self.asked, True
            if again or not self._deferred:
                raise KeyboardInterrupt

        token = _current.set(self)
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, handle) if main else None
        try:
            yield
        finally:
            if main:
                signal.signal(signal.SIGINT, before or signal.SIG_DFL)
            _current.reset(token)

    def say(self) -> None:
        """Say the line on stderr, undisturbed by further signals."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # the terminal may be what is gone
            print(self.words, file=sys.stderr, flush=True)

    def _handle(self, number: int, frame: Any) -> None:
        first, self.asked = not self.asked, True
        if first and not self._deferred:
            raise KeyboardInterrupt

    def _watch(self, heard: int, terminal: int, code: int) -> None:
        """Read the numbers of signals, which the system's own handler writes, until the other end is closed."""
        first: float | None = None
        while True:
            left = None if first is None else max(0.0, first + PATIENCE - time.monotonic())
            ready = select.select([heard], [], [], left)[0]
            number = os.read(heard, 1) if ready else None
            if number == b"":
                return
            if number is not None and number[0] not in SIGNALS:
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif number is None or now - first > TOGETHER:
                with contextlib.suppress(OSError):
                    cursor = "\n\x1b[?25h" if os.isatty(terminal) else ""  # a line that is redrawn hides it
                    os.write(terminal, f"{cursor}{self.words}\n".encode())
                os._exit(code)


def interruption() -> Interruption:
    """That of the command that runs; one that never comes where none does."""
    return _current.get(Interruption())
