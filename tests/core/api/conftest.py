"""The two ways to a session: every test that asks for ``open_session`` runs over both."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import vsync
from tests.core.api.rings import Open
from vsync import Node, Session


@pytest.fixture(params=["embedded", "daemon"])
def open_session(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Open a session on a node: in this process, or through a daemon that serves it."""
    opened = 0

    @asynccontextmanager
    async def embedded(node: Node, **options: Any) -> AsyncIterator[Session]:
        async with node.session(**options) as session:
            yield session

    @asynccontextmanager
    async def through_a_daemon(node: Node, **options: Any) -> AsyncIterator[Session]:
        nonlocal opened
        opened += 1
        path = tmp_path / f"{opened}.sock"
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            await tasks.start(vsync.serve, node, path)
            try:
                async with vsync.connect(path, **options) as session:
                    yield session
            except BaseException as error:
                failure = error  # raised as it is, not in a group
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    return embedded if request.param == "embedded" else through_a_daemon
