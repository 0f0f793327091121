r"""Checks a data set before training: reads every image and mask, and says what is wrong and how to mend it.

Prints what the masks hold, class by class, and findings: errors (training would stop, or learn or score what is
not meant), warnings (perhaps not meant) and notes. The exit code is 0 without errors and 2 with some. --out also
writes a page to look at, index.html, with masks laid over their images.

Example:
  pseudoseg-check-data --preset=folder --out=runs/check \
    --set data.images=my/images --set data.masks=my/masks --set data.classes=my/classes.txt \
    --set data.labeled=my/labeled.txt --set data.unlabeled=my/unlabeled.txt --set data.val=my/val.txt
  pseudoseg-check-data --preset=shapes

Preset and keys are those of pseudoseg-train: what it would read is what is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf import config_io
from pseudoseg_tf.check_page import write_page
from pseudoseg_tf.cli import _app
from pseudoseg_tf.data.check import check_data
from pseudoseg_tf.data.findings import SEVERITIES
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import check_directory
from pseudoseg_tf.presets import PRESETS, preset

_PRESET = flags.DEFINE_string("preset", None, f"Experiment to start from: {', '.join(PRESETS)}.")
_SET = flags.DEFINE_multi_string("set", [], "Change a key: --set data.masks=my/masks")
_OUT = flags.DEFINE_string("out", None, "Folder to write the page to; made if absent.")


def main(argv: Sequence[str]) -> None:
    """Checks, prints the report and writes the page."""
    del argv
    if not _PRESET.value:
        raise UserError(f"--preset: missing; presets: {', '.join(PRESETS)}; folder is for files of your own")
    config = config_io.apply_overrides(preset(_PRESET.value), _SET.value)
    config_io.validate(config)
    out = Path(_OUT.value) if _OUT.value else None
    if out is not None:
        check_directory(out)
        config_io.check_apart(out, config.data)

    report = check_data(config.data, config.train.mode)
    print(_app.aligned(report.list_table()), _app.aligned(report.class_table()), sep="\n\n")
    print(f"background: {report.info.background}", end="\n\n")
    for finding in report.findings:
        for line in finding.text():
            print(f"{finding.severity}: {line}")
    if out is not None:
        print(f"page: {write_page(report, out, f'Check of {report.info.name}')}")
    counts = ", ".join(_counted(report.count(severity), severity) for severity in SEVERITIES)
    if report.count("error"):
        raise UserError(f"{counts}, see above; mend the errors before training")
    print(counts)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def run() -> None:
    """Entry point of pseudoseg-check-data."""
    _app.run(main)


if __name__ == "__main__":
    run()
