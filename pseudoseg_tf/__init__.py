"""Semi-supervised semantic segmentation with well-designed pseudo labels (PseudoSeg) on TensorFlow 2."""

__version__ = "0.1.0"
