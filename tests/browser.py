"""Opens HTML pages in headless Chromium, where it is installed (Debian: apt-get install chromium)."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

# What is asked of a page once it is loaded: errors, pictures that are not shown, and each sortable table's columns
# before and after two clicks on the head of each.
_PROBE = """
<script>
window.errors = [];
window.addEventListener("error", event => window.errors.push(event.message || String(event.target.src)), true);
</script>
"""
_ASK = """
<script>
window.addEventListener("load", () => {
  const column = (table, k) => [...table.tBodies[0].rows].map(row => row.cells[k].textContent.trim());
  const tables = [...document.querySelectorAll("table.sortable")].map(table => {
    return [...table.tHead.rows[0].cells].map((head, k) => {
      const clicked = () => { head.querySelector("button").click(); return column(table, k); };
      return {name: head.textContent, before: column(table, k), once: clicked(), twice: clicked()};
    });
  });
  const pictures = [...document.images];
  const answer = {
    errors: window.errors,
    pictures: pictures.length,
    missing: pictures.filter(picture => !(picture.complete && picture.naturalWidth)).map(picture => picture.alt),
    window: window.innerWidth,
    width: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    tables: tables,
  };
  window.parent.postMessage(JSON.stringify(answer), "*");
});
</script>
"""
# No window of Chromium is narrower than 500 pixels; a frame in one can be.
_FRAME = """<!DOCTYPE html>
<script>
window.addEventListener("message", event => {
  document.body.innerHTML = "";
  const shown = document.body.appendChild(document.createElement("pre"));
  shown.id = "answer";
  shown.textContent = event.data;
});
</script>
<iframe src="asking.html" width="WIDTH" height="900" style="border: 0"></iframe>
"""


def look_at(page: Path, folder: Path, width: int = 1280) -> dict[str, Any]:
    """Loads a page without a network and says what is on it.

    Args:
      page: the file.
      folder: for a copy of the page with questions in it, and for the browser's profile.
      width: that the page has, in pixels.

    Returns:
      errors, pictures and missing; window, its width, and width, what the page is wider by; tables.
    """
    text = page.read_text(encoding="utf-8")
    asking = folder / "asking.html"
    asking.write_text(
        text.replace("<head>", "<head>" + _PROBE, 1).replace("</body>", _ASK + "</body>"), encoding="utf-8"
    )
    framed = folder / "framed.html"
    framed.write_text(_FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    # Time enough, of the browser's own clock, for the answer to arrive.
    dumped = run_chromium(folder, "--virtual-time-budget=5000", "--dump-dom", framed.as_uri())
    answer = re.search(r'<pre id="answer">(.*?)</pre>', dumped, re.DOTALL)
    assert answer, dumped[-2000:]
    return json.loads(html.unescape(answer[1]))


def run_chromium(folder: Path, *arguments: str) -> str:
    """What headless Chromium prints; skips the test where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    # A host that resolves to nothing: a page that needs the network shows it.
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [program, *options, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout
