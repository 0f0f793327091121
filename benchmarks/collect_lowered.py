r"""Makes run directories of what ``benchmarks.run_lowered`` brought back.

Each gets the records that training writes, so that ``benchmarks.learning_curve --report`` and ``pseudoseg-report`` read
it, and where the last model came back a checkpoint of it (without momenta), for ``pseudoseg-evaluate``.

Example:
  python -m benchmarks.collect_lowered --lowered=build/lowered --back=out --out=runs/lowered
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks.lowered_records import collect
from pseudoseg_tf.cli import _app
from pseudoseg_tf.comparison import read_lines
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_json

_LOWERED = flags.DEFINE_string("lowered", None, "Directory that benchmarks.lower wrote.")
_BACK = flags.DEFINE_string("back", None, "Directory that benchmarks.run_lowered wrote.")
_OUT = flags.DEFINE_string("out", None, "Directory of the runs to make.")


def main(argv: Sequence[str]) -> None:
    """Makes a run directory of each run that came back."""
    del argv
    for flag in (_LOWERED, _BACK, _OUT):
        if not flag.value:
            raise UserError(f"--{flag.name}: missing (--help lists the flags)")
    found = sorted(Path(_BACK.value).glob("*/raw.jsonl"))
    if not found:
        raise UserError(f"--back: {_BACK.value} holds no RUN/raw.jsonl, which benchmarks.run_lowered writes")
    for path in found:
        name = path.parent.name
        run = read_json(Path(_LOWERED.value) / "runs" / name / "run.json")
        out = Path(_OUT.value) / name
        last = collect(run, read_lines(path), path.parent, out)
        print(f"{out}: step {last}", flush=True)


if __name__ == "__main__":
    _app.run(main)
