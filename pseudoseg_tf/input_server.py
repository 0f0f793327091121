"""Reads and decodes training images for runs in other processes (``data/input_service.py``)."""

from __future__ import annotations

import http.server
import json
import os
import socket
from http import HTTPStatus
from typing import Any

import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.data.input_service import fingerprint
from pseudoseg_tf.data.pipeline import training_dataset
from pseudoseg_tf.data.sources import open_sources
from pseudoseg_tf.errors import UserError

# A request holds a configuration of the data, and no images; who sends none holds up the others no longer than this.
_MAX_REQUEST = 1 << 20
_TIMEOUT_SECONDS = 30


class InputServer:
    """A tf.data service of one worker, and the address where runs say what it shall make.

    It keeps what it was asked for until it ends: a run that starts again asks again.

    Attributes:
        address: HOST:PORT, for ``runtime.input_servers``.
    """

    def __init__(self, host: str, port: int):
        """Starts the service; :meth:`serve` answers.

        Args:
            host: the name by which runs know this machine; at "localhost" this machine alone can ask.
            port: of the address, the two behind it are the service's; 0: any that are free.

        Raises:
            UserError: a port is taken, or the host's name is not known.
        """
        service = tf.data.experimental.service
        ports = (port, port + 1, port + 2) if port else (0, _free_port(), _free_port())
        self._kept: list[tf.data.Dataset] = []
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            raise UserError(
                f"--host: found {host!r}, must be a name that this machine knows, without port"
            ) from error
        try:
            for each in ports[1:]:
                socket.create_server(("", each)).close()
            own = "localhost" if host == "localhost" else ""
            self._http = http.server.HTTPServer((own, ports[0]), _handler(self))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UserError(f"--port: {reason} (of {port} to {port + 2}); choose another") from error
        self.address = f"{host}:{self._http.server_address[1]}"
        self._target = f"grpc://{host}:{ports[1]}"
        self._dispatcher = service.DispatchServer(service.DispatcherConfig(port=ports[1]))
        self._worker = service.WorkerServer(
            service.WorkerConfig(f"localhost:{ports[1]}", worker_address=f"{host}:{ports[2]}", port=ports[2])
        )

    def serve(self) -> None:
        """Answers requests until a signal ends it."""
        with self._http:
            self._http.serve_forever()

    def close(self) -> None:
        """Ends :meth:`serve`, from another thread."""
        self._http.shutdown()

    def answer(self, request: dict[str, Any]) -> dict[str, str]:
        """Makes the batches of a run.

        Args:
            request: "data", ``DataConfig`` as a dict; "mode", "start_step", "redrawn" and "turn" as
                ``training_dataset`` takes them; "pipelines", "pipeline", "replicas" of its ``InputContext``;
                "records", the ``fingerprint`` of the sources as the run sees them.

        Returns:
            "service", address of the tf.data service, and "dataset", the id there.

        Raises:
            UserError: the data cannot be read here, or are others.
        """
        config = config_io.from_dict({"data": request["data"], "train": {"mode": request["mode"]}})
        sources = open_sources(config.data, config.train.mode)
        if fingerprint(sources) != request["records"]:
            raise UserError(
                "the lists that it reads under the run's paths hold other images or classes; give it the same files"
            )
        context = tf.distribute.InputContext(request["pipelines"], request["pipeline"], request["replicas"])
        turn = tuple(request["turn"])
        start, redrawn = request["start_step"], request["redrawn"]
        dataset = training_dataset(
            sources, config.data, config.train.mode, start, context, redrawn, turn=turn
        )
        # What a service does not hold itself are the Python functions.
        self._kept.append(dataset)
        # Crops hardly get smaller, and that would take the time which a server is there to spare.
        made = tf.data.experimental.service.register_dataset(self._target, dataset, compression=None)
        print(
            f"serves a run of {config.train.mode} mode from step {start} on, {turn[1] + 1} of {turn[0]} servers",
            flush=True,
        )
        return {"service": self._target, "dataset": made.numpy().decode()}


def _handler(server: InputServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = _TIMEOUT_SECONDS

        def do_GET(self) -> None:
            self._reply(HTTPStatus.OK, "{}")

        def do_POST(self) -> None:
            try:
                length = int(self.headers["Content-Length"])
                if not 0 < length <= _MAX_REQUEST:
                    raise ValueError(f"{length} bytes")
                reply = json.dumps(server.answer(json.loads(self.rfile.read(length))))
                status = HTTPStatus.OK
            except UserError as error:
                status, reply = HTTPStatus.BAD_REQUEST, str(error)
            except (KeyError, TypeError, ValueError) as error:
                status, reply = HTTPStatus.BAD_REQUEST, f"a request of another version ({error})"
            self._reply(status, reply)

        def _reply(self, status: HTTPStatus, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _free_port() -> int:
    with socket.create_server(("", 0)) as free:
        port: int = free.getsockname()[1]
        return port
