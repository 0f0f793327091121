"""The shell commands that the documentation shows, and whether the programs would take them."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLI = ROOT / "pseudoseg_tf/cli"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> list[str]:
    """The fenced ``bash`` blocks of a Markdown text."""
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> Iterator[list[str]]:
    """The words of each command of a block; of NAME="VALUE" the name and the words of the value."""
    waiting = ""
    for line in block.replace("\\\n", " ").splitlines():
        waiting += line + "\n"
        if waiting.count('"') % 2:
            continue
        words = shlex.split(waiting, comments=True)
        waiting = ""
        if words:
            name, equals, value = words[0].partition("=")
            yield [name, *value.split()] if equals and name.isidentifier() else words


def flags_of(program: str) -> set[str]:
    """The flags that a module of ``cli`` defines, itself or with those of the modules it shares them with."""
    path = CLI / f"{program}.py"
    text = path.read_text(encoding="utf-8")
    names = set(re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "pseudoseg_tf.cli":
            for alias in node.names:
                if alias.name != "_app":
                    names |= flags_of(alias.name)
    return names


def flags_in(words: list[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each flag of a command; "--name value" counts for ``set`` and ``compare`` only."""
    waiting = ""
    for word in words:
        if waiting:
            yield waiting, word
            waiting = ""
        elif word in ("--set", "--compare"):
            waiting = word.removeprefix("--")
        elif word.startswith("--"):
            name, _, value = word.removeprefix("--").partition("=")
            yield name, value
