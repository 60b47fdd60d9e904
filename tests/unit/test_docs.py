"""The documentation: links lead somewhere, examples are Python, and the reference is what the code says."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ropewalk.server.events import MEANINGS, EventCode

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(_prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_python_examples_parse(page: Path) -> None:
    for indent, language, text in FENCE.findall(page.read_text("utf-8")):
        if language == "python":
            code = re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
            ast.parse(code, filename=_name(page))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_in_examples_exist(page: Path) -> None:
    """A renamed command or option must not live on in the documentation."""
    known = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    commands = set(re.findall(r"^#{2,3} (ropewalk .*)$", known, re.MULTILINE))
    for command in _commands(page):
        words = command.split()
        assert any(" ".join(words[:length]) in commands for length in (4, 3, 2)), command
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]+", command):
            assert option in known or option in ("--help", "--install-completion", "--show-completion"), command


def _commands(page: Path) -> Iterator[str]:
    for _, language, text in FENCE.findall(page.read_text("utf-8")):
        if language in ("shell", "ini"):
            for line in text.splitlines():
                found = re.search(r"(?:^|\s|/bin/)(ropewalk [a-z][a-z-]*[^|#\\]*)", line)
                if found:
                    yield found[1].strip()


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {index}
    waiting = [index]
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(_prose(page)):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert set(PAGES) - reached - {ROOT / "README.md"} == set()


def test_the_reference_is_what_the_code_says() -> None:
    outdated = _reference().outdated()
    assert not outdated, f"run scripts/docs: {outdated} are out of date"


def test_every_event_code_is_explained() -> None:
    assert set(MEANINGS) == set(EventCode)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("0*.md")), ids=_name)
def test_decisions_say_context_decision_consequences_and_what_was_measured(page: Path) -> None:
    headings = re.findall(r"^## (.*)$", page.read_text("utf-8"), re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences", "Measured"]


def test_the_licence_is_the_one_that_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("BSD 3-Clause License")
    assert "The Ropewalk developers" in text
    assert 'license = "BSD-3-Clause"' in (ROOT / "pyproject.toml").read_text()
