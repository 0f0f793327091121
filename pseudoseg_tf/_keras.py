"""The only import of Keras: ``tf_keras`` (Keras 2), whose batch norm follows TensorFlow 1."""

from __future__ import annotations

import tf_keras

__all__ = ["tf_keras"]
