"""How close a quantity must be to the reference's: the limits at which the reference itself is stable."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Rule(NamedTuple):
    """A limit and what it is compared with."""

    text: str
    holds: Callable[[Array, Array], bool]


def absolute(limit: float) -> Rule:
    """The largest difference."""
    return Rule(f"{limit:g} abs", lambda ours, theirs: bool(np.all(np.abs(ours - theirs) <= limit)))


def relative(limit: float) -> Rule:
    """Each difference against its value, or 1 where that is larger."""
    return Rule(
        f"{limit:g} rel",
        lambda ours, theirs: bool(np.all(np.abs(ours - theirs) <= limit * np.maximum(1, np.abs(theirs)))),
    )


def relative_l2(limit: float) -> Rule:
    """L2 norm of the difference against that of the values."""
    return Rule(
        f"{limit:g} L2",
        lambda ours, theirs: bool(np.linalg.norm(ours - theirs) <= limit * np.linalg.norm(theirs)),
    )


def equal_share(share: float) -> Rule:
    """Part of the elements that must be the same."""
    return Rule(f"{share:.2%} same", lambda ours, theirs: bool(np.mean(ours == theirs) >= share))


EXACT = Rule("exact", lambda ours, theirs: bool(np.array_equal(ours, theirs)))
_SPECIAL = (
    r"(hyper_column/.*|pixel_normalization/.*|logits/semantic/.*|[^/]+/logits/(weights|biases))"
    r"(:axis-2_every_32)?$"
)

# The first pattern that matches a name from its beginning to its end decides.
_FORWARD = [
    (r".*:shape", EXACT),
    (r".*labels", equal_share(0.9999)),
    (r".*stats", relative(1e-4)),
    (r".*", absolute(1e-4)),
]
_STEP = [
    (r"scalar:global_norm", relative_l2(0.01)),
    (r"scalar:learning_rate", absolute(1e-6)),
    (r"scalar:.*", absolute(1e-4)),
    (r"(argmax:.*|hard:.*|valid_mask)", equal_share(0.998)),
    (r"cam_(image_label|valid)_.*", EXACT),
    (r"(logits_weak|logits_strong|semantic_seg|cls_pass_logits|cam_image_logits_labeled)", absolute(2e-3)),
    (r"cam_image_logits_weak", absolute(1e-4)),
    (r"att_logits_.*", absolute(2e-4)),
    (r"(grad_cam|cam_with_bg|cam_weak|attention_).*", absolute(2e-5)),
    (r"(pseudo_label|max_.*)", absolute(3e-4)),
    (r"(grad|step):" + _SPECIAL, relative_l2(1e-3)),
    (r"(grad|step):.*", relative_l2(0.05)),
    (r"norm:.*", relative_l2(0.02)),
    (r"bn:.*", absolute(1e-4)),
]
_VIEWS = [
    (r".*:(label|valid|is_flipped|image_is_fill)|cls_label:.*|eval:(label|valid)|pad:label.*|.*size", EXACT),
    (r"scale:set", absolute(0)),
    # In [0, 1], where the others are in [0, 255].
    (r"(colour|jitter):.*", absolute(0.02 / 255)),
    (r".*", absolute(0.02)),
]
_RULES = {
    "forward": _FORWARD,
    "step": _STEP,
    "views": _VIEWS,
    "schedule": [(r".*", absolute(1e-6))],
    "metrics": [(r".*", absolute(1e-6))],
    "formula": [(r".*", relative(1e-9))],
    "variables": [(r".*", EXACT)],
}


def rule_for(kind: str, name: str) -> Rule:
    """The rule for a quantity of a kind of file: "forward", "step", "views", "schedule", ..."""
    for pattern, rule in _RULES[kind]:
        if re.fullmatch(pattern, name):
            return rule
    raise KeyError(f"no tolerance for {name!r} of a {kind} file")
