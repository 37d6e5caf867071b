"""The reference pages are what the code says, and name everything that is public."""

import re
from pathlib import Path
from typing import Final

import pytest
from docs.generate_reference import (
    API,
    EVS,
    PAGES,
    REGION,
    SECTIONS,
    TESTING,
    all_errors,
    generate,
    hooks_of,
    regions,
)

import vsync
import vsync.testing
from tests.docs.pages import ROOT
from vsync import evs, hookspecs
from vsync.plugins import list_plugins
from vsync.settings import Strict
from vsync.testing.properties import PROPERTIES
from vsync_cli import hookspecs as command_hookspecs

MADE: Final = regions()
REFERENCE: Final = PAGES / "reference"
GENERATED: Final = [path for path in sorted(PAGES.rglob("*.md")) if REGION.search(path.read_text())]


def headings(page: str) -> list[str]:
    text = (REFERENCE / page).read_text()
    return re.findall(r"^### `?(\w+)`?$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_a_page_is_what_its_generator_writes(page: Path) -> None:
    assert page.read_text() == generate(page.read_text(), MADE), (
        "run: python docs/generate_reference.py"
    )


def test_every_region_is_on_one_page() -> None:
    used = [found["name"] for page in GENERATED for found in REGION.finditer(page.read_text())]
    assert sorted(used) == sorted(MADE)


def test_the_api_page_has_every_public_name_that_is_no_error() -> None:
    listed = [name for names in API.values() for name in names]
    known_errors = {error.__name__ for error in all_errors()}
    assert sorted(listed) == sorted(set(vsync.__all__) - known_errors)
    assert headings("api.md") == listed


def test_the_evs_page_has_every_public_name_that_vsync_has_not() -> None:
    known_errors = {error.__name__ for error in evs.EvsError.__subclasses__()}
    assert sorted(EVS) == sorted(set(evs.__all__) - known_errors - set(vsync.__all__))
    assert headings("evs.md") == list(EVS)
    assert all(name in MADE["evs-errors"] for name in known_errors)


def test_the_testing_page_has_every_public_name() -> None:
    assert sorted(TESTING) == sorted(vsync.testing.__all__)
    assert headings("testing.md") == list(TESTING)


def test_the_errors_page_explains_every_error() -> None:
    assert headings("errors.md") == [error.__name__ for error in all_errors()]


def test_the_hooks_page_has_every_hook() -> None:
    hooks = [*hooks_of(hookspecs), *hooks_of(command_hookspecs)]
    assert hooks
    assert headings("hooks.md") == [hook.__name__ for hook in hooks]


def test_the_settings_page_has_every_section() -> None:
    text = (REFERENCE / "settings.md").read_text()
    assert re.findall(r"^## \[(.+)\]$", text, flags=re.MULTILINE) == sorted(
        SECTIONS,
        key=lambda name: "node ring transport security daemon service".index(name.split(".")[0]),
    )


def test_every_transport_and_service_of_this_repository_has_a_section() -> None:
    ours = {
        f"{plugin.kind}.{plugin.name}"
        for plugin in list_plugins()
        if plugin.distribution.startswith("vsync-") and plugin.kind in ("transport", "service")
    }
    assert ours <= set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_has_a_meaning(section: str) -> None:
    model = SECTIONS[section]
    assert issubclass(model, Strict)
    for name in model.model_fields:
        row = re.search(
            rf"^\| `{name}` \|.*\| (.+) \|$", MADE[f"settings-{section.replace('.', '-')}"], re.M
        )
        assert row is not None, name
        assert row[1].endswith("."), name


def test_the_concepts_state_every_property_and_the_one_that_no_trace_shows() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text()
    numbers = {number for entry in PROPERTIES for number in entry.number.split("/")} | {"X.3"}
    for number in numbers:
        assert number in text
