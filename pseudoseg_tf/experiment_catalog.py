"""Finds the experiments: every module of ``pseudoseg_tf.experiments`` that defines one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

import pseudoseg_tf.experiments
from pseudoseg_tf.config_io import nearest
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.experiments.definition import Experiment, Row


def experiment_names() -> list[str]:
    """The names of all experiments: tables, figures, then the others."""
    modules = [module.name for module in pkgutil.iter_modules(pseudoseg_tf.experiments.__path__)]
    return sorted(
        (name for name in modules if name != "definition"),
        key=lambda name: (not name.startswith("table"), not name.startswith("fig"), name),
    )


def load_experiment(name: str) -> Experiment:
    """Returns an experiment.

    Raises:
        UserError: for an unknown name; the message holds the nearest one.
    """
    names = experiment_names()
    if name not in names:
        raise UserError(
            f"experiment {name!r}: unknown; nearest: {nearest(name, names)}; known: {', '.join(names)}"
        )
    experiment: Experiment = importlib.import_module(f"pseudoseg_tf.experiments.{name}").EXPERIMENT
    return experiment


def rows_of(experiment: Experiment, names: Sequence[str]) -> tuple[Row, ...]:
    """The rows that are named, in the order of the experiment; all if none is.

    Raises:
        UserError: for an unknown name; the message holds the nearest one.
    """
    known = [row.name for row in experiment.rows]
    for name in names:
        if name not in known:
            raise UserError(
                f"--only: found {name!r}; nearest: {nearest(name, known)}; rows: {', '.join(known)}"
            )
    return tuple(row for row in experiment.rows if not names or row.name in names)
