"""What is declared of rdma-core's structures is what a C compiler makes of its headers."""

import ctypes
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from vsync_transport_ib import rdma_core as core

STRUCTURES = {
    "ibv_port_attr": core.PortAttributes,
    "ibv_device_attr": core.DeviceAttributes,
    "ibv_gid_entry": core.GidEntryRaw,
    "ibv_ah_attr": core.AddressAttributes,
    "ibv_qp_cap": core.Capacity,
    "ibv_qp_init_attr": core.QueuePairInitial,
    "ibv_qp_attr": core.QueuePairAttributes,
    "ibv_mr": core.RegionHead,
    "ibv_comp_channel": core.ChannelHead,
    "ibv_async_event": core.AsyncEvent,
    "rdma_cm_event": core.ConnectionEvent,
}

PLACES: dict[str, tuple[type[ctypes.Structure], str]] = {
    "struct ibv_port_attr, active_mtu": (core.PortAttributes, "active_mtu"),
    "struct ibv_port_attr, pkey_tbl_len": (core.PortAttributes, "pkey_tbl_len"),
    "struct ibv_port_attr, lid": (core.PortAttributes, "lid"),
    "struct ibv_port_attr, link_layer": (core.PortAttributes, "link_layer"),
    "struct ibv_device_attr, max_qp_wr": (core.DeviceAttributes, "max_qp_wr"),
    "struct ibv_device_attr, max_cqe": (core.DeviceAttributes, "max_cqe"),
    "struct ibv_device_attr, phys_port_cnt": (core.DeviceAttributes, "phys_port_cnt"),
    "struct ibv_gid_entry, gid_type": (core.GidEntryRaw, "gid_type"),
    "struct ibv_gid_entry, ndev_ifindex": (core.GidEntryRaw, "ndev_ifindex"),
    "struct ibv_ah_attr, grh.sgid_index": (core.AddressAttributes, "sgid_index"),
    "struct ibv_ah_attr, grh.hop_limit": (core.AddressAttributes, "hop_limit"),
    "struct ibv_ah_attr, grh.traffic_class": (core.AddressAttributes, "traffic_class"),
    "struct ibv_ah_attr, dlid": (core.AddressAttributes, "dlid"),
    "struct ibv_ah_attr, sl": (core.AddressAttributes, "sl"),
    "struct ibv_ah_attr, is_global": (core.AddressAttributes, "is_global"),
    "struct ibv_ah_attr, port_num": (core.AddressAttributes, "port_num"),
    "struct ibv_qp_init_attr, send_cq": (core.QueuePairInitial, "send_cq"),
    "struct ibv_qp_init_attr, recv_cq": (core.QueuePairInitial, "recv_cq"),
    "struct ibv_qp_init_attr, cap": (core.QueuePairInitial, "cap"),
    "struct ibv_qp_init_attr, qp_type": (core.QueuePairInitial, "qp_type"),
    "struct ibv_qp_attr, qkey": (core.QueuePairAttributes, "qkey"),
    "struct ibv_qp_attr, sq_psn": (core.QueuePairAttributes, "sq_psn"),
    "struct ibv_qp_attr, pkey_index": (core.QueuePairAttributes, "pkey_index"),
    "struct ibv_qp_attr, port_num": (core.QueuePairAttributes, "port_num"),
    "struct ibv_qp, qp_num": (core.QueuePairHead, "qp_num"),
    "struct ibv_mr, lkey": (core.RegionHead, "lkey"),
    "struct ibv_comp_channel, fd": (core.ChannelHead, "fd"),
    "struct ibv_context, ops.poll_cq": (core.ContextHead, "poll_cq"),
    "struct ibv_context, ops.req_notify_cq": (core.ContextHead, "req_notify_cq"),
    "struct ibv_context, ops.post_send": (core.ContextHead, "post_send"),
    "struct ibv_context, ops.post_recv": (core.ContextHead, "post_recv"),
    "struct ibv_context, async_fd": (core.ContextHead, "async_fd"),
    "struct ibv_async_event, event_type": (core.AsyncEvent, "event_type"),
    "struct rdma_cm_event, event": (core.ConnectionEvent, "event"),
    "struct rdma_cm_event, status": (core.ConnectionEvent, "status"),
    "struct rdma_cm_event, param.ud.ah_attr": (core.ConnectionEvent, "ah_attr"),
    "struct rdma_cm_event, param.ud.qp_num": (core.ConnectionEvent, "qp_num"),
    "struct rdma_cm_event, param.ud.qkey": (core.ConnectionEvent, "qkey"),
}

