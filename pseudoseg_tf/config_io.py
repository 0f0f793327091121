"""A configuration as text: dotted overrides, its rules, and the ``config.json`` of a run directory."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import math
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pseudoseg_tf
from pseudoseg_tf.config import Config, DataConfig
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import check_directory, check_no_pattern, read_json, write_json

# What may differ between a run and its continuation: nothing that the weights depend on. (The learning
# rate depends on train.steps, so a longer run is another run. A run that stopped at a bad example may go on
# without it.)
_FREE_ON_RESUME = (
    "runtime.",
    "data.cache",
    "train.keep",
    "train.log_every",
    "train.pictures_every",
    "train.on_nonfinite",
    "train.max_rollbacks",
    "data.on_bad_example",
    "data.max_bad_examples",
)
# Of these one is part of what the weights depend on.
_NOT_FREE = "runtime.deterministic"

# Steps, sizes and seeds all end in signed 32-bit numbers somewhere in TensorFlow.
_MAX_WHOLE = 2**31 - 1
_ADDRESS = re.compile(r"[\w.-]+:(\d{1,5})")


def parse_overrides(overrides: Iterable[str]) -> dict[str, str]:
    """Splits ``["train.steps=10", ...]`` at the first "="; of a repeated key the last value counts.

    Raises:
      UserError: if an entry has no "=".
    """
    values: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"{override!r}: an override is KEY=VALUE, such as train.steps=2000")
        values[key.strip()] = value.strip()
    return values


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Returns ``config`` with single fields replaced; values are read as the field's annotation says.

    Example:
      >>> apply_overrides(Config(), ["data.crop_size=257", "pseudo.soft=false"]).data.crop_size
      (257, 257)

    Raises:
      UserError: for an unknown key (names the nearest) or a value of the wrong type.
    """
    for key, text in parse_overrides(overrides).items():
        kind = _kind_of(key)
        value = _checked(key, kind, _read(kind, text))
        group, _, name = key.partition(".")
        changed = dataclasses.replace(getattr(config, group), **{name: value})
        config = dataclasses.replace(config, **{group: changed})
    return config


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Returns ``{"group": {"key": value}}`` of plain Python values."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> Config:
    """Inverse of :func:`to_dict`; absent keys keep their default, so that runs of an earlier version load.

    Raises:
      UserError: for an unknown key or a value of the wrong type.
    """
    groups = {}
    for group, entries in values.items():
        kinds = _kinds_of_group(group)
        if not isinstance(entries, Mapping):
            raise UserError(f"{group}: found {entries!r}, must be an object with the keys {', '.join(kinds)}")
        checked = {}
        for name, value in entries.items():
            key = f"{group}.{name}"
            checked[name] = _checked(key, _kind_of(key), value)
        groups[group] = dataclasses.replace(getattr(Config(), group), **checked)
    return Config(**groups)


def flatten(config: Config) -> dict[str, Any]:
    """Returns ``{"group.key": value}`` in the order of the dataclasses."""
    groups = to_dict(config)
    return {f"{group}.{name}": value for group in groups for name, value in groups[group].items()}


def read_flag(flag: str, key: str, text: str) -> Any:
    """Reads the value of a command-line flag that stands in for a key.

    Raises:
      UserError: naming ``flag``, if ``validate`` would refuse the value as that of ``key``.
    """
    kind = _kind_of(key)
    value = _checked(flag, kind, _read(kind, text))
    group, _, name = key.partition(".")
    changed = dataclasses.replace(getattr(Config(), group), **{name: value})
    for ruled, holds, allowed in _rules(dataclasses.replace(Config(), **{group: changed})):
        if ruled == key and not holds:
            raise UserError(f"{flag}: found {text!r}, must be {allowed}")
    return value


