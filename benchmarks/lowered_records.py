"""The records of a run that was made elsewhere, of what ``benchmarks.run_lowered`` brought back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from pseudoseg_tf.files import write_json, write_text


def collect(run: Mapping[str, Any], lines: Sequence[dict[str, Any]], back: Path, out: Path) -> int:
    """Writes one run directory; returns its last step.

    Args:
        run: what ``benchmarks.lower`` wrote of it.
        lines: of its ``raw.jsonl``: what it ran on, then an entry for each interval.
        back: directory of ``raw.jsonl``, and of the last model if it came back.
    """
    from pseudoseg_tf.data.sources import open_sources

    config = config_io.from_dict(run["config"])
    sources = open_sources(config.data, config.train.mode)
    names = sources.info.class_names
    head, *entries = lines
    history, training = [], []
    for entry in entries:
        sums = entry["sums"]
        count = sums.pop("steps")
        line: dict[str, Any] = {"step": entry["step"]}
        line |= {key: value / count for key, value in sums.items() if key.startswith("loss/")}
        for kind in ("pseudo", "decoder", "sgc"):
            if f"{kind}/confusion" in sums:
                found = _scores(sums[f"{kind}/confusion"], sums[f"{kind}/calibration_sums"], names)
                line |= {f"{kind}/{key}": found[key] for key in ("miou", "pixel_accuracy", "ece")}
        line |= {
            "peak_memory_mb": round(head["peak_device_mb"]),
            "seconds_per_step": entry["seconds_per_step"],
        }
        training.append(line)
        if evaluation := entry.get("evaluation"):
            found = _scores(evaluation["confusion"], evaluation["calibration"], names)
            history.append({"step": entry["step"], **found, "images": evaluation["images"]})
    out.mkdir(parents=True, exist_ok=True)
    config_io.save(str(out), run["preset"], config)
    write_json(out / "dataset.json", sources.info.to_json())
    write_json(out / "device.json", head)
    for name, records in (("history.jsonl", history), ("training.jsonl", training)):
        write_text(out / name, "".join(json.dumps(record) + "\n" for record in records))
    step: int = entries[-1]["step"]
    if parts := sorted(back.glob("model-*.npz")):
        _save_model(config, parts, step, out)
    return step


def _scores(confusion: Any, calibration: Any, names: Sequence[str]) -> dict[str, Any]:
    from pseudoseg_tf.metrics import Reliability, scores

    return scores(np.array(confusion, np.int64), Reliability(np.array(calibration, np.float64)), names)


def _save_model(config: Config, parts: Sequence[Path], step: int, out: Path) -> None:
    """Writes a checkpoint of a model that came back by the places of its variables in the state."""
    import tensorflow as tf

    from benchmarks.lowering import make_state
    from pseudoseg_tf.assembly import create_strategy
    from pseudoseg_tf.checkpoint import checkpoint_directory
    from pseudoseg_tf.checkpoint_files import Checkpoints
    from pseudoseg_tf.data.sources import open_sources

    sources = open_sources(config.data, config.train.mode)
    strategy = create_strategy(config.runtime)
    state, trainer, model, optimizer = make_state(config, sources, strategy)
    for part in parts:
        with np.load(part, allow_pickle=False) as values:
            for index in values.files:
                state[int(index)].assign(values[index])
    optimizer.iterations.assign(step)
    saved = tf.train.Checkpoint(
        step=optimizer.iterations, model=model, optimizer=optimizer, interval=trainer.interval
    )
    Checkpoints(saved, checkpoint_directory(str(out), "last"), config.train.keep, print).save(step)
