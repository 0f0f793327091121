"""The whole path in minutes on drawn images: supervised against PseudoSeg, then export and prediction.

Draws the shapes_seg data set; trains a supervised baseline and PseudoSeg on the same 16 labeled images with the same
number of steps, both from features that learned to name patterns (closeups.py), as others start from ImageNet; prints
both scores, exports a PseudoSeg model and predicts validation images with it. Started again, it continues where it was.

Example:
  python -m pseudoseg_tf.demo --out=runs/demo
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.comparison import Run, last_and_best, mean_and_spread, run_all, seconds_per_step, table
from pseudoseg_tf.presets import preset, shapes

_OUT = flags.DEFINE_string("out", "runs/demo", "Directory of the runs, the model and the pictures.")
_SEEDS = flags.DEFINE_integer(
    "seeds",
    2,
    "Each row is trained with this many seeds, each of them with other labeled images.",
    lower_bound=1,
    upper_bound=20,
)
_STEPS = flags.DEFINE_integer("steps", None, "Steps of each run; the preset's if not given.", lower_bound=1)

_ROWS = {"supervised": "train.mode=supervised", "pseudoseg": "train.mode=unlabeled"}
# Validation images that are written as files and predicted.
_PICTURES = 12
# Rows of the comparison picture.
_COMPARED = 6


def main(argv: Sequence[str]) -> None:
    """Trains, compares, exports, predicts."""
    del argv
    begin = time.monotonic()
    out = Path(_OUT.value)
    config = preset("shapes")
    steps = _STEPS.value or config.train.steps
    runs = [
        Run(row, seed, "shapes", (f"train.steps={steps}", mode, *_labeled_draw(seed)))
        for row, mode in _ROWS.items()
        for seed in range(_SEEDS.value)
    ]

    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.data.sources import open_sources

    print("Drawing the data set ...", flush=True)
    # Here, because two training processes that find it missing would both draw it.
    sources = open_sources(config.data, "unlabeled")
    assert sources.unlabeled is not None
    print(
        f"{len(sources.labeled)} labeled, {len(sources.unlabeled)} unlabeled and {len(sources.val)} validation images; "
        f"training {len(runs)} runs of {steps} steps (logs and pictures in {out})",
        flush=True,
    )
    # The long ones first, so that all cores are busy to the end.
    run_all(runs[::-1], out, len(runs) * steps)

    print("\nValidation, percent: mean ± standard deviation over the seeds")
    print(
        table(
            runs,
            out,
            {
                "last mIoU": lambda d: 100 * last_and_best(d)[0]["miou"],
                "best mIoU": lambda d: 100 * last_and_best(d)[1]["miou"],
                "last ECE": lambda d: 100 * last_and_best(d)[0]["ece"],
                "s/step": seconds_per_step,
            },
        )
    )
    last = {
        row: mean_and_spread(
            100 * last_and_best(run.directory(out))[0]["miou"] for run in runs if run.row == row
        )[0]
        for row in _ROWS
    }
    print(
        f"PseudoSeg is {last['pseudoseg'] - last['supervised']:+.1f} mIoU points from supervised after the last step, "
        f"mean of {_SEEDS.value} seed(s)."
    )
    _export_and_predict(out)
    print(f"Done in {(time.monotonic() - begin) / 60:.1f} minutes.")


def _labeled_draw(seed: int) -> tuple[str, str]:
    """Overrides that give each seed its own labeled images, so that the spread tells of them, too."""
    data = shapes(seed).data
    return f"data.labeled={data.labeled}", f"data.unlabeled={data.unlabeled}"


def _export_and_predict(out: Path) -> None:
    """Exports the first run of each row, predicts validation images and draws the predictions side by side."""
    import numpy as np

    from pseudoseg_tf.data.decode import decode_record
    from pseudoseg_tf.data.pseudo_labeled import mask_path
    from pseudoseg_tf.data.sources import open_sources
    from pseudoseg_tf.export import export
    from pseudoseg_tf.inference import Predictor
    from pseudoseg_tf.visualize import class_legend, overlay, picture_grid, save_image, save_palette_png

    predictors = {}
    for row in _ROWS:
        model = out / f"{row}-model"
        if not model.exists():
            export(str(Run(row, 0, "shapes", ()).directory(out)), str(model), checkpoint="last")
        predictors[row] = Predictor(model)
    val = open_sources(preset("shapes").data, "supervised").val
    palette = val.info.palette
    for folder in ("images", "predictions"):
        (out / folder).mkdir(exist_ok=True)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("image", "ground truth", *_ROWS)}
    for index in range(_PICTURES):
        record = val.read(index)
        image, labels = decode_record(record, val.info.num_classes)
        save_image(mask_path(out / "images", record.id), image)
        predicted = {row: predictor(image).labels for row, predictor in predictors.items()}
        save_palette_png(mask_path(out / "predictions", record.id), predicted["pseudoseg"], palette)
        shown = {"ground truth": labels, **predicted}
        overlays = {name: overlay(image, each, palette) for name, each in shown.items()}
        overlay_path = mask_path(out / "predictions", record.id, "_overlay.jpg")
        save_image(overlay_path, overlays["pseudoseg"])
        for name, picture in {"image": image, **overlays}.items():
            columns[name].append(picture)
    legend = class_legend(np.arange(1, val.info.num_classes, dtype=np.uint8), palette, val.info.class_names)
    compared = {name: pictures[:_COMPARED] for name, pictures in columns.items()}
    save_image(out / "comparison.png", picture_grid(compared, legend=legend))
    print(
        f"SavedModel: {out / 'pseudoseg-model'}\n"
        f"Predictions of {_PICTURES} validation images: {out / 'predictions'}\n"
        f"Side by side: {out / 'comparison.png'}; pseudo labels while training: "
        f"{Run('pseudoseg', 0, 'shapes', ()).directory(out) / 'pictures'}"
    )


if __name__ == "__main__":
    _app.run(main)