def validate(config: Config) -> None:
    """Checks every field's type and range, and the rules between fields. Touches no file.

    Raises:
      UserError: naming the first key at fault, its value and what is allowed.
    """
    from_dict(to_dict(config))
    values = flatten(config)
    for key, holds, allowed in _rules(config):
        if not holds:
            raise UserError(f"{key}: found {as_text(values[key])!r}, must be {allowed}")


def validate_for_classes(config: Config, num_classes: int) -> None:
    """Checks what only a data set tells: that class weights are one per class, background included.

    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    weights = config.train.label_weights
    if weights and len(weights) != num_classes:
        raise UserError(
            f"train.label_weights: found {as_text(weights)!r} ({len(weights)} numbers), must be empty or one "
            f"number for each of the {num_classes} classes"
        )


def _rules(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Yields (key, whether its rule holds, what is allowed)."""
    model, data, train, pseudo = config.model, config.data, config.train, config.pseudo
    positive, natural = "greater than 0", "0 or greater"

    yield "model.output_stride", model.output_stride in (8, 16), "8 or 16"
    rates = model.atrous_rates
    yield "model.atrous_rates", bool(rates) and min(rates) > 0, "one or more rates, each greater than 0"
    grid = model.multi_grid
    yield "model.multi_grid", len(grid) == 3 and min(grid) > 0, "three factors, each greater than 0"
    stages = 6 if model.backbone == "xception_65" else 4
    chosen = set(model.hypercolumn)
    known = bool(chosen) and len(chosen) == len(model.hypercolumn) and chosen <= set(range(1, stages + 1))
    yield "model.hypercolumn", known, f"one or more different stages from 1 to {stages}"
    yield "model.aspp_channels", model.aspp_channels > 0, positive
    yield "model.decoder_channels", model.decoder_channels > 0, positive
    yield "model.attention_dim", model.attention_dim > 0, positive
    yield "model.width_multiplier", model.width_multiplier > 0, positive
    only_mobilenet = model.width_multiplier == 1 or model.backbone == "mobilenet_v1"
    yield "model.width_multiplier", only_mobilenet, f"1 with model.backbone={model.backbone}"
    yield "model.aspp_keep_prob", 0 < model.aspp_keep_prob <= 1, "greater than 0 and at most 1"
    yield "model.classifier_keep_prob", 0 <= model.classifier_keep_prob <= 1, "from 0 to 1"
    yield "model.batch_norm_decay", 0 <= model.batch_norm_decay < 1, "0 or greater, and less than 1"

    first = config.init.weights
    only_mobilenet = not has_keras_names(first) or model.backbone == "mobilenet_v1"
    allowed = f"empty or a TensorFlow 1 checkpoint with model.backbone={model.backbone}"
    yield "init.weights", only_mobilenet, allowed
    from_checkpoint = bool(first) and not has_keras_names(first)
    allowed = "false unless init.weights is a TensorFlow 1 checkpoint"
    yield "init.last_layers", from_checkpoint or not config.init.last_layers, allowed

    yield from _source_rules(config)
    of_coco = data.image_labels.endswith(".json")
    allowed = "empty unless data.image_labels is a .json file of COCO's annotations"
    yield "data.category_classes", of_coco or not data.category_classes, allowed
    yield "data.min_resize", data.min_resize >= 0, "0 (images keep their size) or greater"
    for name in ("max_resize", "resize_factor"):
        value = getattr(data, name)
        yield f"data.{name}", value >= 0, natural
        yield f"data.{name}", data.min_resize > 0 or value == 0, "0 with data.min_resize=0"
    least = max(data.min_resize, data.resize_factor + 1)
    allowed = f"0 (no limit) or at least {least} (data.min_resize, and more than data.resize_factor)"
    yield "data.max_resize", data.max_resize == 0 or data.max_resize >= least, allowed
    yield "data.crop_size", all(_fits_stride(size) for size in data.crop_size), _allowed_sizes(data.crop_size)
    whole = data.eval_size == (0, 0)
    eval_fits = whole or all(_fits_stride(size) for size in data.eval_size)
    yield "data.eval_size", eval_fits, f"0,0 (each image at its own size) or {_allowed_sizes(data.eval_size)}"
    yield "data.eval_batch", data.eval_batch > 0, positive
    yield "data.eval_batch", not whole or data.eval_batch == 1, "1 when data.eval_size is 0,0"
    are_scales = bool(data.eval_scales) and all(0 < scale <= 4 for scale in data.eval_scales)
    allowed = "one or more factors, each greater than 0 and at most 4, such as 0.5,1,1.5"
    yield "data.eval_scales", are_scales, allowed
    window_fits = data.eval_window == (0, 0) or all(_fits_stride(size) for size in data.eval_window)
    allowed = f"0,0 (no windows) or {_allowed_sizes(data.eval_window)}"
    yield "data.eval_window", window_fits, allowed
    # At most 400 windows where there would be one: a mistaken 0.999 would run for days.
    yield "data.eval_overlap", 0 <= data.eval_overlap <= 0.95, "from 0 to 0.95"
    yield "data.batch_labeled", data.batch_labeled > 0, positive
    yield "data.batch_unlabeled", data.batch_unlabeled > 0, positive
    yield "data.min_scale", data.min_scale > 0, positive
    yield "data.max_scale", data.max_scale >= data.min_scale, f"data.min_scale ({data.min_scale}) or greater"
    # A draw is from all the steps there are.
    yield "data.scale_step", data.scale_step >= 0.001, "0.001 or greater"
    # At 2 the contrast factor's range reaches 0 and the hue makes a full turn.
    yield "data.jitter_strength", 0 <= data.jitter_strength <= 2, "from 0 to 2"
    yield "data.cutout", data.cutout >= 0, natural
    yield "data.max_bad_examples", data.max_bad_examples >= 0, natural
    yield "data.seed", data.seed >= 0, natural

    yield "train.steps", train.steps > 0, positive
    yield "train.accumulate", train.accumulate > 0, positive
    for name in ("batch_labeled", *(["batch_unlabeled"] if train.mode != "supervised" else [])):
        divides = train.accumulate > 0 and getattr(data, name) % train.accumulate == 0
        yield f"data.{name}", divides, f"a multiple of train.accumulate ({train.accumulate})"
    yield "train.learning_rate", train.learning_rate > 0, positive
    yield "train.momentum", 0 <= train.momentum < 1, "0 or greater, and less than 1"
    part = "greater than 0 and at most 1"
    yield "train.step_decay_factor", 0 < train.step_decay_factor <= 1, part
    slow = f"0 or greater, and less than train.steps ({train.steps})"
    yield "train.slow_start_steps", 0 <= train.slow_start_steps < train.steps, slow
    for name in ("step_decay_every", "adam_learning_rate", "adam_epsilon"):
        yield f"train.{name}", getattr(train, name) > 0, positive
    for name in (
        *("power", "end_learning_rate", "decay_steps", "slow_start_learning_rate", "weight_decay"),
        *("backbone_multiplier", "last_layer_multiplier", "classification_weight", "attention_weight"),
        *("hard_example_mining_step", "seed"),
    ):
        yield f"train.{name}", getattr(train, name) >= 0, natural
    weights = train.label_weights
    some = not weights or (min(weights) >= 0 and max(weights) > 0)
    yield "train.label_weights", some, "empty, or numbers of 0 or greater, not all of them 0"
    yield "train.top_k_percent_pixels", 0 < train.top_k_percent_pixels <= 1, part
    for name in (
        "checkpoint_every",
        "evaluate_every",
        "log_every",
        "pictures_every",
        "keep",
        "max_rollbacks",
    ):
        yield f"train.{name}", getattr(train, name) > 0, positive

    with_source = pseudo.use_attention or pseudo.source == "decoder"
    yield "pseudo.use_attention", with_source, f"true with pseudo.source={pseudo.source}"
    alone = pseudo.source != "fused" and pseudo.use_attention
    allowed = "false unless one of both maps is the source (pseudo.source=decoder or sgc, with use_attention)"
    yield "pseudo.normalize_alone", alone or not pseudo.normalize_alone, allowed
    yield "pseudo.gamma", 0 <= pseudo.gamma <= 1, "from 0 to 1"
    yield "pseudo.temperature", pseudo.temperature > 0, positive
    yield "pseudo.threshold", 0 <= pseudo.threshold < 1, "0 or greater, and less than 1"
    yield "pseudo.weight", pseudo.weight >= 0, natural
    yield "pseudo.ramp_steps", pseudo.ramp_steps >= 0, natural

    on_tpu = config.runtime.strategy == "tpu" or not config.runtime.tpu
    yield "runtime.tpu", on_tpu, f"empty with runtime.strategy={config.runtime.strategy}"
    yield "runtime.threads", config.runtime.threads >= 0, "0 (all cores) or greater"
    servers = config.runtime.input_servers
    are_addresses = not servers or all(map(_is_address, servers.split(",")))
    yield "runtime.input_servers", are_addresses, "empty or addresses such as localhost:5050,host2:5050"
    strict = not servers or data.on_bad_example == "fail"
    yield "data.on_bad_example", strict, "fail with runtime.input_servers"


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match[1]) < 65536


