"""Files that people name, read within bounds; text and JSON files, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from pseudoseg_tf.errors import UserError

# Far above any file of this project; keeps a mistaken path from being read into memory.
_MAX_JSON_BYTES = 4 << 20


def cache_directory() -> Path:
    """Where this program keeps what it can get again; nothing is made."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "pseudoseg_tf"


def check_directory(path: str | os.PathLike[str]) -> Path:
    """Checks that a directory is there or can be made, and that files can be written into it; makes nothing.

    Returns:
      The part of the path that is there.

    Raises:
      UserError: if not.
    """
    path = Path(path).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        which = "" if there == path else f"{there} "
        raise UserError(f"{path}: {which}is a file; name a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{path}: nothing can be written into {there}; take a directory of your own")
    return there


def check_no_pattern(path: str | os.PathLike[str]) -> None:
    """Raises UserError for a path to write to that TensorFlow would take for a pattern when it reads it."""
    found = sorted(set(os.fspath(path)) & set("*?[]\\"))
    if found:
        raise UserError(
            f"{os.fspath(path)}: holds {' '.join(found)}, by which TensorFlow means a pattern of names; take a name "
            "without * ? [ ] \\"
        )


def read_bytes(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Returns the content of a file.

    Raises:
      UserError: the file cannot be read, is none (a device or a pipe may never end), or is over `max_bytes`.
    """
    too_large = UserError(f"{path}: more than {max_bytes >> 20} MiB, too large for a file of its kind")
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: a device, pipe or socket; name a file")
        if status.st_size > max_bytes:
            raise too_large
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # A NUL character in the name.
        raise UserError(f"{os.fspath(path)!r}: no name of a file ({error})") from error
    if len(content) > max_bytes:
        raise too_large
    return content


def read_json(path: str | os.PathLike[str], max_bytes: int = _MAX_JSON_BYTES) -> Any:
    """Returns the parsed content of a JSON file.

    Raises:
      UserError: if the file cannot be read, is over `max_bytes`, or is not JSON.
    """
    try:
        return json.loads(read_bytes(path, max_bytes))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes ``value`` as indented JSON: under a temporary name, then renamed.

    Raises:
      UserError: if the file cannot be written.
      ValueError: if ``value`` holds NaN or infinity, which JSON lacks.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 file: under a temporary name, then renamed.

    Parts of file names that are not UTF-8, which Python keeps as surrogates, are written as ``\\udcXX``.

    Raises:
      UserError: if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