CONSTANTS = {
    "IBV_QPT_UD": core.QPT_UD,
    "IBV_QPS_RESET": core.QPS_RESET,
    "IBV_QPS_INIT": core.QPS_INIT,
    "IBV_QPS_RTR": core.QPS_RTR,
    "IBV_QPS_RTS": core.QPS_RTS,
    "IBV_QP_STATE": core.QP_STATE,
    "IBV_QP_PKEY_INDEX": core.QP_PKEY_INDEX,
    "IBV_QP_PORT": core.QP_PORT,
    "IBV_QP_QKEY": core.QP_QKEY,
    "IBV_QP_SQ_PSN": core.QP_SQ_PSN,
    "IBV_ACCESS_LOCAL_WRITE": core.ACCESS_LOCAL_WRITE,
    "IBV_SEND_SIGNALED": core.SEND_SIGNALED,
    "IBV_WR_SEND": core.WR_SEND,
    "IBV_LINK_LAYER_ETHERNET": core.LINK_LAYER_ETHERNET,
    "RDMA_PS_UDP": core.PS_UDP,
    "IBV_GID_TYPE_ROCE_V2": core.GID_KINDS.index("RoCE v2"),
}

# Each of the hot structures, filled in by name; the struct.Struct must read the same numbers.
HOT = """
  static struct ibv_send_wr s = {.wr_id = 1, .next = (void *)2, .sg_list = (void *)3, .num_sge = 4,
    .opcode = 5, .send_flags = 6, .imm_data = 7,
    .wr.ud = {.ah = (void *)8, .remote_qpn = 9, .remote_qkey = 10}};
  static struct ibv_recv_wr r = {.wr_id = 1, .next = (void *)2, .sg_list = (void *)3, .num_sge = 4};
  static struct ibv_sge e = {.addr = 1, .length = 2, .lkey = 3};
  static struct ibv_wc w = {.wr_id = 1, .status = 2, .opcode = 3, .vendor_err = 4, .byte_len = 5,
    .imm_data = 6, .qp_num = 7, .src_qp = 8, .wc_flags = 9, .pkey_index = 10, .slid = 11,
    .sl = 12, .dlid_path_bits = 13};
  dump("send", &s, sizeof s); dump("receive", &r, sizeof r); dump("sge", &e, sizeof e);
  dump("wc", &w, sizeof w);
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a C program says of each of these."""
    lacking = None
    if shutil.which("gcc") is None:
        lacking = "gcc is not installed"
    elif not all(
        Path("/usr/include", name).exists() for name in ("infiniband/verbs.h", "rdma/rdma_cma.h")
    ):
        lacking = "rdma-core's headers are not installed (Debian: libibverbs-dev librdmacm-dev)"
    if lacking and os.environ.get("CI") == "true":
        pytest.fail(f"CI must compare with the headers, but {lacking}", pytrace=False)
    if lacking:
        pytest.skip(lacking)
    lines = [f'  say("{name}", sizeof(struct {name}));' for name in STRUCTURES]
    lines += [f'  say("{place}", offsetof({place}));' for place in PLACES]
    lines += [f'  say("{name}", {name});' for name in CONSTANTS]
    directory = tmp_path_factory.mktemp("headers")
    (directory / "said.c").write_text(
        "#include <stddef.h>\n#include <stdio.h>\n"
        "#include <infiniband/verbs.h>\n#include <rdma/rdma_cma.h>\n"
        'static void say(const char *what, long value) { printf("%s=%ld\\n", what, value); }\n'
        "static void dump(const char *what, const unsigned char *at, size_t size) {\n"
        '  printf("%s=", what); while (size--) printf("%02x", *at++); puts(""); }\n'
        "int main(void) {\n" + "\n".join(lines) + HOT + "  return 0;\n}\n"
    )
    program = directory / "said"
    subprocess.run(["gcc", "-w", "-o", program, directory / "said.c"], check=True)
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=") for line in said.splitlines())


def test_structures_have_the_size_that_c_gives_them(compiled: dict[str, str]) -> None:
    ours = {name: ctypes.sizeof(made) for name, made in STRUCTURES.items()}
    assert ours == {name: int(compiled[name]) for name in STRUCTURES}


def test_fields_are_where_c_has_them(compiled: dict[str, str]) -> None:
    ours = {place: getattr(made, field).offset for place, (made, field) in PLACES.items()}
    assert ours == {place: int(compiled[place]) for place in PLACES}


def test_constants_have_the_values_of_the_headers(compiled: dict[str, str]) -> None:
    assert {name: int(compiled[name]) for name in CONSTANTS} == CONSTANTS


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("send", core.SEND_WR),
        ("receive", core.RECEIVE_WR),
        ("sge", core.SGE),
        ("wc", core.WC),
    ],
)
def test_hot_structures_are_read_field_by_field(
    compiled: dict[str, str], name: str, layout: struct.Struct
) -> None:
    content = bytes.fromhex(compiled[name])
    found = layout.unpack_from(content)
    assert found == tuple(range(1, len(found) + 1))
    assert not any(content[layout.size :])
    assert len(content) == (core.SEND_WR_BYTES if name == "send" else layout.size)