def _source_rules(config: Config) -> Iterator[tuple[str, bool, str]]:
    """What each kind of source cannot do without; that the paths exist is checked when they are opened."""
    data = config.data
    lists = ("labeled", "unlabeled", "val")
    needed = {
        "folder": {
            "images": "a directory",
            "masks": "a directory",
            "classes": "a text file of class names",
            **dict.fromkeys(lists, "a text file of image ids"),
        },
        "tfrecord": {
            "classes": "a text file of class names",
            **dict.fromkeys(lists, "a pattern of shard files"),
        },
        "tfds": {"name": "a builder name", **dict.fromkeys(lists, "a split such as train[:20]")},
    }[data.source]
    supervised = config.train.mode == "supervised"
    if supervised and not data.pseudo_labels:
        del needed["unlabeled"]
    if data.palette:
        needed.pop("classes", None)
    for name, what in needed.items():
        yield f"data.{name}", bool(getattr(data, name)), f"{what} (data.source={data.source} needs it)"
    yield (
        "data.pseudo_labels",
        supervised or not data.pseudo_labels,
        f"empty with train.mode={config.train.mode}",
    )
    yield "data.repeat_labeled", data.repeat_labeled > 0, "greater than 0"
    yield (
        "data.repeat_labeled",
        bool(data.pseudo_labels) or data.repeat_labeled == 1,
        "1 without data.pseudo_labels",
    )
    of_builder = data.source == "tfds"
    yield "data.palette", not (of_builder and data.palette), "empty with data.source=tfds"
    yield "data.binary_masks", not (of_builder and data.binary_masks), "false with data.source=tfds"
    yield "data.binary_masks", not (data.palette and data.binary_masks), "false with data.palette"


