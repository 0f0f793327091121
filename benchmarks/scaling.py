r"""Images a second on one, two, ... replicas of one process, and in as many processes: does more of them help?

Each replica has the batch of the configuration and one thread, so that n of them should be n times as fast as long as
there are n cores; what is missing is the price of adding gradients up. Drawn noise, input excluded. Processes are
workers of MultiWorkerMirroredStrategy on this machine, as runtime.strategy=multi_worker runs them. Prints a table and
writes JSON.

Example:
  python -m benchmarks.scaling --out=runs/bench/scaling.json --set data.crop_size=129 --replicas=1,2
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks.machine import described, machine
from benchmarks.noise_preset import noise_preset
from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config import Config
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_json

_PRESET = flags.DEFINE_string("preset", "voc12", "Where the configuration starts; its data are not read.")
_SET = flags.DEFINE_multi_string("set", [], "Change a key.")
_REPLICAS = flags.DEFINE_list("replicas", ["1", "2"], "How many; the first is compared with.")
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file to write; none if absent.")
_PART = flags.DEFINE_string("part", None, "Measure replicas:N or processes:N here; prints JSON.")

_KINDS = {"replicas": "replica", "processes": "process"}
_SMALL = (
    "model.backbone=mobilenet_v1",
    "data.crop_size=129",
    "data.batch_labeled=2",
    "data.batch_unlabeled=2",
    "init.weights=",
    "runtime.threads=1",
)


def main(argv: Sequence[str]) -> None:
    """Measures every number of replicas, then of processes."""
    del argv
    config = noise_preset(_PRESET.value, [*_SMALL, *_SET.value])
    if not _REPLICAS.value or not all(n.isascii() and n.isdigit() and int(n) > 0 for n in _REPLICAS.value):
        raise UserError(f"--replicas: found {','.join(_REPLICAS.value)!r}, must be numbers such as 1,2,4")
    if _PART.value:
        kind, _, count = _PART.value.partition(":")
        print(json.dumps({"seconds": measure(config, kind, int(count))}))
        return
    results = {
        kind: {count: _images_per_second(config, kind, int(count)) for count in _REPLICAS.value}
        for kind in _KINDS
    }
    print(report(config, results))
    if _OUT.value:
        content = {**machine(), "config": config_io.to_dict(config), "images_per_second": results}
        write_json(_OUT.value, content)


def report(config: Config, results: dict[str, dict[str, float]]) -> str:
    """A Markdown table; efficiency is the rate by replica over that of the first row."""
    lines = [
        f"{config.model.backbone}, crop {config.data.crop_size[0]}, {config.data.batch_labeled} labeled + "
        f"{config.data.batch_unlabeled} additional images a replica, {config.train.mode} mode; {described()}",
        "",
        "| | images/s | efficiency |",
        "|--|--|--|",
    ]
    for kind, rates in results.items():
        first = next(iter(rates))
        for count, rate in rates.items():
            efficiency = (rate / int(count)) / (rates[first] / int(first))
            lines.append(f"| {_counted(count, kind)} | {rate:.2f} | {efficiency:.2f} |")
    return "\n".join(lines)


def _counted(count: int | str, kind: str) -> str:
    return f"{count} {_KINDS[kind] if int(count) == 1 else kind}"


def _images_per_second(config: Config, kind: str, count: int) -> float:
    print(f"measuring: {_counted(count, kind)} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], f"--part={kind}:{count}"]
    workers = [f"localhost:{port}" for port in _free_ports(count)] if kind == "processes" else ["only"]
    processes = []
    for index in range(len(workers)):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        cluster = {"TF_CONFIG": json.dumps(task)} if kind == "processes" else {}
        processes.append(
            subprocess.Popen(command, env={**os.environ, **cluster}, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise UserError(f"a process that measures {count} {kind} failed, see above")
    seconds: float = json.loads(outputs[0].splitlines()[-1])["seconds"]
    return count * (config.data.batch_labeled + config.data.batch_unlabeled) / seconds


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def measure(config: Config, kind: str, count: int) -> float:
    """The median seconds of a step of this process, which is one of ``count`` or has as many replicas."""
    import tensorflow as tf

    from benchmarks.noise import noise_sources
    from pseudoseg_tf.assembly import create_model, create_optimizer, create_strategy
    from pseudoseg_tf.data.pipeline import training_dataset
    from pseudoseg_tf.trainer import Trainer

    strategy_name = "multi_worker" if kind == "processes" else "mirrored"
    if kind == "replicas" and not tf.config.list_physical_devices("GPU"):
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    # One thread for each replica of the process.
    threads = count if kind == "replicas" else 1
    runtime = dataclasses.replace(config.runtime, strategy=strategy_name, threads=threads)
    strategy = create_strategy(runtime)
    one_replica = config.data
    data = dataclasses.replace(
        one_replica,
        batch_labeled=count * one_replica.batch_labeled,
        batch_unlabeled=count * one_replica.batch_unlabeled,
    )
    config = dataclasses.replace(config, data=data, runtime=runtime)
    sources = noise_sources(21)
    with strategy.scope():
        model = create_model(config, sources.info)
        optimizer = create_optimizer(config.train, config.runtime.precision)
        optimizer.build(model.trainable_variables)
    trainer = Trainer(config, model, optimizer, strategy, sources)
    # One batch again and again, which costs nothing to read.
    trainer.train_dataset = strategy.distribute_datasets_from_function(
        lambda context: (
            training_dataset(sources, data, config.train.mode, 0, context).take(1).cache().repeat()
        )
    )
    seconds = []
    for _ in range(_STEPS.value + 1):
        begin = time.perf_counter()
        trainer.train(tf.constant(1))
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:]))


if __name__ == "__main__":
    _app.run(main)
