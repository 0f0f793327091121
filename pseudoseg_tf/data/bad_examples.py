"""Training examples that cannot be used: each is replaced by another, named once, and counted up to a bound."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from pseudoseg_tf.data.text import read_lines
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_text


class BadExamples:
    """The list of what a run left out, kept in a file of lines `ID<tab>what is wrong`; for any number of threads."""

    def __init__(self, path: str | os.PathLike[str], limit: int) -> None:
        """Reads the list of a run that continues.

        Args:
          path: of the list; the file is made when the first example is bad.
          limit: `data.max_bad_examples`.

        Raises:
          UserError: the list cannot be read, or has more than `limit` ids already.
        """
        self._path = Path(path)
        self._limit = limit
        self._lock = threading.Lock()
        self._unreported: list[str] = []
        self._reasons = _read(path)
        self._check()

    def add(self, record_id: str, reason: str) -> None:
        """Lists an example unless its id is listed already.

        Raises:
          UserError: there are now more than `limit`, or the list cannot be written.
        """
        # Names in records may hold any character; a line is one example.
        record_id, reason = _one_line(record_id), _one_line(reason)
        with self._lock:
            self._check()  # Other threads read on for a while after the one that found too many.
            if record_id in self._reasons:
                return
            self._reasons[record_id] = reason
            write_text(self._path, "".join(f"{key}\t{value}\n" for key, value in self._reasons.items()))
            self._unreported.append(
                f"left out: {reason} ({len(self._reasons)} of at most {self._limit}, listed in {self._path})"
            )
            self._check()

    def report(self, log: Callable[[str], None]) -> None:
        """Passes on a line for each example listed since the last report."""
        with self._lock:
            lines, self._unreported = self._unreported, []
        for line in lines:
            log(line)

    def _check(self) -> None:
        if len(self._reasons) > self._limit:
            raise UserError(
                f"{self._path}: {len(self._reasons)} examples cannot be used, data.max_bad_examples allows "
                f"{self._limit}; the last: {list(self._reasons.values())[-1]}; mend them and delete this list, or set "
                "a larger bound"
            )


def listed(path: str | os.PathLike[str], ids: Iterable[str]) -> list[str]:
    """Returns those of the ids that such a file lists; a file that is absent lists none.

    Raises:
      UserError: the list cannot be read.
    """
    found = _read(path)
    return [record_id for record_id in ids if _one_line(record_id) in found]


def _read(path: str | os.PathLike[str]) -> dict[str, str]:
    lines = filter(None, read_lines(path, "bad examples")) if os.path.exists(path) else ()
    return {record_id: reason for record_id, _, reason in (line.partition("\t") for line in lines)}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def replacements(index: int, length: int, seed: tuple[int, int], counter: int) -> Iterator[int]:
    """Yields all other records in an order that depends on the arguments alone.

    Args:
      index: the record that cannot be used.
      length: number of records.
      seed: of the run, and the stream.
      counter: number of the example.
    """
    # RandomState, because its stream is frozen; that of numpy's newer generators may change.
    random = np.random.RandomState([*seed, counter & 0xFFFFFFFF, counter >> 32])
    yield from (other for other in random.permutation(length).tolist() if other != index)
