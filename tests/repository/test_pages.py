"""Every link in the pages leads somewhere, and no file carries what belongs to one machine."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
#: What tools and installations leave behind; a file in one of these is not ours.
NOT_OURS = re.compile(
    r"(^|/)(\.git|\.venv|\.nox|__pycache__|\.[a-z_]+_cache|\.hypothesis|htmlcov|build|dist|site|"
    r"[a-z_]+\.egg-info)(/|$)"
)


def ours() -> list[Path]:
    """Give every file of the repository, in order."""
    return sorted(
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not NOT_OURS.search(path.relative_to(ROOT).as_posix())
    )


PAGES = [path for path in ours() if path.suffix == ".md"]


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """Take code out of a page: a bracket there is no link, a ``#`` no heading."""
    text = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Give the names that a link may use after ``#``, as GitHub makes them from the headings."""
    names: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", without_code(page.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count, unique = 0, name
        while unique in names:
            count += 1
            unique = f"{name}-{count}"
        names.add(unique)
    return names


def links(page: Path) -> list[str]:
    """Give the targets of all links and images of a page."""
    text = re.sub(r"`[^`\n]*`", "", without_code(page.read_text()))
    inline = re.findall(r"\]\(<?([^)>\s]+)>?(?: \"[^\"]*\")?\)", text)
    referenced = re.findall(r"^\[[^\]]+\]: *<?(\S+?)>?$", text, flags=re.MULTILINE)
    return inline + referenced


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue  # another site's, and its own business
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: that page has no such heading"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.is_relative_to(ROOT / "docs")], ids=identify
)
def test_a_page_of_the_documentation_can_be_reached_from_its_index(page: Path) -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md"]
    while waiting:
        current = waiting.pop()
        if current in reached:
            continue
        reached.add(current)
        targets = [(current.parent / link.partition("#")[0]).resolve() for link in links(current)]
        waiting += [target for target in targets if target.suffix == ".md" and target.is_file()]
    assert page in reached


#: Written in two pieces, so that this file does not hold what it looks for.
FORBIDDEN = [
    ("a path of one machine", r"(?<![\w.*~}])/(?:" + r"work|root)/[\w.]"),
    ("a path of one machine", r"/home" + r"/(?!USER)\w+/"),
    ("a path of one machine", r"/tmp" + r"/venv\b"),
    ("something unfinished", r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
    ("an open merge", r"^(?:<{7}|>{7}) "),
]


@pytest.mark.parametrize(("what", "pattern"), FORBIDDEN, ids=[entry[1] for entry in FORBIDDEN])
def test_no_file_holds(what: str, pattern: str) -> None:
    looked_for = re.compile(pattern, flags=re.MULTILINE)
    found = []
    for path in ours():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # no text, so nothing that anyone reads
        found += [f"{identify(path)}: {match[0]!r}" for match in looked_for.finditer(text)]
    assert not found, f"these hold {what}: {found}"
