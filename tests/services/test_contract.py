"""Both services keep the contract of services; kv does with and without a quorum beside it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from vsync import Service
from vsync.testing.contracts import ServiceContract
from vsync_services.kv.service import KeyValueService
from vsync_services.quorum.service import QuorumService

pytestmark = pytest.mark.timeout(300)


class TestQuorum(ServiceContract):
    @pytest.fixture
    def service(self) -> type[Service]:
        return QuorumService

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        return {"expected_votes": 5, "auto_tie_breaker": "lowest", "wait_for_all": False}

    def kept(self, service: Service) -> object:
        status = service.status()
        return [status[name] for name in ("configuration", "primary", "reason", "votes")]


class TestKeyValue(ServiceContract):
    @pytest.fixture
    def service(self) -> type[Service]:
        return KeyValueService

    def change(self, number: int) -> bytes | None:
        return json.dumps({"op": "set", "key": f"{number % 3}", "value": "YQ=="}).encode()

    def kept(self, service: Service) -> object:
        assert isinstance(service, KeyValueService)
        return service.replica.store.entries, service.replica.store.point


class TestKeyValueWithQuorum(TestKeyValue):
    @pytest.fixture
    def beside(self) -> Mapping[type[Service] | str, Mapping[str, Any]]:
        return {QuorumService: {"expected_votes": 5}}
