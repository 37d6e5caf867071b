"""What may be written as a group, a range of seeds, a number of nodes."""

import pytest
import rich_click as click

from vsync.vocabulary import GroupKey
from vsync_cli.parameters import GROUP, NODES, SEEDS, NumberRange, SizeParameter


def test_a_name_is_the_group_of_that_name() -> None:
    assert GROUP.convert("orders", None, None) == GroupKey.from_name("orders")
    assert GROUP.convert("hexagon", None, None) == GroupKey.from_name("hexagon")


def test_hexadecimal_digits_after_a_prefix_are_the_key_itself() -> None:
    assert GROUP.convert("hex:" + "0aF0" * 16, None, None) == GroupKey(b"\x0a\xf0" * 16)


@pytest.mark.parametrize(
    "text", ["", "hex:", "hex:00", "hex:" + "g" * 64, "hex:" + "\N{ARABIC-INDIC DIGIT ZERO}" * 64]
)
def test_what_is_no_group_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        GROUP.convert(text, None, None)


def test_a_range_of_nodes_has_its_end_and_a_range_of_seeds_has_not() -> None:
    assert NODES.convert("3..7", None, None) == range(3, 8)
    assert NODES.convert("5", None, None) == range(5, 6)
    assert SEEDS.convert("0..1000", None, None) == range(1000)
    assert SEEDS.convert("17", None, None) == range(17, 18)


@pytest.mark.parametrize("text", ["", "x", "7..3", "3..", "-1", "1.5", "0", "65", "1..65"])
def test_what_is_no_number_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        NODES.convert(text, None, None)


def test_an_empty_range_of_seeds_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="empty"):
        SEEDS.convert("5..5", None, None)


@pytest.mark.parametrize(
    ("text", "size"), [("28", 28), ("1000", 1000), ("1K", 1024), ("64k", 65536), ("1M", 2**20)]
)
def test_a_size_is_a_number_of_bytes_or_of_k_or_m(text: str, size: int) -> None:
    assert SizeParameter(28).convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "K", "1G", "-1", "1.5K", "27", "0", "1 K"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SizeParameter(28).convert(text, None, None)


@pytest.mark.parametrize("text", ["nan", "inf", "x", "0", "11"])
def test_what_is_no_number_of_a_range_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        NumberRange(1, 10).convert(text, None, None)
