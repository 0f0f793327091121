"""One run at a time in a directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import TextIO

from pseudoseg_tf.errors import UserError

_NAME = "lock"


@contextlib.contextmanager
def claimed(directory: str) -> Iterator[None]:
    """Within it, the directory is there and no other process can claim it.

    The lock is the kernel's, on the file ``lock``, and dies with its process, however that ends; the file stays. A
    directory with nothing else in it at the end is removed: it has not been used.

    Raises:
        UserError: another process is at work in it, or the directory cannot be written.
    """
    path = os.path.join(directory, _NAME)
    with _locked(directory, path) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            # A link or a mount point stays.
            with contextlib.suppress(OSError):
                if os.listdir(directory) == [_NAME]:
                    os.unlink(path)
                    os.rmdir(directory)


def _locked(directory: str, path: str) -> TextIO:
    """The lock file, open and locked."""
    while True:
        try:
            os.makedirs(directory, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"{directory}: cannot be written ({error.strerror}); take another run directory"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                file.seek(0)
                owner = file.read().strip() or "another process"
            if isinstance(error, BlockingIOError):
                raise UserError(
                    f"{directory}: {owner} is training in it; wait for it, stop it, or take another run directory"
                ) from error
            raise UserError(
                f"{path}: cannot be locked ({error.strerror}); take a directory on another file system"
            ) from error
        # Another process may have removed it in between, with a directory that was not used.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()
