"""Batches that input servers make are those of a run without them; what is said when one is missing or reads others."""

from __future__ import annotations

import dataclasses
import http.client
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf import config_io
from pseudoseg_tf.cli import _app
from pseudoseg_tf.config import Config
from pseudoseg_tf.data.input_service import check_servers, fingerprint, served_dataset
from pseudoseg_tf.data.pipeline import training_dataset
from pseudoseg_tf.data.sources import Sources, open_sources
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.input_server import InputServer
from pseudoseg_tf.train import train
from tests.folder import draw_folder, small_config
from tests.runs import records, variables

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("served")
    draw_folder(folder)
    return small_config(folder)


@pytest.fixture(scope="module")
def sources(config: Config) -> Sources:
    return open_sources(config.data, "unlabeled")


@pytest.fixture(scope="module")
def servers() -> Iterator[list[str]]:
    started = [InputServer("localhost", 0) for _ in range(2)]
    threads = [threading.Thread(target=server.serve) for server in started]
    for thread in threads:
        thread.start()
    yield [server.address for server in started]
    for server, thread in zip(started, threads, strict=True):
        server.close()
        thread.join()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("mode", ["supervised", "unlabeled"])
def test_batches_are_those_of_a_run_without_servers(
    number: int, mode: str, config: Config, servers: list[str]
) -> None:
    sources = open_sources(config.data, mode)
    _same_batches(servers[:number], sources, config, mode, 3, tf.distribute.InputContext(), (4,))


@pytest.mark.parametrize("pipeline", [0, 1])
def test_a_pipeline_of_several_gets_its_own_share(
    pipeline: int, config: Config, sources: Sources, servers: list[str]
) -> None:
    # Two replicas in each of two pipelines: a batch of 4 is one image for each.
    data = dataclasses.replace(config.data, batch_labeled=4, batch_unlabeled=4)
    context = tf.distribute.InputContext(2, pipeline, 4)
    _same_batches(servers, sources, dataclasses.replace(config, data=data), "unlabeled", 1, context, ())


def _same_batches(
    servers: list[str],
    sources: Sources,
    config: Config,
    mode: str,
    start: int,
    context: tf.distribute.InputContext,
    redrawn: tuple[int, ...],
) -> None:
    here = training_dataset(sources, config.data, mode, start, context, redrawn)
    there = served_dataset(servers, sources, config.data, mode, start, context, redrawn)
    assert there.element_spec == here.element_spec
    pairs = list(zip(here.take(5), there.take(5), strict=True))
    assert len(pairs) == 5
    for expected, got in pairs:
        tf.nest.map_structure(np.testing.assert_array_equal, expected, got)


def _refused(server: str, sources: Sources, config: Config) -> str:
    with pytest.raises(UserError) as caught:
        served_dataset([server], sources, config.data, "unlabeled", 0, tf.distribute.InputContext(), ())
    message = str(caught.value)
    assert message.startswith(f"runtime.input_servers: {server}")
    return message


def test_nobody_there(config: Config, sources: Sources) -> None:
    message = _refused("localhost:1", sources, config)
    assert "does not answer ([Errno 111] Connection refused); start pseudoseg-input-server there" in message


