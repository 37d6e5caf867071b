"""The part of rdma-core's two libraries that we call, declared for ``ctypes``.

libibverbs and librdmacm are C libraries with a stable binary interface: what is declared here is
compiled into every program that uses them, so it cannot change without another library name.
``ibv_post_send``, ``ibv_post_recv``, ``ibv_poll_cq`` and ``ibv_req_notify_cq`` are no functions of
the library but inline ones, which call through a table of pointers that begins the device's
context (``ibv_context_ops`` in infiniband/verbs.h); so do we (``Operations``).

Where a structure is written or read for each packet, there is a ``struct.Struct`` for it too. A
test holds all of them equal to what a C compiler makes of the headers.

Source: infiniband/verbs.h and rdma/rdma_cma.h of rdma-core 44.
"""

import ctypes
import functools
import os
import struct
from collections.abc import Callable
from ctypes import POINTER, c_char, c_char_p, c_int, c_size_t, c_uint, c_void_p
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64
from typing import Any, ClassVar, Final, TypeAlias

from vsync.errors import TransportFailed

LIBIBVERBS: Final = "libibverbs.so.1"
LIBRDMACM: Final = "librdmacm.so.1"

Pointer: TypeAlias = int
"""An address, as a plain number; a null pointer is None when it comes, and may be when it goes."""

Fields: TypeAlias = list[Any]

QPT_UD: Final = 4  # enum ibv_qp_type
QPS_RESET, QPS_INIT, QPS_RTR, QPS_RTS = 0, 1, 2, 3  # enum ibv_qp_state
QP_STATE, QP_PKEY_INDEX, QP_PORT, QP_QKEY, QP_SQ_PSN = 1 << 0, 1 << 4, 1 << 5, 1 << 6, 1 << 16
ACCESS_LOCAL_WRITE: Final = 1
SEND_SIGNALED: Final = 2
WR_SEND: Final = 2  # enum ibv_wr_opcode
WC_GRH: Final = 1
LINK_LAYER_ETHERNET: Final = 2
PS_UDP: Final = 0x0111  # enum rdma_port_space

GID_KINDS: Final = ("IB", "RoCE v1", "RoCE v2")
"""``enum ibv_gid_type``, in the kernel's words."""


class PortAttributes(ctypes.Structure):
    """``struct ibv_port_attr``."""

    state: int
    max_mtu: int
    active_mtu: int
    gid_tbl_len: int
    pkey_tbl_len: int
    lid: int
    link_layer: int
    _fields_: ClassVar[Fields] = [
        *((name, c_int) for name in ("state", "max_mtu", "active_mtu", "gid_tbl_len")),
        *((name, u32) for name in ("port_cap_flags", "max_msg_sz", "bad_pkey", "qkey_viol")),
        *((name, u16) for name in ("pkey_tbl_len", "lid", "sm_lid")),
        *((name, u8) for name in ("lmc", "max_vl_num", "sm_sl", "subnet_timeout")),
        *((name, u8) for name in ("init_type_reply", "active_width", "active_speed")),
        *((name, u8) for name in ("phys_state", "link_layer", "flags")),
        ("port_cap_flags2", u16),
    ]


class DeviceAttributes(ctypes.Structure):
    """``struct ibv_device_attr``."""

    max_qp_wr: int
    max_cqe: int
    phys_port_cnt: int
    _fields_: ClassVar[Fields] = [
        ("fw_ver", c_char * 64),
        *((name, u64) for name in ("node_guid", "sys_image_guid", "max_mr_size", "page_size_cap")),
        *((name, u32) for name in ("vendor_id", "vendor_part_id", "hw_ver")),
        ("max_qp", c_int),
        ("max_qp_wr", c_int),
        ("device_cap_flags", c_uint),
        ("max_sge", c_int),
        ("max_sge_rd", c_int),
        ("max_cq", c_int),
        ("max_cqe", c_int),
        ("unused", c_int * 22),
        ("max_pkeys", u16),
        ("local_ca_ack_delay", u8),
        ("phys_port_cnt", u8),
    ]


