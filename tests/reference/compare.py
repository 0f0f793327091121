"""Compares this package with a directory of numbers of the authors' TensorFlow 1 code, quantity by quantity.

Prints a row for each: name, shape, largest difference, that difference relative to the largest value, tolerance,
and whether it is met. A file or quantity that it does not know is a failure, so that nothing is passed over.
Exit code 1 if anything failed.

A pass with batch statistics is ill-conditioned in float32: where a quantity of one misses its tolerance, the same
is computed in float64, and the row says "f64" instead of "FAIL" if our number is within the tolerance of that. Where
the reference's own number misses it by more, the tolerance cannot be met but by chance; then it also says so if our
distance is of the size of the reference's (at most twice it). Its note gives both distances.

Example:
  python -m tests.reference.compare --dir=../shared/reference/A
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.config import Config, ModelConfig
from pseudoseg_tf.errors import UserError
from tests.reference.tolerances import Array, rule_for

_DIR = flags.DEFINE_string("dir", None, "Directory of reference numbers, such as ../shared/reference/A.")
_FILES = flags.DEFINE_string("files", "", "Compare only files whose name this regular expression finds.")
_FAILED = flags.DEFINE_bool("failed", False, "Print only the rows that failed, and the sums.")

# What a file says about how it was made; nothing in it to compare.
_PROVENANCE = {
    "tag", "mode", "seed", "flags", "dropout", "loss_names", "opt", "passes", "dataset_calls", "bn_updates_per_layer",
    "bn_layers_by_number_of_updates", "bn_passes", "real_train_op", "bn_real", "one_thread", "seconds",
}  # fmt: skip
# The reference's own race: its statistics of one run, in the order that its threads happened to take.
_RACY = re.compile(r"bn:.*:real")


_LINE = "{:110} {:>14} {:>9} {:>9}  {:12} {:4} {}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One compared quantity."""

    name: str
    passed: bool
    shape: tuple[int, ...] = ()
    difference: float = float("nan")
    relative: float = float("nan")
    tolerance: str = ""
    note: str = ""
    # Misses the tolerance, but not the float64 value, or that as the reference does.
    rounding: bool = False

    @property
    def skipped(self) -> bool:
        """There is nothing to compare, and the note says why."""
        return self.note.startswith("not compared")

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "-"
        figures = (
            ("-", "-") if np.isnan(self.difference) else (f"{self.difference:.2e}", f"{self.relative:.2e}")
        )
        verdict = "skip" if self.skipped else "f64" if self.rounding else "pass" if self.passed else "FAIL"
        return _LINE.format(self.name, shape, *figures, self.tolerance, verdict, self.note).rstrip()


def main(argv: Sequence[str]) -> None:
    """Prints the rows of every file and exits."""
    del argv
    if not _DIR.value:
        raise UserError("--dir: missing; name a directory of reference numbers")
    directory = Path(_DIR.value)
    if not directory.is_dir():
        raise UserError(f"--dir: {directory} is not a directory")
    try:
        wanted = re.compile(_FILES.value)
    except re.error as error:
        raise UserError(f"--files: {_FILES.value!r} is not a regular expression ({error})") from error
    names = [name for name in file_names(directory) if wanted.search(name)]
    if not names:
        raise UserError(f"--files: no file in {directory} has a name with {_FILES.value!r}")
    failed = rounding = skipped = total = 0
    print(_LINE.format("quantity", "shape", "largest", "relative", "tolerance", "", "").rstrip())
    for name in names:
        every = list(compare_file(directory, name))
        rows = [row for row in every if not row.skipped]
        bad = [row for row in rows if not row.passed]
        print(f"\n{name}")
        for row in every:
            if not _FAILED.value or not row.passed or row.rounding:
                print(row)
        print(f"{name}: {len(rows) - len(bad)} of {len(rows)} pass", flush=True)
        failed, total = failed + len(bad), total + len(rows)
        rounding += sum(row.rounding for row in rows)
        skipped += len(every) - len(rows)
    print(
        f"\n{total - failed} of {total} quantities pass, {rounding} of them judged by their float64 value; "
        f"{skipped} not compared"
    )
    sys.exit(1 if failed else 0)