def has_keras_names(weights: str) -> bool:
    """Whether ``init.weights`` means weights of Keras-Applications, not a TensorFlow 1 checkpoint."""
    return weights in ("imagenet", "closeups") or weights.endswith((".npz", ".h5"))


def _fits_stride(size: int) -> bool:
    return size > 16 and size % 16 == 1


def _allowed_sizes(sizes: tuple[int, int]) -> str:
    near = ",".join(str(16 * max(1, round((size - 1) / 16)) + 1) for size in sizes)
    return f"16k+1 with k of 1 or more, such as {near}"


def check_run_dir(run_dir: str | os.PathLike[str], config: Config) -> bool:
    """Returns whether ``run_dir`` holds a run that ``config`` continues; False: a new run can start there.

    A run goes on under the same configuration, apart from the keys of _FREE_ON_RESUME.

    Raises:
      UserError: if the directory holds a run of another configuration, or cannot be written.
    """
    check_directory(run_dir)
    check_no_pattern(run_dir)
    check_apart(run_dir, config.data)
    run_dir = Path(run_dir).absolute()
    if (run_dir / "config.json").exists():
        before, now = flatten(load(run_dir)), flatten(config)
        free = [key for key in now if key.startswith(_FREE_ON_RESUME) and key != _NOT_FREE]
        changed = [key for key in now if before[key] != now[key] and key not in free]
        if changed:
            shown = "; ".join(
                f"{key} was {as_text(before[key])!r}, now {as_text(now[key])!r}" for key in changed[:3]
            )
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            longer = "; the learning rate falls over train.steps: a longer run is another one"
            raise UserError(
                f"{run_dir}: holds a run of another configuration ({shown}{more}); take another run directory, or the "
                f"same values to continue{longer if changed == ['train.steps'] else ''}"
            )
        return True
    if (run_dir / "checkpoints").exists():
        raise UserError(f"{run_dir}: holds checkpoints but no config.json; take another run directory")
    return False


