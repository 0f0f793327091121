"""Which settings for accelerators make a CPU slow; the times are of `benchmarks/RESULTS.md`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import tensorflow as tf

from pseudoseg_tf.config import RuntimeConfig

# The one that has a CPU multiply them, as Linux names it. Without it they are converted, or computed one by one.
_INSTRUCTIONS = {"bfloat16": "avx512_bf16", "float16": "avx512_fp16"}
_TIMES_AS_LONG = {"bfloat16": "two to eight", "float16": "tens of"}


def cpu_speed_notes(runtime: RuntimeConfig) -> list[str]:
    """Says which settings make a step slower than their defaults on a CPU; nothing beside a GPU or TPU."""
    if runtime.strategy == "tpu" or tf.config.list_physical_devices("GPU"):
        return []
    notes = []
    instruction, known = _INSTRUCTIONS.get(runtime.precision), cpu_features()
    if instruction and known and instruction not in known:
        notes.append(
            f"runtime.precision={runtime.precision}: no GPU is visible, and this CPU has no instructions for it "
            f"({instruction}): a step takes {_TIMES_AS_LONG[runtime.precision]} times as long as in float32"
        )
    if runtime.jit:
        notes.append(
            "runtime.jit=true: no GPU is visible, and on a CPU a step that XLA compiled takes several times as long"
        )
    return notes


def cpu_features() -> set[str]:
    """Names of the processor's instructions; empty where they are not known, as beyond Linux on x86."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()
