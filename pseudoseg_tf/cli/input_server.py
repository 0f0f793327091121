"""Reads and decodes training images for runs whose own cores do not keep up with their accelerators.

Start one for every one or two cores that shall help, on machines that see the data under the paths of the run's
configuration (where those are relative: in the same directory), and name them all in the run. Its batches stay the
same, and it may go on with others or without. A run waits for a server that is gone; one that has come back does not
know it: then the run ends, and started again it continues at its last checkpoint. Anybody who reaches the ports can
have images read: open them to the machines of the run alone.

Example:
  pseudoseg-input-server --port=5050 & pseudoseg-input-server --port=5060 &    # then wait until both are ready
  pseudoseg-train --preset=voc12 --run_dir=runs/voc12 --set runtime.input_servers=localhost:5050,localhost:5060
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pseudoseg_tf.cli import _app
from pseudoseg_tf.interruption import StopSignals

_PORT = flags.DEFINE_integer(
    "port",
    5050,
    "Where runs ask; it and the two behind it (5051, 5052) must be free. 0: any three.",
    lower_bound=0,
    upper_bound=65533,
)
_HOST = flags.DEFINE_string(
    "host",
    "localhost",
    "The name by which the run's machines know this one; localhost: only this machine asks.",
)


def main(argv: Sequence[str]) -> None:
    """Serves until it is stopped."""
    del argv
    # TensorFlow takes seconds to import: only now, when the flags are known to be right.
    from pseudoseg_tf.input_server import InputServer

    server = InputServer(_HOST.value, _PORT.value)
    print(f"ready, until Ctrl-C: runtime.input_servers={server.address}", flush=True)
    with StopSignals() as signals, signals.at_once():
        server.serve()


def run() -> None:
    """Entry point of pseudoseg-input-server."""
    _app.run(main)


if __name__ == "__main__":
    run()