def check_apart(directory: str | os.PathLike[str], data: DataConfig) -> None:
    """Raises UserError if what is to be written into a directory would lie among images or masks."""
    for key in ("images", "masks"):
        folder = getattr(data, key)
        if folder and os.path.realpath(folder) == os.path.realpath(directory):
            raise UserError(
                f"{os.fspath(directory)}: the folder of data.{key}; name another directory to write to"
            )


def save(run_dir: str | os.PathLike[str], preset: str, config: Config) -> None:
    """Writes ``run_dir/config.json``: the preset's name, every key, and the versions that made the run.

    Args:
      preset: "" keeps the name that a continued run was started with.

    Raises:
      UserError: if the configuration is invalid, or the directory belongs to another one (check_run_dir).
    """
    validate(config)
    path = Path(run_dir) / "config.json"
    if check_run_dir(run_dir, config) and not preset:
        preset = read_json(path).get("preset", "")
    write_json(path, {"preset": preset, "config": to_dict(config), "versions": _versions()})


class RunRecord(NamedTuple):
    """What ``config.json`` says of a run.

    Attributes:
      preset: its name; "" if the run was started from Python without one.
      config: every key.
      versions: of Python and of the libraries that made the run, by name.
    """

    preset: str
    config: Config
    versions: Mapping[str, str]


def load(run_dir: str | os.PathLike[str]) -> Config:
    """Reads the configuration that :func:`save` wrote.

    Raises:
      UserError: if ``run_dir`` is no run directory or its config.json is damaged.
    """
    return load_record(run_dir).config


def load_record(run_dir: str | os.PathLike[str]) -> RunRecord:
    """Reads all that :func:`save` wrote; raises as :func:`load`."""
    path = Path(run_dir) / "config.json"
    if not path.is_file():
        raise UserError(f"{run_dir}: no config.json here, so this is not a run directory of pseudoseg-train")
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UserError(f'{path}: has no "config" object, so pseudoseg-train did not write it')
    try:
        config = from_dict(content["config"])
        validate(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    versions = content.get("versions")
    return RunRecord(str(content.get("preset", "")), config, versions if isinstance(versions, dict) else {})


def difference_table(configs: Mapping[str, Config]) -> list[list[str]]:
    """The keys in which configurations differ, as rows of text: a header, then key and value in each of them."""
    values = [flatten(config) for config in configs.values()]
    rows = [["key", *configs]]
    for key in values[0]:
        texts = [as_text(each[key]) for each in values]
        if len(set(texts)) > 1:
            rows.append([key, *texts])
    return rows


def load_for_evaluation(
    run_dir: str | os.PathLike[str],
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: tuple[int, int] | None = None,
    overlap: float | None = None,
) -> Config:
    """As :func:`load`, with the key ``data.eval_`` of each name replaced where a value is given.

    Raises:
      UserError: as ``load``, or a given value is not allowed.
    """
    values = to_dict(load(run_dir))
    given = {"eval_scales": scales, "eval_flip": flip, "eval_window": window, "eval_overlap": overlap}
    values["data"] |= {name: value for name, value in given.items() if value is not None}
    config = from_dict(values)
    validate(config)
    return config


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("tensorflow", "tf_keras", "numpy")}
    return {"python": platform.python_version(), **found, "pseudoseg_tf": pseudoseg_tf.__version__}


