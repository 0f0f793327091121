"""What a run says as it goes on: a line for people, and lines of JSON for programs."""

from __future__ import annotations

import datetime
import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

from pseudoseg_tf.config import Config
from pseudoseg_tf.cost import images_per_step
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_text

Log = Callable[[str], None]


class Console:
    """A line for people and one for programs (``training.jsonl``) after each inner loop."""

    def __init__(self, config: Config, lines: JsonLines, step: int, log: Log):
        self._steps = config.train.steps
        self._images = images_per_step(config)
        self._lines = lines
        self._log = log
        self._step = step
        self._begin = 0.0
        # The first loop includes compilation, so it gives no rate.
        self._compiled = False

    def begin(self) -> None:
        """An inner loop begins: rates are of it alone, without evaluations and pictures."""
        self._begin = time.monotonic()

    def write(self, step: int, averages: Mapping[str, float]) -> float | None:
        """Says where the run stands after ``step``, with the ``averages`` of the loop that ended there.

        Returns:
            Images a second in that loop; None if it was the first, which includes compilation.
        """
        done, seconds = step - self._step, time.monotonic() - self._begin
        self._step = step
        entry: dict[str, Any] = {"step": step, **averages}
        # Kilobytes on Linux.
        entry["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        parts = [f"step {step}/{self._steps}"]
        terms = {name: value for name, value in averages.items() if name.startswith("loss/")}
        parts += [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in terms.items()]
        if "pseudo/pixel_accuracy" in averages:
            parts.append(f"pseudo-label accuracy {100 * averages['pseudo/pixel_accuracy']:.1f}")
        rate = None
        if self._compiled:
            entry["seconds_per_step"] = seconds / done
            rate = done * self._images / seconds
            left = datetime.timedelta(seconds=round((self._steps - step) * seconds / done))
            parts.append(f"{rate:.1f} images/s, {left} left")
        self._lines.add(entry)
        self._log("  ".join(parts))
        self._compiled = True
        return rate


class JsonLines:
    """A file of one JSON object a line, without those past the step that the run continues from.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path: str, step: float, own_path: str = ""):
        """Reads what is there; ``own_path`` is the file to write, if not that one."""
        self._path = own_path or path
        self.entries: list[dict[str, Any]] = []
        if os.path.exists(path):
            try:
                with open(path, encoding="utf-8") as file:
                    entries = [json.loads(line) for line in file]
                self.entries = [entry for entry in entries if entry["step"] <= step]
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{path}: a line of it is no JSON object with a step; restore the file, or delete it and its values"
                ) from error

    @property
    def last_step(self) -> int:
        """The step of the latest entry; 0 without one."""
        return self.entries[-1]["step"] if self.entries else 0

    def add(self, entry: dict[str, Any]) -> None:
        """Appends an entry; the file is replaced as a whole, so that a kill leaves no half line."""
        self.entries.append(entry)
        write_text(self._path, "".join(json.dumps(entry) + "\n" for entry in self.entries))