class GidEntryRaw(ctypes.Structure):
    """``struct ibv_gid_entry``."""

    gid: Any
    gid_index: int
    gid_type: int
    ndev_ifindex: int
    _fields_: ClassVar[Fields] = [
        ("gid", u64 * 2),
        *((name, u32) for name in ("gid_index", "port_num", "gid_type", "ndev_ifindex")),
    ]


class AddressAttributes(ctypes.Structure):
    """``struct ibv_ah_attr``, with its ``struct ibv_global_route``."""

    dgid: Any
    dlid: int
    sl: int
    is_global: int
    _fields_: ClassVar[Fields] = [
        ("dgid", u64 * 2),
        ("flow_label", u32),
        *((name, u8) for name in ("sgid_index", "hop_limit", "traffic_class", "reserved")),
        ("dlid", u16),
        *((name, u8) for name in ("sl", "src_path_bits", "static_rate", "is_global", "port_num")),
    ]


class Capacity(ctypes.Structure):
    """``struct ibv_qp_cap``."""

    _fields_: ClassVar[Fields] = [
        (name, u32)
        for name in ("max_send_wr", "max_recv_wr", "max_send_sge", "max_recv_sge", "max_inline")
    ]


class QueuePairInitial(ctypes.Structure):
    """``struct ibv_qp_init_attr``."""

    _fields_: ClassVar[Fields] = [
        *((name, c_void_p) for name in ("qp_context", "send_cq", "recv_cq", "srq")),
        ("cap", Capacity),
        ("qp_type", c_int),
        ("sq_sig_all", c_int),
    ]


class QueuePairAttributes(ctypes.Structure):
    """``struct ibv_qp_attr``."""

    _fields_: ClassVar[Fields] = [
        *((name, c_int) for name in ("qp_state", "cur_qp_state", "path_mtu", "path_mig_state")),
        *((name, u32) for name in ("qkey", "rq_psn", "sq_psn", "dest_qp_num", "qp_access_flags")),
        ("cap", Capacity),
        ("ah_attr", AddressAttributes),
        ("alt_ah_attr", AddressAttributes),
        ("pkey_index", u16),
        ("alt_pkey_index", u16),
        *((name, u8) for name in ("en_sqd_async_notify", "sq_draining", "max_rd_atomic")),
        *((name, u8) for name in ("max_dest_rd_atomic", "min_rnr_timer", "port_num", "timeout")),
        *((name, u8) for name in ("retry_cnt", "rnr_retry", "alt_port_num", "alt_timeout")),
        ("rate_limit", u32),
    ]


class QueuePairHead(ctypes.Structure):
    """How ``struct ibv_qp`` begins."""

    qp_num: int
    _fields_: ClassVar[Fields] = [
        *((name, c_void_p) for name in ("context", "qp_context", "pd", "send_cq", "recv_cq")),
        ("srq", c_void_p),
        ("handle", u32),
        ("qp_num", u32),
    ]


class RegionHead(ctypes.Structure):
    """``struct ibv_mr``."""

    lkey: int
    _fields_: ClassVar[Fields] = [
        *((name, c_void_p) for name in ("context", "pd", "addr")),
        ("length", c_size_t),
        *((name, u32) for name in ("handle", "lkey", "rkey")),
    ]


class ChannelHead(ctypes.Structure):
    """``struct ibv_comp_channel``."""

    fd: int
    _fields_: ClassVar[Fields] = [("context", c_void_p), ("fd", c_int), ("refcnt", c_int)]


class ContextHead(ctypes.Structure):
    """How ``struct ibv_context`` begins, with its ``struct ibv_context_ops``."""

    async_fd: int
    poll_cq: int
    req_notify_cq: int
    post_send: int
    post_recv: int
    _fields_: ClassVar[Fields] = [
        ("device", c_void_p),
        ("before", c_void_p * 11),
        ("poll_cq", c_void_p),
        ("req_notify_cq", c_void_p),
        ("between", c_void_p * 12),
        ("post_send", c_void_p),
        ("post_recv", c_void_p),
        ("after", c_void_p * 5),
        ("cmd_fd", c_int),
        ("async_fd", c_int),
    ]


