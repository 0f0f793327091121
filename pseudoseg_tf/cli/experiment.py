r"""Lists, runs and reports the experiments of the paper.

  list          a line for each experiment
  show NAME     its rows: what the paper reports, the command of each run, what it costs; of cpu it draws the lists
                that the commands name
  run NAME      trains what is missing, then reports; NAME may be "all". Each run is its own process, but for smoke
  report NAME   our results beside the paper's, mean and standard deviation over seeds; writes NAME.md and, but for
                smoke, NAME.png; takes the flags that the runs were made with
  overview      experiments/README.md

Budgets: "smoke" trains two steps of a tiny network on drawn scenes, which proves that every row's configuration
trains; "cpu" is the same comparison on a folder of real images (--data, --weights) with a small network; "full" is
the paper's run. Started again, a comparison continues where it was.

Example:
  pseudoseg-experiment show table05
  pseudoseg-experiment run table05 --budget=smoke
  pseudoseg-experiment run table05 --budget=cpu --data=../shared/data/voc12_subset \
    --weights=../shared/weights/mobilenet_v1_1.0_imagenet.npz
  pseudoseg-experiment run fig03 --only=voc-unlabeled-1_16/1 --budget=full --weights=zoo
  pseudoseg-experiment show table06 --set model.backbone=resnet_v1_50_beta
  pseudoseg-experiment report table05 --budget=full
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from pseudoseg_tf.budgets import check_changes, configuration, full, on_cpu, run_of, smoke
from pseudoseg_tf.cli import _app
from pseudoseg_tf.comparison import Run, is_done, markdown_table, run_all
from pseudoseg_tf.config import Config
from pseudoseg_tf.config_io import apply_overrides, nearest, parse_overrides
from pseudoseg_tf.cost import forward_passes
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.experiment_catalog import experiment_names, load_experiment, rows_of
from pseudoseg_tf.experiment_report import (
    Result,
    aligned,
    calibration_file,
    overview,
    paper_value,
    plot,
    read_result,
    report_cells,
    without_scores,
)
from pseudoseg_tf.experiments.definition import Experiment, Row
from pseudoseg_tf.files import check_directory, write_text
from pseudoseg_tf.folder_comparison import TooFewImagesError
from pseudoseg_tf.presets import preset

_ONLY = flags.DEFINE_list("only", [], "Rows to run, show or report; all if empty.")
_BUDGET = flags.DEFINE_enum(
    "budget",
    None,
    ["smoke", "cpu", "full"],
    "smoke, cpu or full; if not given, show means full, the others smoke.",
)
_OUT = flags.DEFINE_string(
    "out", "runs/experiments", "Directory of all runs and reports, in a folder a budget."
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of weights, data order and views; a run each.")
_DATA = flags.DEFINE_string(
    "data", None, "cpu: folder with images/, masks/, classes.txt, train.txt, val.txt, aug_extra.txt."
)
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "First weights. cpu: of the network, as init.weights (imagenet if not given); full: directory of DeepLab's "
    "model zoo, with xception_65/model.ckpt and so on (zoo if not given).",
)
_ACCUMULATE = flags.DEFINE_integer(
    "accumulate", 1, "full: parts that the paper's batches are taken in, for fewer devices.", lower_bound=1
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "Change a key of every row, but for those that the rows compare: --set model.backbone=resnet_v1_50_beta (under "
    "full with that network's first weights, multi-grid and weight decay). Give report the same.",
)
_STEPS = flags.DEFINE_integer("steps", 500, "cpu: steps of every run.", lower_bound=1)
_EVALUATIONS = flags.DEFINE_integer("evaluations", 2, "cpu: evaluations in a run.", lower_bound=1)
_JOBS = flags.DEFINE_integer(
    "jobs", None, "Processes at a time; the number of cores if not given.", lower_bound=1
)
# Flags that not every budget reads.
_READ_BY = {
    "data": ("cpu",),
    "steps": ("cpu",),
    "evaluations": ("cpu",),
    "weights": ("cpu", "full"),
    "accumulate": ("full",),
}


def main(argv: Sequence[str]) -> None:
    """Does what the words say."""
    commands: dict[str, Callable[[str], None]] = {"show": _show, "run": _run, "report": _report}
    plain = {"list": _list, "overview": _overview}
    word, *names = argv[1:] or [""]
    if word in plain and not names:
        _check_no_flags(word)
        plain[word]()
    elif word in commands and len(names) == 1:
        flags.FLAGS.budget = _BUDGET.value or ("full" if word == "show" else "smoke")
        _check_budget_reads_flags()
        commands[word](names[0])
    elif word in plain or word in commands:
        found = " ".join(names) or "nothing"
        wants = "no name" if word in plain else "one experiment, or all"
        raise UserError(f"{word}: found {found}, takes {wants} (--help shows examples)")
    else:
        known = [*plain, *commands]
        if not word:
            raise UserError(f"no command; commands: {', '.join(known)} (--help shows examples)")
        raise UserError(
            f"command {word!r}: unknown; nearest: {nearest(word, known)}; commands: {', '.join(known)} (--help)"
        )


def _check_no_flags(word: str) -> None:
    module = flags.FLAGS.find_module_defining_flag(_ONLY.name)
    for flag in flags.FLAGS.flags_by_module_dict()[module]:
        if flag.present:
            raise UserError(f"--{flag.name}: {word} takes no flags; leave it out")


def _check_budget_reads_flags() -> None:
    for name, budgets in _READ_BY.items():
        if flags.FLAGS[name].present and _BUDGET.value not in budgets:
            raise UserError(
                f"--{name}: --budget={_BUDGET.value} does not read it; leave it out, or take --budget="
                f"{' or '.join(budgets)}"
            )


def _list() -> None:
    lines = [["name", "rows", "with the paper's value", ""]]
    for name in experiment_names():
        experiment = load_experiment(name)
        known = sum(row.paper is not None for row in experiment.rows)
        lines.append([name, str(len(experiment.rows)), str(known), experiment.title])
    print(aligned(lines))


def _overview() -> None:
    print(overview((name, load_experiment(name)) for name in experiment_names()))


def _show(name: str) -> None:
    for shown, experiment in _chosen(name):
        # First all that can be wrong.
        rows = [(row, _overrides(row, experiment)) for row in rows_of(experiment, _ONLY.value)]
        configured = [(row, overrides, configuration(row, overrides)) for row, overrides in rows]
        print(f"{shown}: {experiment.title} ({experiment.metric})")
        for source in experiment.sources:
            print(f"  source: {source}")
        for row, overrides, config in configured:
            height, width = config.data.crop_size
            run = run_of(row, overrides, _seeds()[0])
            steps, passes = config.train.steps * _trainings(run), _passes(run, config)
            print(
                f"\n{row.name}\n"
                f"  paper: {paper_value(row)}\n"
                f"  cost: {steps} steps, {passes} forward passes of {height}x{width} pixels"
            )
            for command in _commands(row, run):
                print(f"  {command}")


def _commands(row: Row, run: Run) -> list[str]:
    """What trains the row, and what measures it if training does not."""
    run_dir = f"--run_dir={run.directory(_root())}"
    # Seed 0 is the default.
    seeds = (f"data.seed={run.seed}", f"train.seed={run.seed}") if run.seed else ()
    made = [
        f"pseudoseg-{run.program.replace('_', '-')}",
        f"--preset={run.preset}",
        run_dir,
        *(f"--set={override}" for override in (*seeds, *run.overrides)),
    ]
    measured = [["pseudoseg-calibrate", run_dir]] if row.kind == "calibrate" else []
    return [shlex.join(words) for words in (made, *measured)]


def _passes(run: Run, config: Config) -> str:
    """The cost of a run's training in forward passes, as text."""
    passes = forward_passes(config)
    if run.program == "self_train":
        # The student's batch is PseudoSeg's, of labeled and unlabeled images together.
        batch = config.data.batch_labeled + config.data.batch_unlabeled
        student = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_labeled=batch))
        passes += forward_passes(student)
    passes *= config.train.steps
    return f"{passes / 1e6:.3g} million" if passes >= 1e6 else str(passes)


