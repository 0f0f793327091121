"""The only import of Keras: ``tf_keras`` (Keras 2), whose batch norm follows TensorFlow 1."""

from __future__ import annotations

import os

# What tf-models-official gets as TensorFlow's Keras must be this one.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tf_keras

__all__ = ["tf_keras"]
