"""Strangers' bytes make no parser raise: a short run of what ``nox -s fuzz`` does for longer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.inputs import inputs
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(name: str, data: st.DataObject) -> None:
    TARGETS[name].feed(data.draw(inputs(TARGETS[name].seeds)))


@pytest.mark.parametrize("name", TARGETS)
def test_sensible_bytes_are_read(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].feed(seed)