def _run(name: str) -> None:
    check_directory(_root())
    runs: dict[Path, Run] = {}
    calibrations: dict[Path, Run] = {}
    for shown, experiment in _chosen(name):
        for row in rows_of(experiment, _ONLY.value):
            for run in _runs(shown, row, experiment):
                runs[run.directory(_root())] = run
                if row.kind == "calibrate":
                    calibrations[run.directory(_root())] = dataclasses.replace(run, program="calibrate")
    if not runs:
        raise UserError(f"{name}: no row can be run, see above; docs/runs.md says what a folder must have")
    short = _BUDGET.value == "smoke"
    missing = [run for run in runs.values() if not is_done(run.scored(_root()), _steps(run))]
    print(f"{len(runs)} different runs, {len(missing)} to make (logs in {_root()})", flush=True)
    if missing:
        if short:
            _draw_scenes(missing[0])
        steps = sum(_steps(run) * _trainings(run) for run in missing)
        run_all(missing, _root(), steps, _JOBS.value, short)
    uncalibrated = [run for path, run in calibrations.items() if not calibration_file(path).exists()]
    if uncalibrated:
        run_all(uncalibrated, _root(), 0, _JOBS.value, short)
    _report(name)


def _report(name: str) -> None:
    check_directory(_root())
    for shown, experiment in _chosen(name):
        results = []
        for row in rows_of(experiment, _ONLY.value):
            runs = _runs(shown, row, experiment)
            result = read_result(row, runs[0], _root()) if runs else Result(row)
            results.append(without_scores(result) if _BUDGET.value == "smoke" else result)
        cells = report_cells(results)
        heading = f"{shown}: {experiment.title} ({experiment.metric}; {_BUDGET.value} budget)"
        print(f"\n{heading}\n{aligned(cells)}")
        write_text(_root() / f"{shown}.md", f"{heading}\n\n{markdown_table(cells)}\n")
        if _BUDGET.value != "smoke":
            plot(heading, experiment.metric, results, _root() / f"{shown}.png", _BUDGET.value == "full")
    if _BUDGET.value == "cpu":
        print("\nThe rows compare with each other; only the full budget compares with the paper.")


