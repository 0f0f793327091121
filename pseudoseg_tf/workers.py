"""The processes of one run: which of them writes the run directory, and what they must do at the same step."""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf

from pseudoseg_tf.errors import UserError

_SHOWN = 'must be such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'


def check_cluster() -> None:
    """Checks that the environment says who the workers of a run are, and which of them this process is.

    Raises:
        UserError: its variable TF_CONFIG is missing or says something else.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        raise UserError(f"runtime.strategy=multi_worker: the variable TF_CONFIG is missing; it {_SHOWN}")
    try:
        values = json.loads(text)
        tasks, task = values["cluster"], values["task"]
        this = _addresses(tasks, task["type"])[int(task["index"])]
        fits = int(task["index"]) >= 0 and all(_addresses(tasks, kind) for kind in tasks) and ":" in this
    except (ValueError, TypeError, LookupError):
        fits = False
    if not fits:
        raise UserError(
            f"runtime.strategy=multi_worker: the variable TF_CONFIG {_SHOWN}, with an index below the number of "
            f"addresses; found {text[:200]}"
        )


def _addresses(tasks: Any, kind: str) -> list[str]:
    found = tasks[kind]
    if not isinstance(found, list):
        raise TypeError
    return found


class Workers:
    """What a process is among those of its run (``runtime.strategy=multi_worker``); elsewhere it is the only one.

    All read the run directory. The chief writes it; each of the others, which takes the same steps and must take part
    in saving, writes the same files into a directory of its own below it.

    Attributes:
        several: there are other processes.
        is_chief: this one writes the run directory.
        own_dir: where this one writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy, run_dir: str):
        self._strategy = strategy
        self.several, self.is_chief, self.own_dir = False, True, run_dir
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            tasks = resolver.cluster_spec().as_dict()
            kind, number = resolver.task_type, resolver.task_id
            self.several = sum(map(len, tasks.values())) > 1
            first = "chief" if "chief" in tasks else "worker"
            self.is_chief = not self.several or (kind, number) == (first, 0)
            if not self.is_chief:
                self.own_dir = os.path.join(run_dir, "workers", f"{kind}-{number}")

    def own(self, *parts: str) -> str:
        """Where this process writes what all read from ``parts`` of the run directory; "" if it is the same place."""
        return "" if self.is_chief else os.path.join(self.own_dir, *parts)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in one process or more; all must ask at the same step."""
        flags = self._strategy.run(lambda: tf.constant(float(flag)))
        return float(self._strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None)) > 0.0
