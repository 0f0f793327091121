"""Progress lines on a terminal and in a log, with a clock that the test turns."""

from __future__ import annotations

import io

import pytest

from pseudoseg_tf.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(stream: io.StringIO, total: int, seconds: list[float]) -> str:
    """One update after each pause."""
    clock = Clock()
    with Progress(total, "evaluate", stream=stream, clock=clock) as progress:
        for pause in seconds:
            clock.now += pause
            progress.update()
    return stream.getvalue()


def test_a_short_loop_is_silent_in_a_log() -> None:
    assert run(io.StringIO(), 9, [1.0] * 9) == ""


def test_a_log_gets_whole_lines_ten_seconds_apart_and_a_last_one() -> None:
    assert run(io.StringIO(), 6, [5.0] * 6).splitlines() == [
        "evaluate 2/6  5.0 s each  0:20 left",
        "evaluate 4/6  5.0 s each  0:10 left",
        "evaluate 6/6  5.0 s each",
    ]


def test_a_slow_first_item_does_not_spoil_the_rate() -> None:
    text = run(io.StringIO(), 101, [60.0] + [0.25] * 100)
    assert text.splitlines()[0] == "evaluate 1/101"
    assert "evaluate 41/101  4.0/s  0:15 left" in text.splitlines()


def test_a_terminal_line_is_rewritten_and_ended() -> None:
    text = run(Terminal(), 3, [1.0] * 3)
    assert text == ("\revaluate 1/3\x1b[K\revaluate 2/3  1.0/s  0:01 left\x1b[K\revaluate 3/3  1.0/s\x1b[K\n")


def test_the_state_at_an_error_stays_visible() -> None:
    clock, stream = Clock(), Terminal()
    with pytest.raises(KeyError), Progress(1000, "predict", stream=stream, clock=clock) as progress:
        for _ in range(3):
            clock.now += 0.15
            progress.update(2)
        raise KeyError
    assert stream.getvalue().endswith("\rpredict 6/1000  13.3/s  1:15 left\x1b[K\n")


def test_hours() -> None:
    assert "2:46:40 left" in run(io.StringIO(), 1001 + 1, [10.0, 10.0])


def test_a_note_gets_a_line_of_its_own() -> None:
    for stream, expected in ((Terminal(), "\rskipped: a.png\x1b[K\n"), (io.StringIO(), "skipped: a.png\n")):
        Progress(2, "predict", stream=stream, clock=Clock()).note("skipped: a.png")
        assert stream.getvalue() == expected