def test_without_its_servers_a_run_claims_no_directory(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runtime\.input_servers: localhost:1 does not answer"):
        train(config_io.apply_overrides(config, ["runtime.input_servers=localhost:1"]), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_another_port_of_the_service(config: Config, sources: Sources, servers: list[str]) -> None:
    service = tf.data.experimental.service.DispatchServer()
    address = service.target.removeprefix("grpc://")
    assert "is no pseudoseg-input-server; give the address that one printed" in _refused(
        address, sources, config
    )
    with pytest.raises(UserError, match="is no pseudoseg-input-server"):
        check_servers([*servers, address])
    check_servers(servers)


def test_a_server_that_cannot_read_says_why(config: Config, sources: Sources, servers: list[str]) -> None:
    data = dataclasses.replace(config.data, masks="nowhere")
    assert "data.masks: nowhere is not a folder" in _refused(
        servers[0], sources, dataclasses.replace(config, data=data)
    )


def test_a_server_that_reads_other_lists(
    config: Config, sources: Sources, servers: list[str], tmp_path: Path
) -> None:
    (tmp_path / "labeled.txt").write_text("0\n1\n")
    data = dataclasses.replace(config.data, labeled=str(tmp_path / "labeled.txt"))
    assert "hold other images or classes" in _refused(
        servers[0], sources, dataclasses.replace(config, data=data)
    )


def test_a_damaged_image_is_named(servers: list[str], tmp_path: Path) -> None:
    draw_folder(tmp_path)
    data = small_config(tmp_path).data
    sources = open_sources(data, "supervised")
    there = served_dataset(servers[:1], sources, data, "supervised", 0, tf.distribute.InputContext(), ())
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(tf.errors.OpError) as caught:
        next(iter(there))
    message = _app.user_message(caught.value)
    assert message and message.startswith("image ") and "\n" not in message


def test_a_server_that_was_started_anew_is_named() -> None:
    # As TensorFlow has it.
    error = tf.errors.NotFoundError(
        None, None, "Failed to get tasks: Unknown iteration client id 3000. The dispatcher"
    )
    message = _app.user_message(error)
    assert message and message.startswith("runtime.input_servers: ") and message.endswith("command again")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "a request of another version ('data')"),
        (b"no json", "a request of another version (Expecting value"),
        (b'{"data": {"masksss": ""}, "mode": "unlabeled"}', "data.masksss: unknown key"),
        (b'{"data": [], "mode": "unlabeled"}', "data"),
    ],
)
def test_other_requests_are_refused_in_a_line(content: bytes, said: str, servers: list[str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{servers[0]}", content, 60)
    assert caught.value.code == 400
    with caught.value as reply:
        text = reply.read().decode()
    assert said in text and "\n" not in text


def test_a_request_of_gigabytes_is_not_read(servers: list[str]) -> None:
    connection = http.client.HTTPConnection(servers[0])
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "5000000000")
    connection.endheaders()
    assert connection.getresponse().read() == b"a request of another version (5000000000 bytes)"
    connection.close()


def test_a_port_that_is_taken(servers: list[str]) -> None:
    port = int(servers[0].partition(":")[2])
    with pytest.raises(UserError, match=rf"--port: Address already in use .of {port} to {port + 2}.; choose"):
        InputServer("localhost", port)


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(
        UserError, match=r"--host: found 'nowhere.invalid', must be a name that this machine knows"
    ):
        InputServer("nowhere.invalid", 0)


def test_other_classes_are_other_sources(config: Config) -> None:
    """In another order too: labels of the two would be taken for each other."""
    sources = open_sources(config.data, "unlabeled")
    names = sources.info.class_names
    swapped = dataclasses.replace(sources.info, class_names=(names[0], names[2], names[1]))
    without = dataclasses.replace(sources.info, has_background=False)
    found = [
        fingerprint(dataclasses.replace(sources, info=info)) for info in (sources.info, swapped, without)
    ]
    assert len(set(found)) == 3
    assert fingerprint(open_sources(config.data, "unlabeled")) == found[0]


@pytest.mark.parametrize(
    "value",
    ["localhost", "localhost:", ":5050", "a:0", "a:65536", "a:5050,", "http://a:5050", "a:5050 b:1"],
)
def test_a_wrong_address(value: str, config: Config) -> None:
    changed = config_io.apply_overrides(config, [f"runtime.input_servers={value}"])
    with pytest.raises(UserError, match=r"runtime.input_servers: found .* such as localhost:5050"):
        config_io.validate(changed)


def test_bad_examples_are_not_left_out(config: Config) -> None:
    changed = config_io.apply_overrides(
        config, ["runtime.input_servers=localhost:5050", "data.on_bad_example=skip"]
    )
    with pytest.raises(
        UserError, match=r"data.on_bad_example: found 'skip', must be fail with runtime.input"
    ):
        config_io.validate(changed)


@contextmanager
def _server_process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``pseudoseg-input-server`` in a process of its own, and the value of ``runtime.input_servers`` it prints."""
    command = [sys.executable, "-m", "pseudoseg_tf.cli.input_server", "--port=0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout
            lines = iter(process.stdout.readline, "")
            yield process, next(line for line in lines if line.startswith("ready")).split()[-1]
        finally:
            process.kill()


def _train(config: Config, run_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    keys = {
        key: value
        for key, value in config_io.flatten(config).items()
        if value != config_io.flatten(Config())[key]
    }
    overrides = [f"--set={key}={config_io.as_text(value)}" for key, value in keys.items()]
    command = [sys.executable, "-m", "pseudoseg_tf.cli.train", "--preset=folder", f"--run_dir={run_dir}"]
    flags = [
        "--set=init.weights=",
        *overrides,
        "--set=runtime.deterministic=true",
        *(f"--set={each}" for each in more),
    ]
    return subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_is_the_same_with_a_server(config: Config, tmp_path: Path) -> None:
    alone, served = tmp_path / "alone", tmp_path / "served"
    assert _train(config, alone).returncode == 0
    with _server_process() as (process, address):
        done = _train(config, served, address)
        assert done.returncode == 0, done.stderr
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate()
        assert process.returncode == 0
    assert rest.splitlines()[0] == "serves a run of unlabeled mode from step 0 on, 1 of 1 servers"
    assert rest.splitlines()[-1] == "stopped by SIGTERM"
    assert records(served) == records(alone)
    expected = variables(alone)
    assert variables(served).keys() == expected.keys()
    for name, value in variables(served).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