class AsyncEvent(ctypes.Structure):
    """``struct ibv_async_event``: the element is a pointer, or the number of a port."""

    element: int
    event_type: int
    _fields_: ClassVar[Fields] = [("element", u64), ("event_type", c_int)]


class ConnectionEvent(ctypes.Structure):
    """``struct rdma_cm_event``, with the ``struct rdma_ud_param`` in it."""

    event: int
    status: int
    ah_attr: AddressAttributes
    qkey: int
    _fields_: ClassVar[Fields] = [
        ("id", c_void_p),
        ("listen_id", c_void_p),
        ("event", c_int),
        ("status", c_int),
        ("private_data", c_void_p),
        ("private_data_len", u8),
        ("ah_attr", AddressAttributes),
        ("qp_num", u32),
        ("qkey", u32),
    ]


SGE: Final = struct.Struct("=QII")
"""``struct ibv_sge``: address, length, local key."""

SEND_WR_BYTES: Final = 128
SEND_WR: Final = struct.Struct("=QQQiiIIQII")
"""How ``struct ibv_send_wr`` begins: id, next, list and number of elements, opcode, flags,
immediate; and for unreliable datagrams address handle, queue pair, Q_Key."""

RECEIVE_WR: Final = struct.Struct("=QQQi4x")
"""``struct ibv_recv_wr``: id, next, list and number of elements."""

NEXT_OFFSET: Final = 8
"""Where ``next`` is in both."""

WC: Final = struct.Struct("=QiiIIIIIIHHBB2x")
"""``struct ibv_wc``: id, status, opcode, vendor's error, bytes, immediate, our queue pair, the
sender's, flags, index of the partition key, the sender's LID, service level, path bits."""

_VERBS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "ibv_get_device_list": (POINTER(c_void_p), [POINTER(c_int)]),
    "ibv_free_device_list": (None, [POINTER(c_void_p)]),
    "ibv_get_device_name": (c_char_p, [c_void_p]),
    "ibv_open_device": (c_void_p, [c_void_p]),
    "ibv_close_device": (c_int, [c_void_p]),
    "ibv_query_device": (c_int, [c_void_p, POINTER(DeviceAttributes)]),
    "ibv_query_port": (c_int, [c_void_p, u8, POINTER(PortAttributes)]),
    "ibv_query_gid": (c_int, [c_void_p, u8, c_int, c_void_p]),
    "ibv_query_pkey": (c_int, [c_void_p, u8, c_int, POINTER(u16)]),
    "_ibv_query_gid_ex": (c_int, [c_void_p, u32, u32, POINTER(GidEntryRaw), u32, c_size_t]),
    "ibv_alloc_pd": (c_void_p, [c_void_p]),
    "ibv_dealloc_pd": (c_int, [c_void_p]),
    "ibv_reg_mr": (POINTER(RegionHead), [c_void_p, c_void_p, c_size_t, c_int]),
    "ibv_dereg_mr": (c_int, [POINTER(RegionHead)]),
    "ibv_create_comp_channel": (POINTER(ChannelHead), [c_void_p]),
    "ibv_destroy_comp_channel": (c_int, [POINTER(ChannelHead)]),
    "ibv_create_cq": (c_void_p, [c_void_p, c_int, c_void_p, c_void_p, c_int]),
    "ibv_destroy_cq": (c_int, [c_void_p]),
    "ibv_get_cq_event": (c_int, [c_void_p, POINTER(c_void_p), POINTER(c_void_p)]),
    "ibv_ack_cq_events": (None, [c_void_p, c_uint]),
    "ibv_create_qp": (POINTER(QueuePairHead), [c_void_p, POINTER(QueuePairInitial)]),
    "ibv_modify_qp": (c_int, [c_void_p, POINTER(QueuePairAttributes), c_int]),
    "ibv_destroy_qp": (c_int, [c_void_p]),
    "ibv_create_ah": (c_void_p, [c_void_p, POINTER(AddressAttributes)]),
    "ibv_destroy_ah": (c_int, [c_void_p]),
    "ibv_attach_mcast": (c_int, [c_void_p, c_void_p, u16]),
    "ibv_detach_mcast": (c_int, [c_void_p, c_void_p, u16]),
    "ibv_get_async_event": (c_int, [c_void_p, POINTER(AsyncEvent)]),
    "ibv_ack_async_event": (None, [POINTER(AsyncEvent)]),
    "ibv_event_type_str": (c_char_p, [c_int]),
    "ibv_wc_status_str": (c_char_p, [c_int]),
}

