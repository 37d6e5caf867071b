"""These tests compare compiled modules with pure ones: `nox -s speedups` has both."""

from vsync.speedups import COMPILED, in_use

collect_ignore_glob = [] if in_use == COMPILED else ["test_*.py"]
