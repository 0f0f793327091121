"""Segments image files with an exported model.

For each image NAME.jpg the output folder gets NAME.png, the class ids as a palette PNG, and
NAME_overlay.jpg, the image tinted with the colors of its classes.

Example:
  pseudoseg-predict --model=runs/shapes/model --images=my/images --out=my/predictions
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.data.text import IMAGE_SUFFIXES
from pseudoseg_tf.errors import UserError

_MODEL = flags.DEFINE_string("model", None, "Directory that pseudoseg-export wrote.")
_IMAGES = flags.DEFINE_string("images", None, "An image, or a folder of .jpg, .jpeg and .png files.")
_OUT = flags.DEFINE_string("out", None, "Folder to write to; made if absent.")


def main(argv: Sequence[str]) -> None:
    """Predicts every image; one that cannot be read is named, skipped and counted."""
    del argv
    if not _MODEL.value:
        raise UserError("--model: missing; name the directory that pseudoseg-export wrote")
    if not _IMAGES.value:
        raise UserError("--images: missing; name an image or a folder of images")
    if not _OUT.value:
        raise UserError("--out: missing; name the folder to write to")
    paths = find_images(Path(_IMAGES.value))
    out = Path(_OUT.value)
    if out.exists() and out.resolve() == paths[0].parent.resolve():
        raise UserError(f"--out: {out} holds the images themselves; name another folder")

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.inference import Predictor, read_image
    from pseudoseg_tf.progress import Progress
    from pseudoseg_tf.visualize import overlay, save_image, save_palette_png

    predictor = Predictor(_MODEL.value)
    palette, background = predictor.info.palette, predictor.info.has_background
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with Progress(len(paths), "predict") as progress:
        for path, name in zip(paths, output_names(paths), strict=True):
            try:
                image = read_image(path)
            except UserError as error:
                progress.note(f"skipped: {error}")
                failed += 1
            else:
                labels = predictor(image).labels
                tinted = overlay(image, labels, palette, background=background)
                save_image(out / f"{name}_overlay.jpg", tinted)
                save_palette_png(out / f"{name}.png", labels, palette)
            progress.update()
    if failed:
        raise UserError(f"{failed} of {len(paths)} images could not be read, see above; {out} has the others")
    print(f"{out}: class ids and overlays of {len(paths)} images")


def find_images(path: Path) -> list[Path]:
    """The image itself, or the images directly in a folder, in the order of their names.

    Raises:
      UserError: nothing is there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"--images: {path} does not exist; name an image or a folder of images")
    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    if not files:
        raise UserError(f"--images: {path} holds no {', '.join(IMAGE_SUFFIXES)} file; name another folder")
    return sorted(files)


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
