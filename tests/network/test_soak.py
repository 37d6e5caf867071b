"""Two minutes of the soak: five nodes on two networks with a key, and five on one without."""

from pathlib import Path

import pytest
from benchmarks.soak import soak

pytestmark = [pytest.mark.network, pytest.mark.timeout(400)]


@pytest.mark.parametrize("seed", [2, 4])
def test_five_nodes_agree_after_a_minute_of_random_faults(tmp_path: Path, seed: int) -> None:
    soak(tmp_path, 1.0, seed, 5)