_CM: Final[dict[str, tuple[Any, list[Any]]]] = {
    "rdma_create_event_channel": (POINTER(c_int), []),
    "rdma_destroy_event_channel": (None, [POINTER(c_int)]),
    "rdma_create_id": (c_int, [POINTER(c_int), POINTER(c_void_p), c_void_p, c_int]),
    "rdma_destroy_id": (c_int, [c_void_p]),
    "rdma_bind_addr": (c_int, [c_void_p, c_char_p]),
    "rdma_join_multicast": (c_int, [c_void_p, c_char_p, c_void_p]),
    "rdma_leave_multicast": (c_int, [c_void_p, c_char_p]),
    "rdma_get_cm_event": (c_int, [POINTER(c_int), POINTER(POINTER(ConnectionEvent))]),
    "rdma_ack_cm_event": (c_int, [POINTER(ConnectionEvent)]),
    "rdma_event_str": (c_char_p, [c_int]),
}


@functools.cache
def libibverbs() -> Any:
    """The verbs. Raises TransportFailed if the library is not installed."""
    return _load(LIBIBVERBS, _VERBS, "libibverbs1 ibverbs-providers")


@functools.cache
def librdmacm() -> Any:
    """The connection manager. Raises TransportFailed if the library is not installed."""
    return _load(LIBRDMACM, _CM, "librdmacm1")


def _load(name: str, functions: dict[str, tuple[Any, list[Any]]], packages: str) -> Any:
    try:
        library = ctypes.CDLL(name, use_errno=True)
        for function, (result, arguments) in functions.items():
            declared = getattr(library, function)
            declared.restype, declared.argtypes = result, arguments
    except OSError as error:
        raise TransportFailed(
            f"{name} of rdma-core is not installed ({error}); on Debian and Ubuntu: apt install "
            f'{packages}; or, without such a device, set provider = "soft" in [transport.ib]'
        ) from error
    except AttributeError as error:
        raise TransportFailed(
            f"{name} is too old ({error}); rdma-core 33 or later is needed"
        ) from error
    return library


class Operations:
    """The four that are called for packets, of one device's context.

    None of them blocks. To poll and to post receives is a matter of memory, so these two keep the
    interpreter's lock; the other two may enter the kernel.
    """

    def __init__(self, context: Pointer) -> None:
        head = ContextHead.from_address(context)
        keep, release = ctypes.PYFUNCTYPE, ctypes.CFUNCTYPE
        self.poll_cq: Callable[[Pointer, int, Pointer], int] = keep(
            c_int, c_void_p, c_int, c_void_p
        )(head.poll_cq)
        self.post_receive: Callable[[Pointer, Pointer, Pointer], int] = keep(
            c_int, c_void_p, c_void_p, c_void_p
        )(head.post_recv)
        self.post_send: Callable[[Pointer, Pointer, Pointer], int] = release(
            c_int, c_void_p, c_void_p, c_void_p
        )(head.post_send)
        self.request_notification: Callable[[Pointer, int], int] = release(c_int, c_void_p, c_int)(
            head.req_notify_cq
        )
        self.async_fd = head.async_fd


def error_text(number: int | None = None) -> str:
    """What the system says of an error; without a number, of that of the last call."""
    return os.strerror(ctypes.get_errno() if number is None else number)
