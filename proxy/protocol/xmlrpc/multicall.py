"""``system.multicall``: many calls in one document, taken apart so that each is decided, recorded
and answered on its own.

It takes one array of structs, each with exactly a `methodName` and its `params`; the answer is an
array with, for each, a one-element array that holds the result, or a fault as a struct (Eric Kidd's
introduction of the extension, 2001).

An entry that is no call is refused by itself, as any other call of the batch may be, and the rest
goes on. What is refused as a whole: a batch that is no such array, and one of more calls than the
bound (batches have been used to try thousands of passwords in one request). A ``system.multicall``
inside a batch is refused: CPython's server would run what is in it.
"""

from collections.abc import Iterable, Sequence

from proxy.errors import Rejected
from proxy.model import Reason, Value
from proxy.protocol.xmlrpc.codec import (
    Fault,
    encode_answer,
    is_method_name,
    write_answer,
    write_fault,
)

MULTICALL = "system.multicall"
# entries in one batch; the largest of a stock client that we know (supervisorctl has none) is far
# below
MAX_CALLS = 100


def decode_multicall(
    params: Sequence[Value], *, max_calls: int = MAX_CALLS
) -> list[tuple[str, list[Value]] | Rejected]:
    """The calls in the `params` of a ``system.multicall``, in order; an entry that is no call
    stands there as its `Rejected`.

    Raises `Rejected`: MALFORMED_CALL when there is no one array to take apart, CALL_TOO_COMPLEX
    when it is too long.
    """
    if len(params) != 1 or not isinstance(entries := params[0], list):
        raise Rejected(Reason.MALFORMED_CALL, "system.multicall takes one array")
    if len(entries) > max_calls:
        raise Rejected(Reason.CALL_TOO_COMPLEX, f"system.multicall takes at most {max_calls} calls")
    return [_entry(entry) for entry in entries]


def _entry(entry: Value) -> tuple[str, list[Value]] | Rejected:
    if not isinstance(entry, dict) or entry.keys() != {"methodName", "params"}:
        return Rejected(
            Reason.MALFORMED_CALL,
            "an entry of system.multicall is a struct of methodName and params alone",
        )
    method, params = entry["methodName"], entry["params"]
    if not isinstance(method, str) or not is_method_name(method) or not isinstance(params, list):
        return Rejected(
            Reason.MALFORMED_CALL,
            "an entry of system.multicall has a method name as methodName and an array as params",
        )
    if method == MULTICALL:
        return Rejected(Reason.CALL_TOO_COMPLEX, "system.multicall inside system.multicall")
    return method, params


def encode_multicall_results(results: "Iterable[Value | Fault]", *, lossy: bool = False) -> bytes:
    """The answer of a batch as a document: `results` in the order of its calls.

    Raises `Unavailable` with UPSTREAM_INVALID for a result that XML-RPC cannot carry. A fault's
    text never raises.
    """
    items = "".join([_result(result) for result in results])
    return encode_answer(f"<value><array><data>{items}</data></array></value>", lossy=lossy)


def _result(result: "Value | Fault") -> str:
    if isinstance(result, Fault):
        return write_fault(result.code, result.text)
    return f"<value><array><data>{write_answer(result)}</data></array></value>"
