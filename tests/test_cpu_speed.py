"""What is said of settings that a CPU is slow with."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from pseudoseg_tf import cpu_speed
from pseudoseg_tf.config import RuntimeConfig
from pseudoseg_tf.cpu_speed import cpu_features, cpu_speed_notes


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Those of the processor, to be changed."""
    found = {"avx2", "avx512f"}
    monkeypatch.setattr(cpu_speed, "cpu_features", lambda: found)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    return found


def test_a_precision_without_instructions_is_slow(features: set[str]) -> None:
    (bfloat16,) = cpu_speed_notes(RuntimeConfig(precision="bfloat16"))
    assert bfloat16.startswith("runtime.precision=bfloat16: ") and "(avx512_bf16)" in bfloat16
    (float16,) = cpu_speed_notes(RuntimeConfig(precision="float16"))
    assert float16.startswith("runtime.precision=float16: ") and "(avx512_fp16)" in float16
    assert "two to eight" in bfloat16 and "tens of" in float16
    features.add("avx512_bf16")
    assert cpu_speed_notes(RuntimeConfig(precision="bfloat16")) == []
    assert cpu_speed_notes(RuntimeConfig(precision="float16")) == [float16]


def test_float32_is_not(features: set[str]) -> None:
    assert cpu_speed_notes(RuntimeConfig()) == []


def test_nothing_is_said_of_a_processor_that_is_not_known(features: set[str]) -> None:
    features.clear()
    assert cpu_speed_notes(RuntimeConfig(precision="float16")) == []


def test_xla_is_slow(features: set[str]) -> None:
    notes = cpu_speed_notes(RuntimeConfig(precision="float16", jit=True))
    assert [note.split(":")[0] for note in notes] == ["runtime.precision=float16", "runtime.jit=true"]


def test_accelerators_are_what_these_settings_are_for(
    features: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cpu_speed_notes(RuntimeConfig(precision="float16", jit=True, strategy="tpu")) == []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert cpu_speed_notes(RuntimeConfig(precision="float16", jit=True)) == []


def test_features_are_those_of_the_first_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nflags\t\t: fpu avx512_bf16 \nvmx flags\t: x\nprocessor\t: 1\nflags\t\t: fpu\n"
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: text)
    assert cpu_features() == {"fpu", "avx512_bf16"}
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: "Features : asimd\n")
    assert cpu_features() == set()


def test_features_without_such_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, encoding: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert cpu_features() == set()
