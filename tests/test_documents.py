"""Documents: links lead to files and headings that exist, and the whole stays short."""

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


def count_words(path: Path) -> int:
    """Count the words of a document, without bullets and the bars of tables."""
    return len(re.findall(r"\S*\w\S*", path.read_text("utf-8")))


def test_documents_are_short():
    assert count_words(ROOT / "README.md") <= 700
    assert count_words(ROOT / "README.md") + sum(map(count_words, ROOT.glob("docs/**/*.md"))) <= 10_000
    assert all(count_words(path) <= 150 for path in ROOT.glob("docs/adr/00*.md"))
