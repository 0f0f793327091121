"""Small text and JSON files that other programs may read while they are written, and that people may edit."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from pseudoseg_tf.errors import UserError

# Far above any file of this project; keeps a mistaken path from being read into memory.
_MAX_JSON_BYTES = 4 << 20


def check_directory(path: str | os.PathLike[str]) -> None:
    """Checks that a directory is there or can be made, and that files can be written into it; makes nothing.

    Raises:
      UserError: if not.
    """
    path = Path(path).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        raise UserError(f"{path}: {there} is a file; name a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{path}: nothing can be written into {there}; take a directory of your own")


def read_json(path: str | os.PathLike[str], max_bytes: int = _MAX_JSON_BYTES) -> Any:
    """Returns the parsed content of a JSON file.

    Raises:
      UserError: if the file cannot be read, is over `max_bytes`, or is not JSON.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > max_bytes:
        raise UserError(f"{path}: more than {max_bytes >> 20} MiB, too large for a file of this program")
    try:
        return json.loads(content)
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

    Raises:
      UserError: if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
