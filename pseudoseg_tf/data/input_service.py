"""Training batches that other processes read and decode, by tf.data service.

A ``pseudoseg-input-server`` is a tf.data service of one worker. The pipeline's Python functions run only in the process
that built it, so each server builds its own, as asked, and registers it; here its elements are only read. Of n servers
each makes every n-th batch, and they are read in turn: the batches are those of a run without servers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pseudoseg_tf.config import DataConfig
from pseudoseg_tf.data.pipeline import training_dataset
from pseudoseg_tf.data.sources import Sources
from pseudoseg_tf.errors import UserError

# A server opens and checks the sources before it answers.
_TIMEOUT_SECONDS = 600


def served_dataset(
    servers: Sequence[str],
    sources: Sources,
    data: DataConfig,
    mode: str,
    start_step: int,
    input_context: tf.distribute.InputContext,
    redrawn: Sequence[int],
) -> tf.data.Dataset:
    """Returns ``pipeline.training_dataset``, made by servers.

    Args:
        servers: addresses HOST:PORT; the rest as for ``training_dataset``.

    Raises:
        UserError: a server does not answer, or refuses.
    """
    request = {
        "data": dataclasses.asdict(data),
        "mode": mode,
        "start_step": start_step,
        "redrawn": list(redrawn),
        "pipelines": input_context.num_input_pipelines,
        "pipeline": input_context.input_pipeline_id,
        "replicas": input_context.num_replicas_in_sync,
        "records": fingerprint(sources),
    }
    made_here = training_dataset(sources, data, mode, start_step, input_context, redrawn)
    parts = [
        _part(server, {**request, "turn": [len(servers), i]}, made_here.element_spec)
        for i, server in enumerate(servers)
    ]
    return tf.data.Dataset.choose_from_datasets(parts, tf.data.Dataset.range(len(parts)).repeat())


def check_servers(servers: Sequence[str]) -> None:
    """Raises UserError if a server does not answer."""
    for server in servers:
        _ask(server)


def fingerprint(sources: Sources) -> str:
    """Tells sources of other classes or records, or in another order, apart: hexadecimal."""
    ids = {name: list(source.ids) for name, source in sources.streams().items()}
    known = [sources.info.class_names, sources.info.has_background, ids]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _part(server: str, request: dict[str, Any], element_spec: Any) -> tf.data.Dataset:
    reply = _ask(server, request)
    dataset = tf.data.experimental.service.from_dataset_id(
        tf.data.experimental.service.ShardingPolicy.OFF,
        reply["service"],
        tf.constant(reply["dataset"]),
        element_spec=element_spec,
    )
    return dataset.prefetch(1)


def _ask(server: str, request: dict[str, Any] | None = None) -> dict[str, str]:
    """A server's answer to a request, or to nothing: whether it is there."""
    content = None if request is None else json.dumps(request).encode()
    # Directly: a proxy of the environment is for other places.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{server}", content, _TIMEOUT_SECONDS) as response:
            reply: dict[str, str] = json.load(response)
            return reply
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        raise UserError(f"runtime.input_servers: {server}: {text}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise UserError(
            f"runtime.input_servers: {server} is no pseudoseg-input-server; give the address that one printed"
        ) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"runtime.input_servers: {server} does not answer ({reason}); start pseudoseg-input-server there, wait "
            "until it is ready, or leave it out"
        ) from error
