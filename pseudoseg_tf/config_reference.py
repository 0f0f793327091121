"""The reference of all configuration keys, docs/configuration.md, made from the dataclasses and their comments.

Example:
  python -m pseudoseg_tf.config_reference > docs/configuration.md
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pseudoseg_tf.config import Config
from pseudoseg_tf.config_io import as_text, difference_table
from pseudoseg_tf.presets import PRESETS, preset

_HEAD = """\
# Configuration

Made from `pseudoseg_tf/config.py` by `python -m pseudoseg_tf.config_reference > docs/configuration.md`; change it
there.

A key is set with `--set GROUP.KEY=VALUE`, as often as needed, or from Python with `config_io.apply_overrides`. Lists
are written `6,12,18`, sizes `513,1025` (height, width) or `513` for both, truth values `true` and `false`. An unknown
key, a value of another kind and values that do not go together are refused with a line that says what is allowed;
`pseudoseg-train --dry_run` checks without training and prints every key as it holds.
"""


def reference() -> str:
    """The whole text, Markdown."""
    parts = [_HEAD]
    for group in dataclasses.fields(Config):
        parts.append("\n".join(_group(group.name, type(getattr(Config(), group.name)))))
    parts.append("\n".join(_presets()))
    return "\n".join(parts)


def _group(group: str, config: type) -> Iterator[str]:
    """A heading, what the group is for, and a table of its keys."""
    yield f"## {group}\n"
    yield f"{inspect.getdoc(config)}\n"
    yield "| key | values | default | |"
    yield "|--|--|--|--|"
    kinds = get_type_hints(config)
    comments = field_comments(config)
    for field in dataclasses.fields(config):
        default = as_text(field.default)
        cells = [
            f"`{group}.{field.name}`",
            _values(kinds[field.name]),
            f"`{default}`" if default else "",
            comments[field.name],
        ]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def field_comments(config: type) -> dict[str, str]:
    """The comment above each field of a dataclass, as one line.

    One comment may speak for the fields right below it: a field without one has that of the field above.
    """
    source = textwrap.dedent(inspect.getsource(config))
    lines = source.splitlines()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    comments: dict[str, str] = {}
    latest = ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above = []
            for line in reversed(lines[: node.lineno - 1]):
                if not line.lstrip().startswith("#"):
                    break
                above.append(line.strip().lstrip("# "))
            latest = " ".join(reversed(above)) or latest
            comments[node.target.id] = latest
    return comments


def _values(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        first, second = get_args(kind)
        what = "whole numbers" if first is int else "numbers"
        return what if second is Ellipsis else "height,width"
    return {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}[kind]


def _presets() -> Iterator[str]:
    """What each preset sets, as a table; text that is empty is left out."""
    yield "## Presets\n"
    yield "What `--preset=NAME` sets otherwise; `pseudoseg_tf/presets.py` says how each is run.\n"
    names = list(PRESETS)
    header, *rows = difference_table({"default": Config(), **{name: preset(name) for name in names}})
    for line in (header, ["--"] * len(header), *rows):
        # What a preset leaves as it is need not be repeated.
        key, default, *others = line
        cells = [key if line is header else f"`{key}`" if key != "--" else key, default]
        cells += ["" if other == default and other != "--" else other for other in others]
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(reference())