def _chosen(name: str) -> list[tuple[str, Experiment]]:
    if name == "all" and _ONLY.value:
        raise UserError("--only: rows belong to one experiment; name it instead of all")
    chosen = [(each, load_experiment(each)) for each in (experiment_names() if name == "all" else [name])]
    for each, experiment in chosen:
        check_changes(_SET.value, each, experiment)
    return chosen


def _runs(name: str, row: Row, experiment: Experiment) -> list[Run]:
    """The runs of a row, a seed each; none, with a line that says why, if the folder is too small for its split."""
    try:
        overrides = _overrides(row, experiment)
    except TooFewImagesError as error:
        _say_once(f"{name}, {row.name}: not run, {error}")
        return []
    return [run_of(row, overrides, seed) for seed in _seeds()]


@functools.cache
def _say_once(line: str) -> None:
    print(line, flush=True)


def _overrides(row: Row, experiment: Experiment) -> tuple[str, ...]:
    values = parse_overrides((*_budgeted(row, experiment), *_SET.value))
    return tuple(f"{key}={value}" for key, value in values.items())


def _budgeted(row: Row, experiment: Experiment) -> tuple[str, ...]:
    backbone = parse_overrides(_SET.value).get("model.backbone", "")
    if _BUDGET.value == "smoke":
        return smoke(row, experiment, backbone)
    if _BUDGET.value == "full":
        if _WEIGHTS.value == "":
            raise UserError("--weights: empty; full takes the folder of first weights, such as zoo")
        return full(row, _WEIGHTS.value or "zoo", _ACCUMULATE.value, backbone)
    if not _DATA.value:
        raise UserError("--data: missing; --budget=cpu needs a folder of real images (--help)")
    if _WEIGHTS.value is None and backbone not in ("", "mobilenet_v1"):
        raise UserError(
            f"--weights: missing; name first weights of {backbone}, or none, to start at random: --weights="
        )
    return on_cpu(
        row,
        experiment,
        Path(_DATA.value),
        _root() / "lists",
        "imagenet" if _WEIGHTS.value is None else _WEIGHTS.value,
        _STEPS.value,
        _EVALUATIONS.value,
    )


def _trainings(run: Run) -> int:
    """Self-training trains a teacher and a student."""
    return 2 if run.program == "self_train" else 1


def _steps(run: Run) -> int:
    return apply_overrides(preset(run.preset), run.overrides).train.steps


def _draw_scenes(run: Run) -> None:
    """Prepares the drawn data set here, because two training processes that find it missing would both draw it."""
    # TensorFlow takes seconds to import: only now, when there is something to train.
    from pseudoseg_tf.data.sources import open_sources

    open_sources(apply_overrides(preset(run.preset), run.overrides).data, "supervised")


def _root() -> Path:
    return Path(_OUT.value) / _BUDGET.value


@functools.cache
def _seeds() -> list[int]:
    if not _SEEDS.value or not all(seed.isdecimal() for seed in _SEEDS.value):
        raise UserError(f"--seeds: found {','.join(_SEEDS.value)!r}, must be whole numbers such as 0,1,2")
    return [int(seed) for seed in _SEEDS.value]


def run() -> None:
    """Entry point of pseudoseg-experiment."""
    _app.run(main, takes_words=True)


if __name__ == "__main__":
    run()
