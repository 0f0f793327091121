"""What a run directory holds, for comparing two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def variables(run_dir: Path, which: str = "last") -> dict[str, np.ndarray]:
    """Every variable of the newest checkpoint, but how many were written."""
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / which))
    names = reader.get_variable_to_shape_map()
    return {
        name: reader.get_tensor(name)
        for name in names
        if name.endswith("VARIABLE_VALUE") and not name.startswith("save_counter")
    }


def records(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of both records without times and memory."""
    found = {}
    for name in ("training", "history"):
        lines = (run_dir / f"{name}.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        found[name] = [
            {key: value for key, value in entry.items() if key not in ("seconds_per_step", "peak_memory_mb")}
            for entry in entries
        ]
    return found


def summaries(run_dir: Path) -> list[tuple[str, int, str, bytes]]:
    """What TensorBoard would show: folder, step, name and value, but no times."""
    found = []
    for path in sorted((run_dir / "summaries").rglob("events*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            found += [
                (path.parent.name, event.step, value.tag, value.tensor.SerializeToString())
                for value in event.summary.value
                if not value.tag.endswith("_per_second")
            ]
    return sorted(found)
