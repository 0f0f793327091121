"""Stopping a long run in good order: a signal asks, and the run ends where nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import types
from collections.abc import Iterator

# How the line of a run that was stopped begins.
STOPPED = "stopped by"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A signal has stopped the run in good order; the message says where it stands.

    Command-line programs print it and exit with status 0.
    """


class StopSignals:
    """Within it, SIGTERM and SIGINT do not end the process: they are noted, for the run to stop when it can.

    A second SIGINT raises KeyboardInterrupt at once. Signals that were ignored stay so (``nohup``), and outside of the
    main thread, where Python handles none, nothing changes.

    Attributes:
        received: name of the first signal, such as "SIGTERM"; None before.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._at_once = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a signal raises Interrupted where it arrives: for what can be broken off and done again."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def check(self) -> None:
        """Raises Interrupted if a signal has arrived."""
        if self.received:
            raise Interrupted(f"{STOPPED} {self.received}")

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        first, self.received = self.received, self.received or signal.Signals(number).name
        if self._at_once:
            self.check()
        if number == signal.SIGINT:
            if first:
                raise KeyboardInterrupt
            # Not by print: the signal may have come in the midst of one.
            os.write(2, b"\nstopping after this step; Ctrl-C again: at once\n")
