"""What all tests share: two CPU devices, so that strategies can be tested, and the reference directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import settings

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.assembly import create_strategy
from pseudoseg_tf.config import RuntimeConfig
from tests.tiny import TinyBackbone


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shared",
        type=Path,
        default=Path(__file__).resolve().parents[2] / "shared",
        help="directory with reference numbers and real images (default: ../shared)",
    )
    parser.addoption(
        "--seed",
        type=int,
        default=0,
        help="state of the random generators that every test starts with, first weights included (default: 0); "
        "with another one, hypothesis draws new examples, too",
    )


def pytest_configure(config: pytest.Config) -> None:
    # What passed once passes again: examples differ only where somebody asks for others.
    settings.register_profile("suite", deadline=None, derandomize=config.getoption("--seed") == 0)
    settings.load_profile("suite")
    # Only possible before TensorFlow starts, hence here and nowhere else.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Before the fixtures, those of a module included: whichever test comes first makes the same ones.
    tf_keras.utils.set_random_seed(item.config.getoption("--seed"))
    shared: Path = item.config.getoption("--shared")
    if item.get_closest_marker("needs_shared") and not shared.is_dir():
        pytest.skip(f"needs the reference numbers or images in {shared} (pytest --shared=DIR)")


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.Strategy:
    """The strategy that training itself uses on the two CPU devices; a second MirroredStrategy would clash."""
    return create_strategy(RuntimeConfig(strategy="mirrored"))


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks have ``TinyBackbone`` for MobileNetV1: the rest, dropout and self-attention included, is whole."""
    monkeypatch.setattr("pseudoseg_tf.nn.model.MobileNetV1", TinyBackbone)


@pytest.fixture(scope="session")
def shared_dir(request: pytest.FixtureRequest) -> Path:
    """Directory with reference numbers and real images; for tests marked needs_shared."""
    return request.config.getoption("--shared")
