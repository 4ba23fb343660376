import xmlrpc.client
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected, Unavailable
from proxy.model import Reason, RejectedEntry, Value
from proxy.protocol.xmlrpc.codec import Fault, decode_call, decode_response
from proxy.protocol.xmlrpc.multicall import decode_multicall, encode_multicall_results
from tests.support.xmlrpc import METHODS, VALUES, typed


def entry(method: Value, *params: Value) -> dict[str, Value]:
    """One entry of a batch."""
    return {"methodName": method, "params": [*params]}


@given(
    st.lists(
        st.tuples(
            METHODS.filter(lambda name: name != "system.multicall"), st.lists(VALUES, max_size=2)
        ),
        max_size=5,
    )
)
def test_a_batch_is_its_calls_in_order(calls: list[tuple[str, list[Value]]]) -> None:
    """Every call of a batch comes out as it would have alone."""
    assert typed(
        [
            list(call)  # type: ignore[arg-type]  # none is rejected here, which pytest shows if it is
            for call in decode_multicall([[entry(name, *params) for name, params in calls]])
        ]
    ) == typed([[name, params] for name, params in calls])


def test_the_batch_of_a_stock_client_is_read() -> None:
    """What CPython's MultiCall sends, caught on its way."""
    sent: list[bytes] = []

    class Caught(xmlrpc.client.Transport):
        def request(  # type: ignore[override]  # the stub's types for a transport are wider
            self, host: str, handler: str, request_body: bytes, verbose: bool = False
        ) -> tuple[list[object]]:
            sent.append(request_body)
            return ([[1], [2]],)

    batch = xmlrpc.client.MultiCall(xmlrpc.client.ServerProxy("http://127.0.0.1:9/", Caught()))
    batch.pause("a")
    batch.worker_list()
    assert [*batch()] == [1, 2]  # type: ignore[misc]  # the stub knows no __iter__, only __getitem__
    name, params = decode_call(sent[0])
    assert name == "system.multicall"
    assert decode_multicall(params) == [("pause", ["a"]), ("worker_list", [])]


@pytest.mark.parametrize("params", [[], [[], []], [{}], ["x"], [None], [[], "x"]], ids=repr)
def test_a_batch_is_one_array(params: list[Value]) -> None:
    """Anything else has no calls to decide on."""
    with pytest.raises(Rejected) as caught:
        decode_multicall(params)
    assert caught.value.reason is Reason.MALFORMED_CALL


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ("view", Reason.MALFORMED_CALL),
        (None, Reason.MALFORMED_CALL),
        (["view", []], Reason.MALFORMED_CALL),
        ({}, Reason.MALFORMED_CALL),
        ({"methodName": "view"}, Reason.MALFORMED_CALL),
        ({"params": []}, Reason.MALFORMED_CALL),
        ({"methodName": "view", "params": [], "token": "x"}, Reason.MALFORMED_CALL),
        ({"methodName": "view", "params": {}}, Reason.MALFORMED_CALL),
        ({"methodName": "view", "params": None}, Reason.MALFORMED_CALL),
        ({"methodName": ["view"], "params": []}, Reason.MALFORMED_CALL),
        ({"methodName": " view", "params": []}, Reason.MALFORMED_CALL),
        ({"methodName": "", "params": []}, Reason.MALFORMED_CALL),
        ({"methodName": "view\n", "params": []}, Reason.MALFORMED_CALL),
        (entry("system.multicall", [entry("trigger")]), Reason.CALL_TOO_COMPLEX),
        (entry("system.multicall"), Reason.CALL_TOO_COMPLEX),
    ],
    ids=repr,
)
def test_an_entry_that_is_no_call_is_refused_by_itself(odd: Value, reason: Reason) -> None:
    """Its neighbours are calls as before, and in their places."""
    first, second, third = decode_multicall([[entry("view", 1), odd, entry("trigger", 2)]])
    assert (first, third) == (("view", [1]), ("trigger", [2]))
    assert isinstance(second, RejectedEntry)
    assert second.reason is reason


def test_a_batch_is_bounded() -> None:
    """A hundred calls by default, as many as are asked for otherwise; one more and none of them is
    looked at.
    """
    assert len(decode_multicall([[entry("view")] * 100])) == 100
    assert decode_multicall([[entry("view")] * 2], max_calls=2) == [("view", [])] * 2
    for count, bound in ((101, 100), (3, 2), (1, 0)):
        with pytest.raises(Rejected) as caught:
            decode_multicall([[entry("view")] * count], max_calls=bound)
        assert caught.value.reason is Reason.CALL_TOO_COMPLEX


@given(st.lists(VALUES | st.builds(Fault, st.integers(-(2**31), 2**31 - 1), st.text()), max_size=5))
def test_the_answer_has_an_array_of_one_or_a_fault_for_each_call(
    results: "list[Value | Fault]",
) -> None:
    """A stock MultiCall tells the two apart by their types; it sees the same values, and raises the
    same faults.
    """
    body = encode_multicall_results(results)
    answers = decode_response(body)
    assert isinstance(answers, list)
    assert len(answers) == len(results)
    for answer, result in zip(answers, results, strict=True):
        if isinstance(result, Fault):
            assert isinstance(answer, dict)
            assert answer.keys() == {"faultCode", "faultString"}
            assert answer["faultCode"] == result.code
        else:
            assert typed(answer) == typed([result])
    (read,), _ = xmlrpc.client.loads(body)
    iterator: Any = xmlrpc.client.MultiCallIterator(read)  # type: ignore[arg-type]  # a list, as the test shows
    for place, result in enumerate(results):
        if isinstance(result, Fault):
            with pytest.raises(xmlrpc.client.Fault) as caught:
                iterator[place]
            assert caught.value.faultCode == result.code
        else:
            assert iterator[place] is not iterator


def test_a_result_as_deep_as_may_be_can_be_answered() -> None:
    """An inner answer of 64 levels was fine by itself, so it is in a batch."""
    deep: Value = "x"
    for _ in range(64):
        deep = [deep]
    assert xmlrpc.client.loads(encode_multicall_results([deep]))[0] == ([[deep]],)


def test_a_result_that_xmlrpc_cannot_carry_is_the_upstreams_fault() -> None:
    """Characters may be replaced when asked; numbers never are."""
    with pytest.raises(Unavailable):
        encode_multicall_results(["\x1b"])
    assert decode_response(encode_multicall_results(["\x1b"], lossy=True)) == [["\ufffd"]]
    with pytest.raises(Unavailable) as caught:
        encode_multicall_results([2**64], lossy=True)
    assert caught.value.reason is Reason.UPSTREAM_INVALID
