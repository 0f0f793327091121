r"""Trains with the functions that ``benchmarks.lower`` wrote; needs JAX, numpy, Pillow and absl, no TensorFlow.

All images stay on the device, decoded; views, steps and their loop are one compiled program. Writes for each run the
counts of its evaluations and the sums of its intervals (``raw.jsonl``), which ``benchmarks.collect_lowered`` turns into
a run directory, and with ``--keep`` the last state of some. ``--time`` measures steps instead. Compiling a step takes
a minute or two on an idle machine, and all of its cores.

Example:
  python -m benchmarks.run_lowered --lowered=build/lowered --data=voc12_subset --out=out --seconds=400
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import export
from jax._src.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.data.specs import IGNORE_LABEL, Source
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_json
from pseudoseg_tf.folder_comparison import folder_overrides

_LOWERED = flags.DEFINE_list(
    "lowered",
    None,
    "Directories that benchmarks.lower wrote; with several, each has one below --out.",
    required=True,
)
_DATA = flags.DEFINE_string(
    "data", None, "The folder of images that it was given, on this machine.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Directory to write.", required=True)
_RUNS = flags.DEFINE_list("runs", [], "Names of runs (ROW-seedN), in the order to make them; all if empty.")
_SECONDS = flags.DEFINE_float("seconds", float("inf"), "Begins no interval after so many seconds.")
_TIME = flags.DEFINE_integer("time", 0, "Measure so many intervals of each run and stop it.", lower_bound=0)
_KEEP = flags.DEFINE_list("keep", [], "Runs whose last model is written, in files of at most 15 MB.")

Arrays = Sequence[jax.Array]
_PART_BYTES = 15_000_000
# Of what goes into a module and comes out.
_DTYPES = {
    "f16": jnp.float16,
    "bf16": jnp.bfloat16,
    "f32": jnp.float32,
    "f64": jnp.float64,
    "i1": jnp.bool_,
    "i32": jnp.int32,
    "i64": jnp.int64,
    "ui8": jnp.uint8,
}


def main(argv: Sequence[str]) -> None:
    """Compiles all programs at the same time, then makes the runs one after the other."""
    del argv
    jax.config.update("jax_enable_x64", True)
    begin = time.monotonic()
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}", flush=True)
    data, images, runs = Path(_DATA.value), Images(), []
    for root in map(Path, _LOWERED.value):
        if not (root / "runs").is_dir():
            raise UserError(f"--lowered: {root} holds no runs/, which benchmarks.lower writes")
        names = _RUNS.value or sorted(path.name for path in (root / "runs").iterdir())
        out = Path(_OUT.value) / root.name if len(_LOWERED.value) > 1 else Path(_OUT.value)
        runs += [LoweredRun(root, name, images, data, out / name) for name in names]
    programs = {run.program_path: run for run in runs}
    evaluations = {} if _TIME.value else {run.evaluation_path: run for run in runs}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # Steps first, which take longest.
        intervals = {path: pool.submit(_timed, run.compile_interval) for path, run in programs.items()}
        canvases = {path: run.compile_evaluations(pool) for path, run in evaluations.items()}
        pictures = {path: list(run.pictures()) for path, run in evaluations.items()}
        compiled = {path: future.result() for path, future in intervals.items()}
        functions = {
            path: {size: future.result() for size, future in futures.items()}
            for path, futures in canvases.items()
        }
    print(f"compiled after {time.monotonic() - begin:.0f} s", flush=True)
    for run in runs:
        left = _SECONDS.value - (time.monotonic() - begin)
        if left <= 0:
            print(f"no time for {run.name}", flush=True)
            continue
        path = run.evaluation_path
        run.make(*compiled[run.program_path], functions.get(path, {}), pictures.get(path, []), left)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.monotonic()
    return function(), time.monotonic() - begin


class Images:
    """Decoded images and masks of sources, on the device, at the upper left of canvases of one size."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], tuple[jax.Array, jax.Array, jax.Array, jax.Array]] = {}

    def of(self, source: Source) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Images uint8 [N, H, W, 3], labels uint8 [N, H, W], sizes int32 [N, 2], image-level labels float32 [N, K]."""
        key = tuple(source.ids)
        if key not in self._kept:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                decoded = list(pool.map(functools.partial(_decoded, source), range(len(source))))
            sizes = np.array([labels.shape for _, labels, _ in decoded], np.int32)
            canvas = sizes.max(axis=0)
            images = np.zeros([len(decoded), *canvas, 3], np.uint8)
            labels = np.full([len(decoded), *canvas], IGNORE_LABEL, np.uint8)
            for index, (image, mask, _) in enumerate(decoded):
                height, width = mask.shape
                images[index, :height, :width], labels[index, :height, :width] = image, mask
            given = np.stack([image_labels for _, _, image_labels in decoded])
            self._kept[key] = tuple(map(jax.device_put, (images, labels, sizes, given)))
        return self._kept[key]


def _decoded(source: Source, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    record = source.read(index)
    image, labels = decode_record(record, source.info.num_classes)
    given = record.image_labels
    none = np.full(len(source.info.image_classes), -1.0, np.float32)
    return image, labels, none if given is None else given.astype(np.float32)


class LoweredRun:
    """One run: what it is made of, and making it."""

    def __init__(self, root: Path, name: str, images: Images, data: Path, out: Path):
        """Reads what ``benchmarks.lower`` wrote of it, but for the state."""
        self.name, self._out, self._root = name, out, root
        self._run = read_json(root / "runs" / name / "run.json")
        config = config_io.from_dict(self._run["config"])
        lists = folder_overrides(data, root / "lists", "")
        config = config_io.apply_overrides(config, [each for each in lists if each.startswith("data.")])
        self.program_path = root / "programs" / self._run["program"]
        self.evaluation_path = root / "evaluations" / self._run["evaluation"]
        self._program = read_json(self.program_path / "program.json")
        sources = open_sources(config.data, config.train.mode)
        streams = {"labeled": sources.labeled}
        if sources.unlabeled is not None:
            streams["unlabeled"] = sources.unlabeled
        self._images = {stream: images.of(source) for stream, source in streams.items()}
        self._val = sources.val
        self._eval_size, self._eval_batch = config.data.eval_size, config.data.eval_batch
        self._draws = {stream: _arrays(root, self._run["files"][stream]) for stream in streams}

    def compile_interval(self) -> Callable[..., list[jax.Array]]:
        """The steps between two lines as one program: views of both streams, then the lowered step.

        Its arguments are the state, the first step, images and draws.
        """
        program = self._program
        module = (self.program_path / "step.stablehlo").read_bytes()
        count, examples = len(program["state"]), sum(map(len, program["batch"].values()))
        step = _imported(module, count + examples, count)
        crop = tuple(program["crop"])

        def one(state: Arrays, number: jax.Array, images: Any, draws: Any) -> list[jax.Array]:
            inputs = []
            for stream, keys in program["batch"].items():
                drawn = jax.tree.map(lambda each: each[number], draws[stream])
                example = _examples(images[stream], drawn, crop)
                inputs += [example[key].astype(dtype) for key, (_, dtype) in keys.items()]
            return list(step(*state, *inputs))

        @functools.partial(jax.jit, donate_argnums=0)
        def interval(state: Arrays, first: jax.Array, images: Any, draws: Any) -> list[jax.Array]:
            def body(state: Arrays, number: jax.Array) -> tuple[Arrays, None]:
                return one(state, number, images, draws), None

            numbers = first + jnp.arange(program["log_every"], dtype=jnp.int32)
            return jax.lax.scan(body, state, numbers)[0]

        shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in program["state"]]
        return interval.lower(shapes, jnp.int32(0), self._images, self._draws).compile()

    def compile_evaluations(
        self, pool: concurrent.futures.Executor
    ) -> dict[tuple[int, ...], concurrent.futures.Future[Callable[..., tuple[jax.Array, ...]]]]:
        """For each canvas of the validation images the function that counts the pixels of a batch."""
        values = [self._program["state"][index] for index in self._program["model"]]

        def compiled(name: str, canvas: tuple[int, ...]) -> Callable[..., tuple[jax.Array, ...]]:
            batch = self._eval_batch
            inputs = [[[batch, *canvas, 3], "uint8"], [[batch, *canvas], "uint8"], [[batch, 2], "int32"]]
            function = _imported((self.evaluation_path / name).read_bytes(), len(values) + len(inputs), 2)
            shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (*values, *inputs)]
            return jax.jit(function).lower(*shapes).compile()

        described = read_json(self.evaluation_path / "evaluation.json")
        return {
            tuple(canvas): pool.submit(compiled, name, tuple(canvas)) for name, canvas in described.items()
        }

    def make(
        self,
        interval: Callable[..., list[jax.Array]],
        compile_seconds: float,
        evaluations: Mapping[tuple[int, ...], Callable[..., tuple[jax.Array, ...]]],
        pictures: Sequence[tuple[tuple[int, ...], tuple[jax.Array, ...]]],
        seconds: float,
    ) -> None:
        """Trains to the end, or as far as the time goes; writes ``raw.jsonl`` after each evaluation.

        Args:
            interval: of ``compile_interval``.
            compile_seconds: for the record.
            evaluations: the functions of ``compile_evaluations``.
            pictures: what to evaluate; nothing: there are no evaluations.
            seconds: no interval begins later.
        """
        program, begin, every = self._program, time.monotonic(), self._program["log_every"]
        files = self._run["files"]
        first = _arrays(self._root, files["state"]) if "state" in files else _any_state(program["state"])
        state = [jnp.asarray(first[str(index)]) for index in range(len(first))]
        draws = jax.tree.map(jax.device_put, self._draws)
        entries: list[dict[str, Any]] = []
        done, times = 0, []
        self._out.mkdir(parents=True, exist_ok=True)
        while done < program["steps"] and time.monotonic() - begin < seconds:
            start = time.monotonic()
            state = interval(state, jnp.int32(done), self._images, draws)
            jax.block_until_ready(state)
            times.append((time.monotonic() - start) / every)
            done += every
            sums = {name: np.asarray(state[i]).tolist() for name, i in program["interval"].items()}
            entries.append({"step": done, "seconds_per_step": times[-1], "sums": sums})
            for index in program["interval"].values():
                state[index] = jnp.asarray(first[str(index)])
            due = done % program["evaluate_every"] == 0 or done == program["steps"]
            if pictures and due:
                entries[-1]["evaluation"] = self._evaluate(state, evaluations, pictures)
            if due:
                self._write(entries, times, compile_seconds)
            if _TIME.value and len(times) > _TIME.value:
                break
        self._write(entries, times, compile_seconds)
        if self.name in _KEEP.value:
            self._keep_model(state)

    def pictures(self) -> Iterator[tuple[tuple[int, ...], tuple[jax.Array, ...]]]:
        """Canvas and validation images, labels and sizes of each batch; the last is filled up with nothing to count."""
        batches: dict[tuple[int, ...], list[tuple[np.ndarray, ...]]] = {}
        for index in range(len(self._val)):
            image, labels, _ = _decoded(self._val, index)
            size = labels.shape
            own = tuple((side + 14) // 16 * 16 + 1 for side in size)
            canvas = self._eval_size if any(self._eval_size) else own
            padding = [(0, canvas[0] - size[0]), (0, canvas[1] - size[1])]
            image = np.pad(image, [*padding, (0, 0)])
            labels = np.pad(labels, padding, constant_values=IGNORE_LABEL)
            batch = batches.setdefault(canvas, [])
            batch.append((image, labels, np.array(size, np.int32)))
            if len(batch) == self._eval_batch:
                yield canvas, self._stacked(batches.pop(canvas))
        for canvas, batch in batches.items():
            image, labels, size = batch[0]
            nothing = np.zeros_like(image), np.full_like(labels, IGNORE_LABEL), size
            yield canvas, self._stacked([*batch, *[nothing] * (self._eval_batch - len(batch))])

    @staticmethod
    def _stacked(batch: Sequence[tuple[np.ndarray, ...]]) -> tuple[jax.Array, ...]:
        return tuple(jax.device_put(np.stack(each)) for each in zip(*batch, strict=True))

    def _evaluate(
        self,
        state: Arrays,
        evaluations: Mapping[tuple[int, ...], Callable[..., tuple[jax.Array, ...]]],
        pictures: Sequence[tuple[tuple[int, ...], tuple[jax.Array, ...]]],
    ) -> dict[str, Any]:
        model = [state[index] for index in self._program["model"]]
        counts = [evaluations[canvas](*model, *arrays) for canvas, arrays in pictures]
        confusion, calibration = (sum(map(np.asarray, each)) for each in zip(*counts, strict=True))
        return {
            "confusion": confusion.tolist(),
            "calibration": calibration.tolist(),
            "images": len(self._val),
        }

    def _write(self, entries: Sequence[Mapping[str, Any]], times: Sequence[float], compiled: float) -> None:
        program = self._program
        # The first interval also warms up.
        median = float(np.median(times[1:] or times))
        rate = program["gigaflop"] / median
        statistics = jax.devices()[0].memory_stats() or {}
        peak = statistics.get("peak_bytes_in_use", 0) / 2**20
        head = {
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "compile_seconds": compiled,
            "milliseconds_per_step": 1000 * median,
            "gigaflop_per_step": program["gigaflop"],
            "teraflop_per_second": rate / 1000,
            "peak_device_mb": peak,
        }
        lines = [head, *entries]
        temporary = self._out / "raw.jsonl.tmp"
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        os.replace(temporary, self._out / "raw.jsonl")
        print(
            f"{self.name} step {entries[-1]['step'] if entries else 0}: {1000 * median:.2f} ms/step, "
            f"{program['gigaflop']:.0f} GFLOP/step, {rate / 1000:.2f} TFLOP/s, peak {peak:.0f} MB",
            flush=True,
        )

    def _keep_model(self, state: Arrays) -> None:
        """Writes the last values of the model's variables, by their place in the state."""
        parts: list[dict[str, np.ndarray]] = [{}]
        for index in self._program["model"]:
            value = np.asarray(state[index])
            if sum(each.nbytes for each in parts[-1].values()) + value.nbytes > _PART_BYTES:
                parts.append({})
            parts[-1][str(index)] = value
        for number, part in enumerate(parts):
            np.savez(self._out / f"model-{number}.npz", **part)


