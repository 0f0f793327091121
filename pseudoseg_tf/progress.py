"""Progress of a long loop on stderr: how far, how fast, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

# Seconds between two reports: a line rewritten in place on a terminal, whole lines in a log.
_TERMINAL_INTERVAL = 0.2
_LOG_INTERVAL = 10.0


class Progress:
    """Counts the items of a loop and reports them, use as a context manager or call ``close``.

    On a terminal one line is rewritten in place. Elsewhere a line is printed about every ten seconds, so a
    short loop prints nothing.

    Example:
      with Progress(len(paths), "predict") as progress:
          for path in paths:
              ...
              progress.update()
    """

    def __init__(
        self,
        total: int,
        what: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts at 0 of ``total`` items; ``what`` opens each line; ``stream`` is stderr by default."""
        self._total = total
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._done = 0
        self._reported = clock()
        # The first item also pays for tracing and file caches: the rate is that of the items after it.
        self._first: tuple[int, float] | None = None
        self._shown: int | None = None

    def update(self, n: int = 1) -> None:
        """Counts ``n`` more items as done."""
        self._done += n
        now = self._clock()
        if self._first is None:
            self._first = (self._done, now)
        if now - self._reported >= (_TERMINAL_INTERVAL if self._terminal else _LOG_INTERVAL):
            self._report(now)

    def note(self, text: str) -> None:
        """Prints a line of its own among the reports."""
        self._stream.write(f"\r{text}\x1b[K\n" if self._terminal else f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Reports the final state if anything was reported before, and ends the line on a terminal."""
        if self._shown is None:
            return
        if self._shown != self._done:
            self._report(self._clock())
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _report(self, now: float) -> None:
        self._reported = now
        self._shown = self._done
        line = f"{self._what} {self._done}/{self._total}"
        if self._first is not None and self._done > self._first[0] and now > self._first[1]:
            rate = (self._done - self._first[0]) / (now - self._first[1])
            line += f"  {_rate(rate)}"
            if self._done < self._total:
                line += f"  {_duration((self._total - self._done) / rate)} left"
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._stream.flush()


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
