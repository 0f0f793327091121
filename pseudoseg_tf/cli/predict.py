r"""Segments image files with a run or an exported model.

For each image NAME.jpg the output folder gets NAME.png, the class ids as a palette PNG, and NAME_overlay.jpg, the
image tinted with the colors of its classes; with --probabilities also NAME.npz. predictions.json has the area of each
class and the mean confidence of every image.

Started again, the command continues: an image whose files are there, made by the same model and newer than the image,
is not predicted again.

Example:
  pseudoseg-predict --model=runs/shapes/model --images=my/images --out=my/predictions
  pseudoseg-predict --model=runs/shapes --checkpoint=last --images=my/images --out=my/predictions --probabilities
"""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from pseudoseg_tf.cli import _app, _prediction_flags
from pseudoseg_tf.data.text import IMAGE_SUFFIXES
from pseudoseg_tf.errors import UserError

if TYPE_CHECKING:
    from pseudoseg_tf.inference import Predictor
    from pseudoseg_tf.prediction_folder import PredictionFolder

_MODEL = flags.DEFINE_string(
    "model", None, "What pseudoseg-export wrote (a directory, a .tflite or .onnx file), or a run directory."
)
_IMAGES = flags.DEFINE_string("images", None, "An image, or a folder of .jpg, .jpeg and .png files.")
_OUT = flags.DEFINE_string("out", None, "Folder to write to; made if absent.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Of a run directory: last, best, or the path of a checkpoint. Absent: best."
)
_PROBABILITIES = flags.DEFINE_bool(
    "probabilities", False, "Also write NAME.npz: probabilities, float16 [height, width, classes]."
)
_BATCH = flags.DEFINE_integer(
    "batch", 1, "Images of equal size, next to each other by name, that are predicted at once.", lower_bound=1
)
_prediction_flags.define()


def main(argv: Sequence[str]) -> None:
    """Predicts every image; one that cannot be read is named, skipped and counted."""
    del argv
    if not _MODEL.value:
        raise UserError("--model: missing; name a run directory or what pseudoseg-export wrote")
    if not _IMAGES.value:
        raise UserError("--images: missing; name an image or a folder of images")
    if not _OUT.value:
        raise UserError("--out: missing; name the folder to write to")
    how = _prediction_flags.values()
    paths = find_images(Path(_IMAGES.value))
    out = Path(_OUT.value)
    if out.exists() and out.resolve() == paths[0].parent.resolve():
        raise UserError(f"--out: {out} holds the images themselves; name another folder")
    unread = left_out(Path(_IMAGES.value))
    if unread:
        shown = ", ".join(unread[:3]) + (f" and {len(unread) - 3} more" if unread[3:] else "")
        print(
            f"left out: {shown}; read are {', '.join(IMAGE_SUFFIXES)} files directly in {_IMAGES.value}",
            file=sys.stderr,
        )

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.files import check_directory
    from pseudoseg_tf.inference import Predictor
    from pseudoseg_tf.prediction_folder import PredictionFolder

    check_directory(out)
    predictor = Predictor(_MODEL.value, _CHECKPOINT.value, **how)
    folder = PredictionFolder(out, predictor.fingerprint, _PROBABILITIES.value)
    named = zip(output_names(paths), paths, strict=True)
    todo = [(name, path) for name, path in named if not folder.has(name, path)]
    begin = time.monotonic()
    failed = _predict(predictor, folder, todo)
    if failed:
        others = f"; {out} has the others" if failed < len(paths) else ""
        raise UserError(f"{failed} of {len(paths)} images could not be predicted, see above{others}")
    print(f"{out}: class ids and overlays of {len(paths)} images")
    if len(todo) < len(paths):
        print(f"{len(paths) - len(todo)} of them were there already")
    if todo:
        print(f"{len(todo) / (time.monotonic() - begin):.1f} images/s")


def _predict(predictor: Predictor, folder: PredictionFolder, named: Sequence[tuple[str, Path]]) -> int:
    """Predicts the images, each with a name for its files; returns how many were skipped."""
    from pseudoseg_tf.inference import read_image
    from pseudoseg_tf.progress import Progress

    failed = 0
    batch: list[tuple[str, Path, np.ndarray]] = []
    with folder, Progress(len(named), "predict") as progress:

        def finish_batch() -> None:
            nonlocal failed
            if not batch:
                return
            try:
                predictions = predictor(np.stack([image for _, _, image in batch])).split()
            except UserError as error:
                progress.note(f"skipped: {', '.join(str(path) for _, path, _ in batch)}: {error}")
                failed += len(batch)
            else:
                for prediction, (name, path, _) in zip(predictions, batch, strict=True):
                    folder.write(name, path, prediction)
            progress.update(len(batch))
            batch.clear()

        for name, path in named:
            try:
                image = read_image(path)
            except UserError as error:
                progress.note(f"skipped: {error}")
                progress.update()
                failed += 1
                continue
            if batch and (len(batch) == _BATCH.value or batch[0][2].shape != image.shape):
                finish_batch()
            batch.append((name, path, image))
        finish_batch()
    return failed


def find_images(path: Path) -> list[Path]:
    """The image itself, or the images directly in a folder that are not hidden, in the order of their names.

    Raises:
      UserError: nothing is there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"--images: {path} does not exist; name an image or a folder of images")
    files = [file for file in path.iterdir() if _is_image(file)]
    if not files:
        raise UserError(f"--images: {path} holds no {', '.join(IMAGE_SUFFIXES)} file; name another folder")
    return sorted(files)


def left_out(path: Path) -> list[str]:
    """Names of what else is in a folder of images, files and folders, in order."""
    if not path.is_dir():
        return []
    return sorted(entry.name for entry in path.iterdir() if not _is_image(entry) and not _is_hidden(entry))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not _is_hidden(path)


def _is_hidden(path: Path) -> bool:
    """Also what macOS keeps beside a file on other systems' disks: ._NAME.jpg."""
    return path.name.startswith(".")


def output_names(paths: Sequence[Path]) -> list[str]:
    """A name for the output of each image, distinct also where upper and lower case are the same.

    It is the stem where no other image has it, else stem and suffix: a.jpg and a.png give a_jpg and a_png.
    """
    stems = collections.Counter(path.stem.lower() for path in paths)
    names: list[str] = []
    taken = {stem for stem, count in stems.items() if count == 1}
    for path in paths:
        name = path.stem
        if stems[name.lower()] > 1:
            base = name = f"{path.stem}_{path.suffix[1:].lower()}"
            number = 2
            while name.lower() in taken:
                name = f"{base}_{number}"
                number += 1
            taken.add(name.lower())
        names.append(name)
    return names


def run() -> None:
    """Entry point of pseudoseg-predict."""
    _app.run(main)


if __name__ == "__main__":
    run()
