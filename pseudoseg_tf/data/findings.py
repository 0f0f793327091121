"""What a check of a data set found: findings by severity and kind, and what the lists hold, as tables."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

from pseudoseg_tf.data.specs import IGNORE_LABEL, DatasetInfo, Source
from pseudoseg_tf.errors import UserError

# error: training would stop, or learn or score what is not meant. warning: perhaps not meant. note: good to know.
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

# Lines kept of each kind; a mistake made once is often made in every file.
_LINES = 5


@dataclasses.dataclass
class Finding:
    """All findings of one kind.

    Attributes:
      severity: "error", "warning" or "note".
      kind: what they have in common, such as "masks that cannot be used".
      lines: the first ones; each names file or key, what was found and how to mend it.
      count: how many there are.
    """

    severity: Severity
    kind: str
    lines: list[str] = dataclasses.field(default_factory=list)
    count: int = 0

    def text(self) -> list[str]:
        """The lines, and how many more there are."""
        more = self.count - len(self.lines)
        return [*self.lines, f"and {more:,} more: {self.kind}"] if more else list(self.lines)


class Findings:
    """Collects findings by severity and kind."""

    def __init__(self) -> None:
        self._found: dict[tuple[Severity, str], Finding] = {}

    def add(self, severity: Severity, kind: str, line: str) -> None:
        """Counts one more of a kind, and keeps its line if it is among the first."""
        finding = self._found.setdefault((severity, kind), Finding(severity, kind))
        finding.count += 1
        if len(finding.lines) < _LINES:
            finding.lines.append(line)

    @contextlib.contextmanager
    def collect(self, kind: str) -> Iterator[None]:
        """Takes a UserError that ends the block for an error found."""
        try:
            yield
        except UserError as error:
            self.add("error", kind, str(error))

    def sorted(self) -> list[Finding]:
        """Errors first, then warnings, then notes."""
        return sorted(self._found.values(), key=lambda finding: SEVERITIES.index(finding.severity))


@dataclasses.dataclass
class ListSummary:
    """What the images and masks of a list hold, as far as they can be read.

    Attributes:
      source: the list.
      masks: number of masks that can be used.
      without_mask: the ids of the images that have none.
      sizes: (height, width) of each image, by id.
      pixels: int64 [256], pixels of each label.
      images: int64 [256], masks in which each label occurs.
      samples: by class id, the images with most of its pixels: (pixels, index in the source), most first.
    """

    source: Source
    masks: int = 0
    without_mask: list[str] = dataclasses.field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    samples: dict[int, list[tuple[int, int]]] = dataclasses.field(default_factory=dict)

    def share(self, label: int) -> float:
        """Part of all pixels, ignored ones included, that have a label; 0 without masks."""
        return float(self.pixels[label] / max(1, self.pixels.sum()))


@dataclasses.dataclass
class Report:
    """All that was found.

    Attributes:
      info: the classes.
      lists: by key, such as "data.labeled"; a list that cannot be opened is not among them.
      findings: errors first.
    """

    info: DatasetInfo
    lists: dict[str, ListSummary]
    findings: list[Finding]

    def count(self, severity: Severity) -> int:
        """How many findings there are."""
        return sum(finding.count for finding in self.findings if finding.severity == severity)

    def class_table(self) -> list[list[str]]:
        """Rows of text, a header first: pixels, their share, and masks of each class, labeled and val."""
        lists = {key: self.lists[key] for key in ("data.labeled", "data.val") if key in self.lists}
        header = ["id", "class"]
        for key in lists:
            header += [f"{key.removeprefix('data.')} {column}" for column in ("pixels", "share", "images")]
        rows = [header]
        names = dict(enumerate(self.info.class_names)) | {IGNORE_LABEL: "(ignored)"}
        for label, name in names.items():
            row = [str(label), name]
            for each in lists.values():
                row += [
                    f"{each.pixels[label]:,}",
                    f"{100 * each.share(label):.2f} %",
                    str(each.images[label]),
                ]
            rows.append(row)
        return rows

    def list_table(self) -> list[list[str]]:
        """Rows of text, a header first: images, masks, and least, median and largest sides of each list."""
        rows = [["list", "images", "masks", "height (min, median, max)", "width (min, median, max)"]]
        for key, each in self.lists.items():
            row = [key, str(len(each.sizes)), str(each.masks)]
            for sides in zip(*each.sizes.values(), strict=True):
                row.append(f"{min(sides)}, {np.median(sides):g}, {max(sides)}")
            rows.append(row if each.sizes else [*row, "", ""])
        return rows