def _arrays(root: Path, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {key: np.load(root / "arrays" / name, allow_pickle=False)["value"] for key, name in names.items()}


def _any_state(state: Sequence[tuple[Sequence[int], str]]) -> dict[str, np.ndarray]:
    """Small positive values, which keep every step finite long enough to measure it."""
    random = np.random.default_rng(0)
    values = {}
    for index, (shape, dtype) in enumerate(state):
        fill = random.uniform(0.01, 0.05, shape) if dtype.startswith("float") else np.zeros(shape)
        values[str(index)] = np.asarray(fill, dtype)
    return values


def _imported(module: bytes, inputs: int, outputs: int) -> Callable[..., tuple[jax.Array, ...]]:
    """A StableHLO module, as TensorFlow writes it, as a JAX function of its first ``inputs`` arrays.

    Behind these are what the module's own variables hold, which it overwrites before it reads them. Behind the first
    ``outputs`` results is what they hold in the end.
    """
    with mlir.make_ir_context():
        parsed = ir.Module.parse(module)
        kind = ir.SymbolTable(parsed.operation)["main"].type
        in_avals, out_avals = (
            tuple(
                jax.core.ShapedArray(tuple(each.shape), _DTYPES[str(each.element_type)])
                for each in map(ir.RankedTensorType, types)
            )
            for types in (kind.inputs, kind.results)
        )
        text = mlir.module_to_string(parsed)
    # The one operation that is not StableHLO's, and does nothing.
    text = re.sub(r"mhlo\.copy (%\S+) : (tensor<[^>]*>)", r"stablehlo.reshape \1 : (\2) -> \2", text)
    exported = export.Exported(
        fun_name="lowered",
        in_tree=jax.tree.structure((tuple(range(len(in_avals))), {})),
        in_avals=in_avals,
        out_tree=jax.tree.structure(tuple(range(len(out_avals)))),
        out_avals=out_avals,
        _in_named_shardings=(None,) * len(in_avals),
        _out_named_shardings=(None,) * len(out_avals),
        in_shardings_hlo=(None,) * len(in_avals),
        out_shardings_hlo=(None,) * len(out_avals),
        nr_devices=1,
        platforms=(jax.default_backend().replace("gpu", "cuda"),),
        ordered_effects=(),
        unordered_effects=(),
        disabled_safety_checks=(),
        mlir_module_serialized=stablehlo.serialize_portable_artifact_str(
            text, stablehlo.get_current_version()
        ),
        calling_convention_version=export.maximum_supported_calling_convention_version,
        module_kept_var_idx=tuple(range(len(in_avals))),
        uses_global_constants=False,
        _get_vjp=None,
    )
    own = in_avals[inputs:]
    return lambda *arguments: exported.call(*arguments, *(jnp.zeros(x.shape, x.dtype) for x in own))[:outputs]


def _examples(
    images: tuple[jax.Array, ...], draws: Mapping[str, jax.Array], crop: tuple[int, int]
) -> dict[str, jax.Array]:
    """The weak views of a batch, as ``data.geometry.weak_view`` makes them, with what else the step is given."""
    record = draws["record"]
    canvases, labels, sizes, given = (each[record] for each in images)

    def example(
        image: jax.Array,
        labels: jax.Array,
        size: jax.Array,
        scaled: jax.Array,
        offset: jax.Array,
        flip: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        rows, columns = (
            _taps(size[axis], scaled[axis], offset[axis], crop[axis], image.shape[axis]) for axis in (0, 1)
        )
        pixels = image.astype(jnp.float32)
        sampled = jnp.einsum("yi,ijc,xj->yxc", rows, pixels, columns, precision=jax.lax.Precision.HIGHEST)
        row, row_valid = _nearest(size[0], scaled[0], offset[0], crop[0])
        column, column_valid = _nearest(size[1], scaled[1], offset[1], crop[1])
        valid = row_valid[:, None] & column_valid
        view = (
            jnp.round(sampled).astype(jnp.uint8),
            jnp.where(valid, labels[row][:, column], IGNORE_LABEL),
            valid,
        )
        return tuple(jnp.where(flip, jnp.flip(each, 1), each) for each in view)

    image, label, valid = jax.vmap(example)(
        canvases, labels, sizes, draws["scaled_size"], draws["offset"], draws["flip"]
    )
    counter = jnp.zeros(record.shape, jnp.int64)
    return {
        **draws,
        "image": image,
        "labels": label,
        "valid": valid,
        "image_labels": given,
        "counter": counter,
    }


def _taps(size: jax.Array, scaled: jax.Array, offset: jax.Array, crop: int, canvas: int) -> jax.Array:
    """Weights [crop, canvas] of the source pixels along one axis: antialiased triangle, half-pixel centers."""
    ratio = size.astype(jnp.float32) / scaled.astype(jnp.float32)
    reach = jnp.maximum(ratio, 1.0)
    center = (jnp.arange(crop, dtype=jnp.float32) + offset.astype(jnp.float32) + 0.5) * ratio
    source = jnp.arange(canvas, dtype=jnp.float32) + 0.5
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(source - center[:, None]) / reach)
    weights = jnp.where(source < size, weights, 0.0)
    weights /= jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
    return jnp.where((center <= size)[:, None], weights, 0.0)


def _nearest(size: jax.Array, scaled: jax.Array, offset: jax.Array, crop: int) -> tuple[jax.Array, jax.Array]:
    """As ``data.geometry._nearest``."""
    target = jnp.arange(crop, dtype=jnp.int32) + offset
    step = (size - 1).astype(jnp.float32) / jnp.maximum(scaled - 1, 1).astype(jnp.float32)
    position = target.astype(jnp.float32) * step
    index = position.astype(jnp.int32)
    index += (position - index.astype(jnp.float32) >= 0.5).astype(jnp.int32)
    return jnp.minimum(index, size - 1), target < scaled


if __name__ == "__main__":
    _app.run(main)
