"""What programs may ask of kv: sentences for what is wrong, and bounds for what is right."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.errors import ServiceFailed
from vsync_services.kv.requests import (
    LIST_BYTES_MAX,
    CompareAndSet,
    Get,
    List,
    Set,
    Watch,
    changes_listed,
    listing,
    read_request,
)
from vsync_services.kv.store import Change, Entry


def test_requests_are_read() -> None:
    assert read_request(b'{"op":"get","key":"k"}') == Get(op="get", key="k")
    assert read_request(b'{"op":"set","key":"k","value":"YQ=="}') == Set.model_construct(
        op="set", key="k", value=b"a"
    )
    swap = read_request(b'{"op":"cas","key":"k","value":null,"revision":3}')
    assert isinstance(swap, CompareAndSet)
    assert (swap.value, swap.revision) == (None, 3)
    listed = read_request(b'{"op":"list"}')
    assert isinstance(listed, List)
    assert (listed.prefix, listed.limit) == ("", 1000)
    watch = read_request(b'{"op":"watch","point":"12.1:3"}')
    assert isinstance(watch, Watch)
    assert watch.point == "12.1:3"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\x00", "Invalid JSON"),
        (b"[]", "should be an object"),
        (b"{}", "'op'"),
        (b'{"op":"drop"}', "'drop'"),
        (b'{"op":"get"}', "(get.key): Field required"),
        (b'{"op":"get","key":""}', "at least one character"),
        (b'{"op":"get","key":"k","colour":1}', "Extra inputs are not permitted"),
        (b'{"op":"get","key":7}', "valid string"),
        (b'{"op":"get","key":"%s"}' % (b"k" * 1025), "at most 1024 bytes in UTF-8, not 1025"),
        (b'{"op":"get","key":"\\ud800"}', "JSON"),
        (b'{"op":"set","key":"k","value":"?"}', "base64"),
        (b'{"op":"set","key":"k","value":3}', "base64"),
        (b'{"op":"cas","key":"k","value":"","revision":-1}', "greater than or equal to 0"),
        (b'{"op":"cas","key":"k","value":"","revision":99999999999999999999}', "less than"),
        (b'{"op":"list","limit":0}', "greater than or equal to 1"),
        (b'{"op":"watch","point":"here"}', 'text such as "12.1:345"'),
        (b'{"op":"watch","timeout_s":1e9}', "less than or equal to 60"),
        (b'{"op":"watch","timeout_s":NaN}', ""),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(ServiceFailed) as refused:
        read_request(body)
    text = str(refused.value)
    assert text.startswith("kv does not understand the request")
    assert sentence in text
    assert len(text) < 500


@given(st.binary(max_size=100))
def test_noise_is_refused_and_nothing_worse(noise: bytes) -> None:
    with pytest.raises(ServiceFailed):
        read_request(noise)


@given(st.recursive(st.one_of(st.none(), st.integers(), st.text()), st.lists, max_leaves=5))
def test_a_request_with_odd_values_is_refused_or_read(odd: object) -> None:
    for op in ("get", "set", "delete", "cas", "list", "watch", "status"):
        body = json.dumps({"op": op, "key": odd, "prefix": odd, "value": odd, "revision": odd})
        with pytest.raises(ServiceFailed):
            read_request(body.encode())


def test_a_list_is_in_order_within_its_prefix_and_bounds() -> None:
    entries = {key: Entry(key.encode(), 1) for key in ("b/2", "a/1", "b/10", "b/1", "c")}
    found, more = listing(entries, "b/", "", 2)
    assert ([entry["key"] for entry in found], more) == (["b/1", "b/10"], True)
    found, more = listing(entries, "b/", "b/10", 2)
    assert ([entry["key"] for entry in found], more) == (["b/2"], False)
    assert base64.b64decode(found[0]["value"]) == b"b/2"


def test_an_answer_ends_before_it_is_too_large_but_has_one_entry() -> None:
    large = {str(number): Entry(bytes(LIST_BYTES_MAX), 1) for number in range(3)}
    found, more = listing(large, "", "", 1000)
    assert (len(found), more) == (1, True)
    changes = [Change(number, "k", bytes(LIST_BYTES_MAX // 2)) for number in range(1, 5)]
    told, reached = changes_listed(changes, "")
    assert ([change["revision"] for change in told], reached) == ([1], 1)


def test_changes_of_other_keys_are_passed_over() -> None:
    changes = [Change(1, "a", b"1"), Change(2, "b", b"2"), Change(3, "a", None)]
    told, reached = changes_listed(changes, "a")
    assert [(change["revision"], change["value"]) for change in told] == [(1, "MQ=="), (3, None)]
    assert reached is None
