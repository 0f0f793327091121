"""The documentation says what is so: commands exist and parse, links lead somewhere, keys are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pseudoseg_tf.config import Config
from pseudoseg_tf.config_io import apply_overrides, flatten
from pseudoseg_tf.config_reference import field_comments, reference
from pseudoseg_tf.presets import PRESETS
from tests.commands import CLI, DOCUMENTS, ROOT, blocks, commands, flags_in, flags_of

PROGRAMS = re.findall(r'^ {16}"(\w+)",$', (ROOT / "setup.py").read_text(), re.MULTILINE)
KEYS = set(flatten(Config()))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def shown() -> list[tuple[str, list[str]]]:
    return [
        (name(path), words)
        for path in DOCUMENTS
        for block in blocks(path.read_text(encoding="utf-8"))
        for words in commands(block)
    ]


def test_the_reference_of_keys_is_up_to_date() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert text == reference() + "\n", "run: python -m pseudoseg_tf.config_reference > docs/configuration.md"
    tables = text[: text.index("## Presets")]
    assert re.findall(r"^\| `(\w+\.\w+)`", tables, re.MULTILINE) == list(flatten(Config()))


def test_comments_are_read_off_the_source() -> None:
    comments = field_comments(type(Config().data))
    assert comments["images"] == "folder: directory of images."
    assert comments["scale_step"] == comments["min_scale"]
    assert comments["min_scale"].endswith("between the factors.")
    assert all(comments.values())


def test_there_are_commands_of_every_program() -> None:
    assert {f"pseudoseg-{program.replace('_', '-')}" for program in PROGRAMS} <= {
        words[0] for _, words in shown()
    }


@pytest.mark.parametrize(
    ("where", "words"), shown(), ids=[f"{where}:{' '.join(words)[:60]}" for where, words in shown()]
)
def test_a_command_would_be_taken(where: str, words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    for flag, value in flags_in(words):
        if flag == "set":
            apply_overrides(Config(), [value])
    if not words[0].startswith("pseudoseg-"):
        return
    program = words[0].removeprefix("pseudoseg-").replace("-", "_")
    assert program in PROGRAMS and (CLI / f"{program}.py").is_file()
    known = flags_of(program)
    for flag, value in flags_in(words):
        assert flag in known or flag.removeprefix("no") in known, f"--{flag}"
        if flag == "preset":
            assert value in PRESETS


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_and_keys_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link
    groups = "|".join({key.partition(".")[0] for key in KEYS})
    for key in re.findall(rf"`(?:--set )?((?:{groups})\.[a-z_0-9]+)(?=[=` ])", text):
        assert key in KEYS or key.endswith((".txt", ".py", ".json", ".jsonl")), key
    for module in re.findall(
        r"`((?:pseudoseg_tf|docs|tests|benchmarks|experiments|datasets)/[\w/]+\.\w+)", text
    ):
        assert (ROOT / module).exists(), module
