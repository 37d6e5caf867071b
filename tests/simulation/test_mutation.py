"""Mutations: each still fits the engine as it is. That each is noticed, `nox -s mutation` says."""

import pytest

from tests.simulation.mutation import MUTATIONS, PACKAGE, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_stands_for_one_place_of_the_engine(mutation: Mutation) -> None:
    text = (PACKAGE / mutation.file).read_text()
    assert text.count(mutation.before) == 1
    compile(text.replace(mutation.before, mutation.after), mutation.file, "exec")
