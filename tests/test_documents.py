"""The site's pages are there, and its reference names modules that are."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = re.findall(r"- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)


def test_every_page_is_in_the_navigation_and_the_reverse():
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert there == set(PAGES) and len(PAGES) >= 10


def test_the_reference_names_modules_that_are_there():
    text = "\n".join((ROOT / "docs" / page).read_text() for page in PAGES if page.startswith("reference/"))
    named = re.findall(r"^::: (\S+)$", text, re.M)
    assert all(importlib.util.find_spec(name) is not None for name in named)
    rooms = {path.parent.name for path in (ROOT / "jaxgen").glob("*/__init__.py")}
    assert {f"jaxgen.{room}" for room in rooms - {"cli", "metrics", "recipes", "study"}} <= set(named)