def as_text(value: Any) -> str:
    """Writes a value as an override would: ``true``, ``513,1025``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(str(entry) for entry in value)
    return str(value)


def nearest(word: str, words: Iterable[str]) -> str:
    """Returns the entry of ``words`` that looks most like ``word``, however little."""
    return difflib.get_close_matches(word, list(words), n=1, cutoff=0.0)[0]


def _kinds_of_group(group: str) -> dict[str, Any]:
    """Returns the annotation of every key of a group."""
    groups = [field.name for field in dataclasses.fields(Config)]
    if group not in groups:
        raise UserError(
            f"{group}: unknown group; nearest: {nearest(group, groups)}; groups: {', '.join(groups)}"
        )
    return get_type_hints(type(getattr(Config(), group)))


def _kind_of(key: str) -> Any:
    """Returns the annotation of a dotted key, or raises a UserError that names the nearest key."""
    group, dot, name = key.partition(".")
    if not dot:
        every = list(flatten(Config()))
        names = [entry.partition(".")[2] for entry in every]
        meant = every[names.index(nearest(key, names))]
        raise UserError(f"{key}: a key is GROUP.NAME; nearest: {meant}")
    kinds = _kinds_of_group(group)
    if name not in kinds:
        meant = f"{group}.{nearest(name, kinds)}"
        raise UserError(f"{key}: unknown key; nearest: {meant}; keys of {group}: {', '.join(kinds)}")
    return kinds[name]


def _read(kind: Any, text: str) -> Any:
    """Reads command-line text as ``kind``; text that does not fit comes back, for _checked to refuse."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
        if get_origin(kind) is tuple:
            number = get_args(kind)[0]
            numbers = [number(part) for part in text.split(",")] if text else []
            return numbers * 2 if get_args(kind) == (int, int) and len(numbers) == 1 else numbers
    except (KeyError, ValueError):
        pass
    return text


def _checked(key: str, kind: Any, value: Any) -> Any:
    """Returns ``value`` as ``kind``, or raises a UserError that says what was expected."""
    if kind is int:
        fits, allowed = _is_whole(value), f"a whole number of at most {_MAX_WHOLE}"
    elif kind is float:
        fits = _is_finite(value)
        value, allowed = float(value) if fits else value, "a finite number"
    elif kind is bool:
        fits, allowed = isinstance(value, bool), "true or false"
    elif kind is str:
        fits, allowed = isinstance(value, str), "text"
    elif get_origin(kind) is Literal:
        fits, allowed = value in get_args(kind), "one of " + ", ".join(get_args(kind))
    elif kind == tuple[float, ...]:
        fits = isinstance(value, (list, tuple)) and all(map(_is_finite, value))
        value, allowed = tuple(map(float, value)) if fits else value, "finite numbers such as 0.5,1,2"
    else:
        pair = get_args(kind) == (int, int)
        allowed = (
            "whole numbers such as 513,1025 (or 513 for both)" if pair else "whole numbers such as 6,12,18"
        )
        fits = (
            isinstance(value, (list, tuple)) and all(map(_is_whole, value)) and (not pair or len(value) == 2)
        )
        value = tuple(value) if fits else value
    if not fits:
        raise UserError(f"{key}: found {as_text(value)!r}, must be {allowed}")
    return value


def _is_finite(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_WHOLE
