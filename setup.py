"""Installs the package, datasets/ and experiments/ as its subpackages of those names, and the programs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"$', (here / "pseudoseg_tf/__init__.py").read_text(), re.MULTILINE)
assert version is not None

setup(
    name="pseudoseg_tf",
    version=version[1],
    description="Semi-supervised semantic segmentation with well-designed pseudo labels (PseudoSeg)",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    # The directory datasets/ gets no importable name "datasets": that belongs to another library.
    packages=[*find_packages(include=["pseudoseg_tf*"]), "pseudoseg_tf.datasets", "pseudoseg_tf.experiments"],
    package_dir={"pseudoseg_tf.datasets": "datasets", "pseudoseg_tf.experiments": "experiments"},
    package_data={"pseudoseg_tf": ["closeup_features.npz"]},
    install_requires=[
        "absl-py",
        "ai-edge-litert",
        "array-record",
        "google-crc32c",
        "h5py",
        "matplotlib",
        "numpy<2.4",
        # Earlier ones interpolate between positions rounded to a 32nd of a pixel.
        "opencv-python-headless>=5",
        "pillow",
        "psutil",
        "pycocotools",
        "scipy",
        # TensorBoard, which TensorFlow brings, imports pkg_resources; later ones lack it.
        "setuptools<81",
        "tensorflow>=2.20,<2.21",
        "tensorflow-datasets",
        "tf-keras>=2.20,<2.21",
        "tf-models-official>=2.20,<2.21",
    ],
    extras_require={
        "dev": ["hypothesis", "mypy", "onnxruntime", "pdoc", "pytest", "pytest-xdist", "ruff", "tf2onnx"],
        "onnx": ["onnxruntime", "tf2onnx"],
    },
    entry_points={
        "console_scripts": [
            f"pseudoseg-{program.replace('_', '-')} = pseudoseg_tf.cli.{program}:run"
            for program in (
                "train",
                "evaluate",
                "export",
                "predict",
                "convert",
                "check_data",
                "make_split",
                "calibrate",
                "self_train",
                "experiment",
                "report",
                "inspect",
                "input_server",
            )
        ]
    },
)
