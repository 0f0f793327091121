"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what was given: a file, a key, a value.

    The message is one line that names the file or key, what was found, what is allowed and what to do.
    Command-line programs print it and exit with status 2; it never reaches a user as a traceback.
    """

    def __init__(self, message: str) -> None:
        # What it quotes, a name or a key, may hold line breaks.
        super().__init__(" ".join(message.splitlines()))
