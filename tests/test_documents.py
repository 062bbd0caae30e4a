"""Documentation: links resolve to files and headings, and texts stay short."""

import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def get_anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", document.read_text("utf-8")), re.MULTILINE)
    plain = (unicodedata.normalize("NFC", heading).lower().replace(" ", "-") for heading in headings)
    return {re.sub(r"[^\w-]", "", heading) for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document):
    links = LINK.findall(CODE.sub("", document.read_text("utf-8")))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{link}: there is no {target}"
        assert not anchor or anchor in get_anchors(target), f"{link}: {target.name} has no such heading"


def test_documents_are_short():
    words = {path: len(path.read_text("utf-8").split()) for path in DOCUMENTS}
    assert words[ROOT / "README.md"] <= 700
    assert sum(count for path, count in words.items() if path.is_relative_to(ROOT / "docs")) <= 9_300
    assert all(words[path] <= 150 for path in ROOT.glob("docs/adr/00*.md"))
