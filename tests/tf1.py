"""Real TensorFlow 1 checkpoints, written and read by its own Saver in a graph and a session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.tf1_checkpoint import tf1_shape, tf1_variables

v1 = tf.compat.v1


def save(path: Path, values: Mapping[str, np.ndarray], state: bool = False, old_format: bool = False) -> str:
    """Writes variables by name and returns the prefix (of the old format: the file).

    Args:
        state: also the file "checkpoint" in the directory.
        old_format: the single file of TensorFlow before 0.12.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), v1.Session() as session:
        holders = {name: v1.placeholder(value.dtype, value.shape) for name, value in values.items()}
        variables = {
            name: v1.get_variable(name, initializer=holder, use_resource=False)
            for name, holder in holders.items()
        }
        session.run(
            [variable.initializer for variable in variables.values()],
            {holder: values[name] for name, holder in holders.items()},
        )
        saver = v1.train.Saver(
            variables, write_version=v1.train.SaverDef.V1 if old_format else v1.train.SaverDef.V2
        )
        return saver.save(session, str(path), write_meta_graph=False, write_state=state)


def restore(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Reads variables by name into a graph of these, all of which must be there."""
    with tf.Graph().as_default(), v1.Session() as session:
        kinds = {"global_step": tf.int64}
        variables = {
            name: v1.get_variable(name, shape, kinds.get(name, tf.float32), use_resource=False)
            for name, shape in shapes.items()
        }
        v1.train.Saver(variables).restore(session, prefix)
        return session.run(variables)


def random_values(model: PseudoSegModel, seed: int = 0) -> dict[str, np.ndarray]:
    """A value of its own for every variable of a model, by TensorFlow 1 name."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=tf1_shape(variable)).astype(np.float32)
        for name, variable in tf1_variables(model).items()
    }


def momenta(values: Mapping[str, np.ndarray], slot: str = "Momentum", seed: int = 1) -> dict[str, np.ndarray]:
    """Slots of everything that a gradient changes."""
    random = np.random.default_rng(seed)
    return {
        f"{name}/{slot}": random.normal(size=value.shape).astype(np.float32)
        for name, value in values.items()
        if not name.endswith(("/moving_mean", "/moving_variance"))
    }


def with_huge_index_block(table: bytes) -> bytes:
    """A table whose footer says that the block of its index has 2**62 bytes."""
    footer = table[-48:]
    # Offset and size of one block, then of the index, each with its top bit clear in the last byte.
    ends = [position for position, byte in enumerate(footer[:40]) if byte < 128]
    handles = footer[: ends[2] + 1] + b"\x80" * 8 + b"\x40"
    return table[:-48] + handles.ljust(40, b"\0") + footer[40:]