def file_names(directory: Path) -> list[str]:
    """Names of the files of a set; a step's .json belongs to its .npz."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    return [name for name in names if not (name.endswith(".json") and f"{name[:-5]}.npz" in names)]


def compare_file(directory: Path, name: str) -> Iterator[Row]:
    """Yields a row for each quantity of a file."""
    for pattern, compare in _KINDS.items():
        if match := re.fullmatch(pattern, name):
            yield from compare(directory, match)
            return
    yield Row(name, False, note="a file that this comparison does not know")


def _row(kind: str, name: str, ours: Any, theirs: Any) -> Row:
    a, b = (np.asarray(x, np.float64) for x in (ours, theirs))
    try:
        rule = rule_for(kind, name)
    except KeyError as error:
        return Row(name, False, b.shape, note=str(error))
    if a.shape != b.shape:
        return Row(name, False, b.shape, tolerance=rule.text, note=f"our shape is {a.shape}")
    difference = float(np.max(np.abs(a - b), initial=0))
    largest = float(np.max(np.abs(b), initial=0))
    passed = bool(np.all(np.isfinite(a))) and rule.holds(a, b)
    return Row(name, passed, b.shape, difference, difference / largest if largest else difference, rule.text)


def _rows(kind: str, ours: Mapping[str, Callable[[], Any]], theirs: Mapping[str, Array]) -> Iterator[Row]:
    for name, values in theirs.items():
        if name not in ours:
            yield Row(name, False, np.shape(values), note="a quantity that this comparison does not know")
        else:
            yield _row(kind, name, ours[name](), values)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _arrays(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _seed(directory: Path) -> int:
    """The seed of a set, which its steps name."""
    seeds = {_json(path)["seed"] for path in directory.glob("step_*.json")}
    if len(seeds) != 1:
        raise UserError(f"{directory}: its step_*.json files name the seeds {sorted(seeds)}; one is needed")
    return int(seeds.pop())


def _compare_inputs(directory: Path, match: re.Match[str]) -> Iterator[Row]:
    from tests.reference import formula

    additional, labeled = formula.training_inputs(_seed(directory))
    ours = {
        "cls/image": additional.weak,
        "cls/strong": additional.strong,
        "cls/label": additional.labels[..., np.newaxis],
        "cls/valid": additional.valid[..., np.newaxis],
        "cls/cls_label": formula.image_labels(additional.labels),
        "seg/image": labeled.image,
        "seg/label": labeled.labels[..., np.newaxis],
        "seg/valid": labeled.valid[..., np.newaxis],
        "seg/cls_label": formula.image_labels(labeled.labels),
        "eval_images": formula.evaluation_images(_seed(directory)),
    }
    for name, sums in _json(directory / match[0]).items():
        if name.startswith("value:"):
            values = formula.variable(name.removeprefix("value:"), tuple(sums["shape"]))
        elif name in ours:
            values = ours[name]
        else:
            yield Row(name, False, note="a quantity that this comparison does not know")
            continue
        flat = values.astype(np.float64).ravel()
        computed = {
            "shape": values.shape,
            "sum": flat.sum(),
            "weighted": (flat * (np.arange(flat.size) % 97 + 1)).sum(),
            "first": flat[:4],
            "dtype": str(values.dtype),
        }
        for part, expected in sums.items():
            if part == "dtype":
                yield Row(f"{name}:dtype", computed[part] == expected, note=expected)
            elif part in computed:
                yield _row("formula", f"{name}:{part}", computed[part], expected)
            else:
                yield Row(f"{name}:{part}", False, note="a quantity that this comparison does not know")


def _compare_variables(directory: Path, match: re.Match[str]) -> Iterator[Row]:
    """Names, shapes, and which are trained, decayed and sped up; the optimizer's slots; the formula's sums."""
    from pseudoseg_tf.assembly import model_gradient_multipliers
    from tests.reference import formula, network

    file = _json(directory / match[0])
    config = _configuration(match["tag"])
    model = network.formula_model(config)
    factors = dict(
        zip(
            (v.ref() for v in model.trainable_variables),
            model_gradient_multipliers(model, config.train),
            strict=True,
        )
    )
    decayed = {v.ref() for v in model.regularized_weights}
    named = {
        name: [list(shape), v.trainable, v.ref() in decayed, factors.get(v.ref(), 1.0)]
        for name, shape, v in network.named_variables(model)
    }
    # Our step is the optimizer's.
    named["global_step"] = [[], False, False, 1.0]
    theirs = {row[0]: row[1:] for row in file.pop("variables")}
    for name in sorted(named.keys() | theirs.keys()):
        ours, expected = named.get(name), theirs.get(name)
        yield Row(name, ours == expected, note="" if ours == expected else f"ours {ours}, theirs {expected}")
    slots = {f"{name}/Momentum" for name, row in named.items() if row[1]}
    differing = sorted(slots ^ set(file.pop("momentum_slots")))
    yield Row("momentum_slots", not differing, note=", ".join(differing[:3]))
    number = file.pop("number_of_regularization_losses")
    yield _row("variables", "number_of_regularization_losses", len(decayed), number)
    for name, total in file.pop("checksum_of_formula_values").items():
        ours = (
            0.0
            if name == "global_step"
            else formula.variable(name, tuple(theirs[name][0])).sum(dtype=np.float64)
        )
        yield _row("formula", f"checksum:{name}", ours, total)
    for name in file.keys() - {"columns", "weight_decay", "init"}:
        yield Row(name, False, note="a quantity that this comparison does not know")


def _configuration(tag: str) -> Config:
    """The network of a tag such as resnet_v1_50_beta_mg124, at output stride 16."""
    backbone, _, grid = tag.partition("_mg")
    return Config(
        model=ModelConfig(
            backbone=backbone,  # type: ignore[arg-type]
            multi_grid=tuple(map(int, grid)) or (1, 1, 1),
            aspp_keep_prob=1.0,
            classifier_keep_prob=1.0,
        )
    )


def _compare_forward(directory: Path, match: re.Match[str]) -> Iterator[Row]:
    from tests.reference import formula, network

    model = network.formula_model(_configuration(match["tag"]))
    ours = network.forward(model, formula.evaluation_images(_seed(directory)))
    yield from _rows("forward", ours, _arrays(directory / match[0]))


def _compare_step(directory: Path, match: re.Match[str]) -> Iterator[Row]:
    from tests.reference import flags as reference_flags
    from tests.reference import network, precise

    about = _json(directory / f"{match['name']}.json")
    theirs = _arrays(directory / match[0])
    try:
        config = reference_flags.configuration(about["flags"])
    except (ValueError, UserError) as error:
        yield Row("flags", False, note=str(error))
        return
    step = network.training_step(config, about["seed"])
    sgc_logits = np.asarray(step.quantities["att_logits_weak"]())
    exact = functools.cache(lambda: precise.training_passes(config, about["seed"], sgc_logits))
    noise = set(about.pop("gradients_that_are_rounding_noise", []))

    def of_noise(name: str) -> bool:
        return name.split(":")[1] in noise

    for name, values in theirs.items():
        if _RACY.fullmatch(name):
            yield Row(name, True, values.shape, note="not compared: the reference's race")
        elif name.startswith(("grad:", "new:")) and of_noise(name):
            yield Row(name, True, values.shape, note="not compared: rounding noise")
        elif name.startswith("new:") and name in step.quantities:
            old = np.asarray(step.quantities[name.replace("new:", "old:", 1)](), np.float64)
            moved = np.asarray(step.quantities[name](), np.float64) - old
            yield _row("step", name.replace("new:", "step:", 1), moved, values - old)
        elif name == "pseudo_label" and values.dtype.kind == "i":
            yield _row("step", "hard:pseudo_label", step.quantities[name](), values)
        elif name not in step.quantities:
            yield Row(name, False, values.shape, note="a quantity that this comparison does not know")
        else:
            ours = step.quantities[name]()
            row = _row("step", name, ours, values)
            yield row if row.passed else _against_exact(row, ours, values, exact().get(name))
            if name in ("logits_weak", "logits_strong", "semantic_seg", "pseudo_label", "att_logits_weak"):
                yield _row("step", f"argmax:{name}", np.argmax(ours, -1), np.argmax(values, -1))
    gradients = about.pop("gradients", {})
    about.pop("losses", None)
    about.pop("learning_rate", None)
    if "global_norm" in gradients:
        yield _row(
            "step",
            "scalar:global_norm",
            step.quantities["scalar:global_norm"](),
            gradients.pop("global_norm"),
        )
    norms = gradients.pop("l2", {})
    for name, norm in norms.items():
        if name in noise:
            yield Row(f"norm:{name}", True, note="not compared: rounding noise")
        else:
            yield _row("step", f"norm:{name}", step.norms.get(name, float("nan")), norm)
    for name in (step.norms.keys() - norms.keys()) if norms else ():
        yield Row(f"norm:{name}", False, note="the reference has no such gradient")
    for name in (about.keys() - _PROVENANCE) | gradients.keys():
        yield Row(name, False, note="a quantity that this comparison does not know")


def _against_exact(row: Row, ours: Any, theirs: Array, exact: Array | None) -> Row:
    """A failed row, judged by the float64 value where there is one."""
    if exact is None or np.shape(ours) != exact.shape:
        return row
    mine, reference = (np.abs(np.asarray(values, np.float64) - exact) for values in (ours, theirs))
    attained, attainable = (
        rule_for("step", row.name).holds(np.asarray(values, np.float64), exact) for values in (ours, theirs)
    )
    rounding = attained or (not attainable and bool(mine.max() <= 2 * reference.max()))
    note = f"from float64: ours {mine.max():.1e}, the reference's {reference.max():.1e}"
    return dataclasses.replace(row, passed=rounding, rounding=rounding, note=note)


def _compare_schedule(directory: Path, match: re.Match[str]) -> Iterator[Row]:
    from pseudoseg_tf.assembly import create_schedule
    from tests.reference import flags as reference_flags

    for number, case in enumerate(_json(directory / match[0])):
        arguments = [f"--{name}={value}" for name, value in case.pop("args").items()]
        rates, at = case.pop("learning_rate"), case.pop("steps")
        schedule = create_schedule(reference_flags.configuration(arguments).train)
        yield _row("schedule", f"case {number}", [float(schedule(step)) for step in at], rates)
        for name in case:
            yield Row(f"case {number}: {name}", False, note="a quantity that this comparison does not know")


def _compare_metrics(directory: Path, match: re.Match[str]) -> Iterator[Row]:
    import tensorflow as tf

    from pseudoseg_tf.metrics import SegmentationMetrics, confusion_matrix

    file = _json(directory / match[0])
    file.pop("note")
    labels, predictions = np.array(file.pop("labels")), np.array(file.pop("predictions"))
    counts = np.array(file.pop("confusion_rows_are_labels"))
    classes = len(counts)
    metrics = SegmentationMetrics(classes)
    metrics.update(tf.constant(labels), tf.one_hot(predictions, classes))
    names = tuple(map(str, range(classes)))
    result = metrics.result(names)
    yield _row("metrics", "miou", result["miou"], file.pop("miou"))
    yield _row("metrics", "confusion", confusion_matrix(labels, predictions, classes), counts)
    for name, theirs in zip(names, file.pop("iou_per_class"), strict=True):
        ours = result["iou"][name]
        if theirs is None:
            # Theirs is undefined where a class is never a label; ours is 0 if it was predicted, as in the mean.
            never_seen = counts[int(name)].sum() == 0
            expected = 0.0 if counts[:, int(name)].sum() else None
            yield Row(f"iou:{name}", bool(never_seen) and ours == expected, note="never a label")
        else:
            yield _row("metrics", f"iou:{name}", ours, theirs)
    for name in file:
        yield Row(name, False, note="a quantity that this comparison does not know")


def _compare_views(directory: Path, match: re.Match[str]) -> Iterator[Row]:
    from tests.reference.views import Views, is_input

    theirs = _arrays(directory / match[0])
    views = Views(theirs)
    for name, values in theirs.items():
        if is_input(name):
            yield Row(name, True, values.shape, note="not compared: an input")
            continue
        for row in _rows("views", views.quantities, {name: values}):
            yield dataclasses.replace(row, note=row.note or views.note(name))
    for name, passed, note in views.facts(_json(directory / "augment_meta.json")):
        yield Row(name, passed, note=note)


def _compare_meta(directory: Path, match: re.Match[str]) -> Iterator[Row]:
    """Its entries are compared with augment.npz."""
    if not (directory / "augment.npz").is_file():
        yield Row(match[0], False, note="there is no augment.npz that it belongs to")


_KINDS: dict[str, Callable[[Path, re.Match[str]], Iterator[Row]]] = {
    r"inputs_check\.json": _compare_inputs,
    r"variables_(?P<tag>.*?)(_weakly)?\.json": _compare_variables,
    r"forward_(?P<tag>.*)\.npz": _compare_forward,
    r"(?P<name>step_.*)\.npz": _compare_step,
    r"schedule\.json": _compare_schedule,
    r"metrics\.json": _compare_metrics,
    r"augment\.npz": _compare_views,
    r"augment_meta\.json": _compare_meta,
}


if __name__ == "__main__":
    _app.run(main)
