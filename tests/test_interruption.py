"""Signals that stop a run in good order."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pseudoseg_tf.interruption import Interrupted, StopSignals

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
from pseudoseg_tf.cli import _app
from pseudoseg_tf.interruption import StopSignals
import signal

def main(argv):
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        print("goes on", flush=True)
        signals.check()

_app.run(main)
"""


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """The usual handlers, also where the tests were started in the background, which ignores SIGINT."""
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_stops_where_it_is_asked_for(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        signals.check()
        signal.raise_signal(number)
        assert signals.received == number.name
        with pytest.raises(Interrupted, match=f"^stopped by {number.name}$"):
            signals.check()
        with pytest.raises(Interrupted), signals.at_once():
            raise AssertionError("begun although a signal had arrived")
    assert signal.getsignal(number) is before
    told = "\nstopping after this step; Ctrl-C again: at once\n" if number == signal.SIGINT else ""
    assert capfd.readouterr().err == told


def test_what_can_be_done_again_is_broken_off_at_once() -> None:
    reached = False
    with StopSignals() as signals:
        with pytest.raises(Interrupted), signals.at_once():
            signal.raise_signal(signal.SIGTERM)
            reached = True
        # Only there.
        signal.raise_signal(signal.SIGTERM)
    assert not reached


def test_the_second_interrupt_from_the_keyboard_does_not_wait() -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        # A scheduler's signal on top changes nothing.
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == "SIGINT"
        with pytest.raises(KeyboardInterrupt) as error:
            signal.raise_signal(signal.SIGINT)
        assert error.type is KeyboardInterrupt


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_nothing_changes() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with StopSignals():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [before]


def test_a_program_ends_with_status_0_and_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\nstopped by SIGTERM\n", "")
