"""``system.multicall``: many calls in one document, taken apart.

Each call is decided, recorded and answered by itself. The method takes one array of structs, each
with exactly a `methodName` and its `params`. The answer is an array with one entry for each: a
one-element array that holds the result, or a fault as a struct (Eric Kidd's introduction of the
extension, 2001).

An entry that is no call is rejected by itself, as any other call of the batch may be denied, and
the rest goes on. The complete batch is rejected when it is no such array, or has more calls than
the bound: batches have been used to try thousands of passwords in one request. A
``system.multicall`` inside a batch is rejected too: CPython's server would run its calls.
"""

from collections.abc import Iterable, Sequence

from proxy.errors import Rejected
from proxy.model import Reason, RejectedEntry, Value
from proxy.protocol.xmlrpc.codec import (
    Fault,
    encode_answer,
    is_method_name,
    write_answer,
    write_fault,
)

MULTICALL = "system.multicall"
# Entries of one batch. The largest of a known stock client (supervisorctl has none) is far below.
MAX_CALLS = 100


def decode_multicall(
    params: Sequence[Value], *, max_calls: int = MAX_CALLS
) -> list[tuple[str, list[Value]] | RejectedEntry]:
    """Return the calls in the `params` of a ``system.multicall``, in order.

    An entry that is no call is a `RejectedEntry`. Raises `Rejected`: MALFORMED_CALL when `params`
    is not one array, CALL_TOO_COMPLEX when it is too long.
    """
    if len(params) != 1 or not isinstance(entries := params[0], list):
        raise Rejected(Reason.MALFORMED_CALL, "system.multicall takes one array")
    if len(entries) > max_calls:
        raise Rejected(Reason.CALL_TOO_COMPLEX, f"system.multicall takes at most {max_calls} calls")
    return [_decode_entry(index, entry) for index, entry in enumerate(entries)]


def _decode_entry(index: int, entry: Value) -> tuple[str, list[Value]] | RejectedEntry:
    if not isinstance(entry, dict) or entry.keys() != {"methodName", "params"}:
        return RejectedEntry(
            index,
            Reason.MALFORMED_CALL,
            "an entry of system.multicall must be a struct of methodName and params alone",
        )
    method, params = entry["methodName"], entry["params"]
    if not isinstance(method, str) or not is_method_name(method) or not isinstance(params, list):
        return RejectedEntry(
            index,
            Reason.MALFORMED_CALL,
            "in an entry of system.multicall, methodName must be a method name and params an array",
        )
    if method == MULTICALL:
        return RejectedEntry(
            index, Reason.CALL_TOO_COMPLEX, "system.multicall inside system.multicall"
        )
    return method, params


def encode_multicall_results(results: "Iterable[Value | Fault]", *, lossy: bool = False) -> bytes:
    """Return the answer of a batch as a document: `results` in the order of its calls.

    Raises `Unavailable` (UPSTREAM_INVALID) for a result that XML-RPC cannot carry. A fault's text
    never raises.
    """
    items = "".join([_encode_result(result) for result in results])
    return encode_answer(f"<value><array><data>{items}</data></array></value>", lossy=lossy)


def _encode_result(result: "Value | Fault") -> str:
    if isinstance(result, Fault):
        return write_fault(result.code, result.text)
    return f"<value><array><data>{write_answer(result)}</data></array></value>"
