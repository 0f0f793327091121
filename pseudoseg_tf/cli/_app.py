"""What the command-line programs share: flag errors, help, and mistakes of the user as one line.

Exit codes: 0 done, or stopped by a signal in good order; 2 the user can mend it (one "error: ..." line on stderr);
130 interrupted; 141 nobody reads the output any more.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from pseudoseg_tf.errors import UserError
from pseudoseg_tf.interruption import Interrupted

_NO_SPACE = os.strerror(errno.ENOSPC)
# Of TensorFlow, to a run whose input server has lost what it was to make.
_SERVER_RESTARTED = "Unknown iteration client"
# What Python says of text that is no number, which absl passes on, and what we say.
_NUMBERS = {
    "invalid literal for int() with base 10: ": "must be a whole number, found ",
    "could not convert string to float: ": "must be a number, found ",
}
# The home directory at the beginning of a value, which shells leave alone behind "=": --set data.images=~/photos.
_HOME = re.compile(r"^((?:--\w+=)?(?:[\w.]+=)?)(~\w*)(?=/|$)")
# What a shell reports of a program whose reader is gone.
_CLOSED_PIPE = 128 + signal.SIGPIPE
_HELP_FLAGS = ("-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull")


def run(main: Callable[[Sequence[str]], None], takes_words: bool = False) -> None:
    """Runs ``main(argv)`` as a program and exits; ``main``'s module docstring and flags are its ``--help``.

    Args:
      takes_words: the program takes commands and names besides flags; ``main`` checks them. Else they are refused.

    Example:
      def run() -> None:  # the console script
          _app.run(main)
    """
    # As stderr does: parts of file names that are not UTF-8 are shown as \udcXX, where printing would fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

    def parse(argv: Sequence[str]) -> list[str]:
        argv = [_HOME.sub(lambda match: match[1] + os.path.expanduser(match[2]), each) for each in argv]
        if any(argument in _HELP_FLAGS for argument in argv[1:]):
            print(_help(main))
            sys.exit(0)
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            said = str(error)
            for pythons, ours in _NUMBERS.items():
                said = said.replace(pythons, ours)
            _fail(f"{said} (--help lists the flags)")
        for name, value in flags.FLAGS.flag_values_dict().items():
            # Python reads this as a number, within whatever bounds.
            if isinstance(value, float) and math.isnan(value):
                _fail(f"flag --{name}=nan: must be a number (--help lists the flags)")
        if rest[1:] and not takes_words:
            _fail(f"unexpected argument {rest[1]!r}; every input is a flag (--help lists them)")
        if flags.FLAGS["verbosity"].using_default_value:
            # Else absl would show the notices of every library.
            flags.FLAGS.verbosity = logging.ERROR
        return rest

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except Interrupted as interrupted:
            print(interrupted)
            sys.exit(0)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            raise
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            _fail(message, at_once=type(error).__module__.startswith("tensorflow."))

    try:
        try:
            app.run(guarded, flags_parser=parse)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # As in `pseudoseg-train --help | head`. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_CLOSED_PIPE)


def user_message(error: Exception) -> str | None:
    """Returns the line to show for an error that the user can mend; None for a defect of the program.

    A UserError that was raised inside a tf.data function arrives as a tf.errors.OpError; its text then
    follows the marker "UserError: ".
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if type(error).__module__.startswith("tensorflow."):
        _, marker, text = str(error).partition("UserError: ")
        if marker:
            return text.splitlines()[0]
        if _SERVER_RESTARTED in str(error):
            return (
                "runtime.input_servers: one was started anew, without this run; start the same command again"
            )
        if _NO_SPACE in str(error):
            return f"the disk is full ({str(error).splitlines()[0]}); make room, and start the same command again"
        if type(error).__name__ == "ResourceExhaustedError":
            return "out of memory: raise train.accumulate, or lower data.crop_size, data.batch_unlabeled or eval_batch"
    return None


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as lines of text, a header first: words to the left, numbers to the right."""
    columns = []
    for header, *cells in zip(*rows, strict=True):
        width = max(map(len, [header, *cells]))
        align = str.rjust if any(cell[:1].isdecimal() for cell in cells) else str.ljust
        columns.append([align(cell, width) for cell in [header, *cells]])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _fail(message: str, at_once: bool = False) -> None:
    """Prints the line and exits.

    Args:
      at_once: without Python's orderly end, which threads of a broken-off input pipeline, still reading, can hang.
    """
    print("error: " + " ".join(message.splitlines()), file=sys.stderr)
    if at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
    sys.exit(2)


def _help(main: Callable[[Sequence[str]], None]) -> str:
    module = sys.modules[main.__module__]
    # A program run by ``python -m`` registers its flags under the path of the file.
    name = sys.argv[0] if module.__name__ == "__main__" else module.__name__
    lines = [(module.__doc__ or "").strip(), "", "Flags:"]
    for flag in sorted(flags.FLAGS.get_key_flags_for_module(name), key=lambda flag: flag.name):
        default = f" (default: {flag.default_as_str})" if flag.default not in (None, [], "", False) else ""
        lines += [f"  --{flag.name}", f"      {flag.help}{default}"]
    return "\n".join(lines)
