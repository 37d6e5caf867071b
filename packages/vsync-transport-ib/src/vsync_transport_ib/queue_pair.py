"""A queue pair for unreliable datagrams, and all that it needs of a device."""

import contextlib
import ctypes
import errno
import os
import random
import resource
from typing import Any

from vsync.errors import TransportFailed
from vsync_transport_ib import rdma_core as core
from vsync_transport_ib.rdma_core import Pointer, error_text, libibverbs
from vsync_transport_ib.rdma_devices import find_pkey, opened
from vsync_transport_ib.verbs import Endpoint, LinkLayer, PortState
from vsync_transport_ib.work import Work


class QueuePair:
    """The queue pair of an endpoint, with a completion queue for each direction.

    Its memory is registered once. ``close`` releases everything, in the opposite order.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lib = libibverbs()
        self._stack = contextlib.ExitStack()
        self.where = f"port {endpoint.port} of {endpoint.device}"
        self.work: Work
        self.context: Pointer
        self.operations: core.Operations
        self.protection: Pointer
        self.channel: Any
        self.receive_queue: Pointer
        self.send_queue: Pointer
        self.at: Pointer
        self.qpn = 0
        self.lid = 0
        self.layer = LinkLayer.ETHERNET
        self.port_is_active = False

    def open(self) -> None:
        """Acquire everything, in the order in which it is needed. Raises TransportFailed."""
        endpoint, lib, stack = self._endpoint, self._lib, self._stack
        self.work = Work(endpoint.receive_slots, endpoint.send_slots, endpoint.message_bytes_max)
        stack.callback(self.work.close)
        self.context = stack.enter_context(opened(endpoint.device))
        self.operations = core.Operations(self.context)
        os.set_blocking(self.operations.async_fd, False)
        self._look_at_port()
        if not self.gid_is_there():
            raise TransportFailed(
                f"the GID at index {endpoint.gid_index} of {self.where} is not {endpoint.gid} any "
                "more; see `rdma link` and `ip address`, and start again"
            )
        self.protection = self._acquire(lib.ibv_alloc_pd(self.context), lib.ibv_dealloc_pd)
        region = self._acquire(
            lib.ibv_reg_mr(
                self.protection, self.work.base, self.work.bytes, core.ACCESS_LOCAL_WRITE
            ),
            lib.ibv_dereg_mr,
        )
        self.work.write_requests(region.contents.lkey)
        self._make_queues()
        self.start()

    def close(self) -> None:
        """Release everything; may be called twice."""
        self._stack.close()

    def _acquire(self, thing: Any, release: Any) -> Any:
        """Give *thing*, to be released in the end. Raises TransportFailed if it is null."""
        if not thing:
            number = ctypes.get_errno()
            if number == errno.ENOMEM:
                raise TransportFailed(self._memory_text())
            raise TransportFailed(
                f"{self.where} does not give what is needed: {error_text(number)}; receive_depth "
                "and send_depth in [transport.ib] may ask for more than it has (`ibv_devinfo -v`)"
            )
        self._stack.callback(release, thing)
        return thing

    def _memory_text(self) -> str:
        limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        allowed = "any amount" if limit == resource.RLIM_INFINITY else f"{limit // 1024} KiB"
        return (
            f"{self.where} needs {-(-self.work.bytes // 1024)} KiB of locked memory, and this "
            f"process may lock {allowed} (RLIMIT_MEMLOCK); raise the limit (`ulimit -l unlimited`, "
            "LimitMEMLOCK=infinity in a systemd unit, memlock in /etc/security/limits.conf), or "
            "lower receive_depth in [transport.ib]"
        )

    def _look_at_port(self) -> None:
        port = core.PortAttributes()
        if failed := self._lib.ibv_query_port(
            self.context, self._endpoint.port, ctypes.byref(port)
        ):
            raise TransportFailed(f"{self.where} cannot be asked: {error_text(failed)}")
        ethernet = port.link_layer == core.LINK_LAYER_ETHERNET
        self.layer = LinkLayer.ETHERNET if ethernet else LinkLayer.INFINIBAND
        self.lid = 0 if ethernet else port.lid
        self.port_is_active = port.state == PortState.ACTIVE.value
        self._pkey_index = find_pkey(
            self.context, self._endpoint, port.pkey_tbl_len, where=self.where
        )

    def gid_is_there(self) -> bool:
        endpoint, found = self._endpoint, ctypes.create_string_buffer(16)
        failed = self._lib.ibv_query_gid(self.context, endpoint.port, endpoint.gid_index, found)
        return not failed and found.raw == endpoint.gid.packed

    def _make_queues(self) -> None:
        endpoint, lib = self._endpoint, self._lib
        self.channel = self._acquire(
            lib.ibv_create_comp_channel(self.context), lib.ibv_destroy_comp_channel
        )
        os.set_blocking(self.channel.contents.fd, False)

        def queue(entries: int, channel: Any) -> Any:
            made = lib.ibv_create_cq(self.context, entries, None, channel, 0)
            return self._acquire(made, lib.ibv_destroy_cq)

        self.receive_queue = queue(endpoint.receive_slots, self.channel)
        self.send_queue = queue(endpoint.send_slots, None)
        initial = core.QueuePairInitial(
            send_cq=self.send_queue,
            recv_cq=self.receive_queue,
            cap=core.Capacity(endpoint.send_slots, endpoint.receive_slots, 1, 1, 0),
            qp_type=core.QPT_UD,
        )
        pair = self._acquire(
            lib.ibv_create_qp(self.protection, ctypes.byref(initial)), lib.ibv_destroy_qp
        )
        self.at = ctypes.addressof(pair.contents)
        self.qpn = pair.contents.qp_num

    def start(self) -> None:
        """Take the queue pair from wherever it is to where it sends and receives."""
        endpoint = self._endpoint
        for state, mask in (
            (core.QPS_RESET, 0),
            (core.QPS_INIT, core.QP_PKEY_INDEX | core.QP_PORT | core.QP_QKEY),
            (core.QPS_RTR, 0),
            (core.QPS_RTS, core.QP_SQ_PSN),
        ):
            wanted = core.QueuePairAttributes(
                qp_state=state,
                pkey_index=self._pkey_index,
                port_num=endpoint.port,
                qkey=endpoint.qkey,
                sq_psn=random.getrandbits(24),
            )
            if failed := self._lib.ibv_modify_qp(
                self.at, ctypes.byref(wanted), core.QP_STATE | mask
            ):
                raise TransportFailed(
                    f"the queue pair of {self.where} does not start: {error_text(failed)}"
                )
