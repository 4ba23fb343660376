r"""The record format of the audit log, version 1. This docstring is its specification; this module
builds records.

**A log** is one directory per writing process, ``<audit directory>/<instance>/``, with segments
``NNNNNNNN.jsonl`` (numbered from 00000001) and, beside each, its signed checkpoints. A segment is
UTF-8 text, one record a line, each line ended by one LF. **A record** is one JSON object. The bytes
of its line without the LF are a leaf of the log's RFC 6962 tree; the leaf's index is the record's
``seq``.

No control character, U+0085, U+2028, U+2029 or C1 control stands raw in a line (they are written as
``\u…``), so no reader, whatever it takes for a line end, can see two records in one.

Every record begins with these members, in this order:

| member | value |
|---|---|
| v     | 1 |
| seq   | number of the record in its log, from 0, without gaps |
| prev  | first 16 hex digits of the leaf hash of the record before it (zeros for seq 0): locates damage; proof is the tree |
| time  | when it was recorded, UTC, RFC 3339 with six decimals and ``Z``; never earlier than the record before it |
| stage | what it says; a reader skips stages it does not know |

**decided**: a call was decided; for an allowed call nothing was sent on before this record was
durable. ``id`` (the request id; ``.0``, ``.1``… appended within a multicall), ``principal``
{issuer, issuer_name, subject, roles, agent}, ``origin`` {address, port, tls, user_agent},
``upstream``, ``protocol``, ``method``, ``class`` (view, work, trigger, admin), ``known`` (only when
false: not in the catalog), ``task`` (id or family, if the call is about one), ``args`` (see
`proxy.audit.redaction.redactor`), ``decision`` (allow or deny), ``reason``, ``policies`` (ids),
``policy_hash``, ``window`` {seconds, worker} (only when it opens a heartbeat window). A denied call
ends here.

**completed**: what came of an allowed call: ``id``, ``decided`` (seq), ``outcome`` (ok, fault,
failed, or unknown when the process ended before it knew), ``reason`` (if failed), ``status`` (HTTP,
to the caller), ``bytes`` (of the answer's body), ``duration_us``. For a heartbeat window instead of
the last three: ``window`` {calls, first, last, outcomes {outcome: count}}, every call inside
accounted for.

**rejected**: what never became a call: ``id``, ``reason``, ``detail``, ``origin``, and
``principal``, ``upstream`` where known. Or, for a flood, a ``summary`` {address (null for all
others together), count, seconds, reasons {reason: count}} of those not written one by one.

About the log itself: **segment** (the first of every segment: ``log`` origin name, ``segment``
number, ``tree`` {size, root, edge} before this record, ``open`` [[seq, id], …] calls not completed
yet, ``policy`` the members of the **policy** record in force, so that the log can be read from
here), **opened** (a process began to write: ``software``, ``pid``, ``recovered`` {cut: bytes of a
torn end, unknown: calls closed as unknown by the records that follow}), **policy** (a policy set is
in force: ``hash``, ``files``, ``texts_sha256``), **gap** (the log could not be written: ``since``,
``error``, ``refused`` calls), **clock** (the clock went back: ``behind_us``), **idle** (nothing
happened for an hour), **archived** (``log``, ``segments``, ``to``), **closed** (the process ended
in order).

Members may be added; none changes its meaning without a new ``v``.
"""

import re
from collections.abc import Mapping
from time import gmtime, strftime
from typing import Final

import orjson

from proxy.audit.redaction.redactor import Json, Redactor
from proxy.model import Call, Decision, Peer, Principal, Reason, Target

VERSION: Final = 1
FIRST_PREV: Final = b"0" * 16

_UNSAFE = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xaf]|\xe2\x81[\xa6-\xa9]")
"""DEL, C1 controls, line and paragraph separators, and bidirectional overrides, as UTF-8: valid
JSON that can fool a reader.
"""

# all others are reasons of a failure
_OUTCOMES: Final = {"ok": b'"ok"', "fault": b'"fault"', "unknown": b'"unknown"'}
# remembered fragments of each sort, half a megabyte; the whole memory is dropped when it is full
_KEPT = 1024


def line(seq: int, prev: bytes, time: bytes, body: bytes) -> bytes:
    """Return a record without its LF. `body` is the record from ``"stage"`` on, closing brace
    included.
    """
    return b'{"v":1,"seq":%d,"prev":"%b","time":"%b",%b' % (seq, prev, time, body)


def safe(text: bytes) -> bytes:
    """Escape what JSON allows raw and some readers take for a line end or an order to a terminal."""
    if text.isascii() and b"\x7f" not in text:
        return text
    return _UNSAFE.sub(lambda m: b"\\u%04x" % ord(m[0].decode()), text)


def dumps(value: object) -> bytes:
    r"""Return JSON whatever the texts hold: lone surrogates, which UTF-8 has no bytes for, are
    written out as ``\udXXX`` texts.
    """
    try:
        return safe(orjson.dumps(value))
    except orjson.JSONEncodeError:
        return safe(orjson.dumps(_encodable(value)))


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_encodable(k): _encodable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(v) for v in value]
    return value


class Stamps:
    """Writes microseconds since 1970 as RFC 3339 text; the date and second are worked out once a
    second.
    """

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def __call__(self, micros: int) -> bytes:
        """Return ``YYYY-MM-DDTHH:MM:SS.ffffffZ``."""
        second, rest = divmod(micros, 1_000_000)
        if second != self._second:
            self._second = second
            self._prefix = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)).encode()
        return b"%b.%06dZ" % (self._prefix, rest)


class Bodies:
    """Builds record bodies. Fragments of objects that come again (principal, origin, decision) are
    kept encoded.

    They are kept by object identity, with the object, so that neither hashing nor comparing them
    costs anything on the hot path. Measured: 4.6 µs for a decided record of an ``add_task`` of 900
    bytes, of which 3 are its arguments.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._args = redactor.encode
        self._unknown = redactor.redact_all
        self._text = redactor.text
        self._kept: dict[int, tuple[object, bytes]] = {}
        self._targets: dict[tuple[str, str, str, str], bytes] = {}

    def decided(
        self,
        call_id: str,
        principal: Principal,
        origin: Peer,
        call: Call,
        decision: Decision,
        window: bytes = b"",
    ) -> bytes:
        """Return the body of a ``decided`` record; `window` is an encoded member or nothing."""
        kept = self._kept
        found = kept.get(id(principal))
        who = found[1] if found is not None else self._keep(principal, principal_json(principal))
        found = kept.get(id(origin))
        where = found[1] if found is not None else self._keep(origin, origin_json(origin))
        found = kept.get(id(decision))
        why = found[1] if found is not None else self._keep(decision, decision_json(decision))
        target = (
            call.in_catalog
            and call.target is not Target.GATE
            and self._targets.get((call.upstream, call.protocol, call.method, call.permission))
        ) or self._target(call)
        task = call.task
        about = b"" if task is None else b',"task":' + orjson.dumps(self._text(task))
        args = (
            self._args(call.args, call.secret_paths)
            if call.in_catalog
            else self._unknown(call.args)
        )
        # Put together first and made safe once; for the parts that are already, that changes
        # nothing.
        body = b'"stage":"decided","id":%b,"principal":%b,"origin":%b,%b%b,"args":%b,%b%b}' % (
            orjson.dumps(call_id), who, where, target, about, args, why, window,
        )  # fmt: skip
        return body if body.isascii() and b"\x7f" not in body else safe(body)

    def rejected(
        self,
        request_id: str,
        reason: Reason,
        detail: str,
        origin: Peer,
        principal: Principal | None,
        upstream: str | None,
    ) -> bytes:
        """Return the body of a ``rejected`` record."""
        rest = b"" if principal is None else b',"principal":' + principal_json(principal)
        if upstream is not None:
            rest += b',"upstream":' + dumps(upstream)
        return b'"stage":"rejected","id":%b,"reason":%b,"detail":%b,"origin":%b%b}' % (
            dumps(request_id), dumps(reason.value), dumps(detail[:512]), origin_json(origin), rest,
        )  # fmt: skip

    def _keep(self, thing: object, fragment: bytes) -> bytes:
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        # orjson's own bytes keep the 4 kB in which they were written
        fragment = bytes(memoryview(fragment))
        self._kept[id(thing)] = (thing, fragment)
        return fragment

    def _target(self, call: Call) -> bytes:
        protocol = "callgate" if call.target is Target.GATE else call.protocol
        fragment = b'"upstream":%b,"protocol":%b,"method":%b,"class":%b' % (
            dumps(call.upstream), dumps(protocol), dumps(call.method[:256]), dumps(call.permission),
        )  # fmt: skip
        if not call.in_catalog:  # the caller's invention: nothing to remember
            return fragment + b',"known":false'
        if call.target is Target.GATE:
            return fragment
        if len(self._targets) >= _KEPT:
            self._targets.clear()
        self._targets[call.upstream, call.protocol, call.method, call.permission] = fragment
        return fragment


def completed(
    call_id: str, decided: int, outcome: str, status: int, sent: int, duration_us: int
) -> bytes:
    """Return the body of a ``completed`` record. `outcome` is ok, fault or unknown, or the reason
    code of a failure.
    """
    how = _OUTCOMES.get(outcome) or b'"failed","reason":' + dumps(outcome)
    return b'"stage":"completed","id":%b,"decided":%d,"outcome":%b,"status":%d,"bytes":%d,"duration_us":%d}' % (
        _id(call_id), decided, how, status, sent, duration_us,
    )  # fmt: skip


def _id(call_id: str) -> bytes:
    """Return a request id as JSON; the gate's own are letters and digits."""
    return b'"%b"' % call_id.encode() if call_id.isascii() and call_id.isalnum() else dumps(call_id)


def note(stage: str, members: Mapping[str, Json]) -> bytes:
    """Return the body of a record about the log itself, or of a summary."""
    return (
        b'"stage":%b,%b' % (dumps(stage), dumps(members)[1:])
        if members
        else b'"stage":%b}' % dumps(stage)
    )


def principal_json(principal: Principal) -> bytes:
    """Return the ``principal`` member: what identity is (issuer and subject), and the roles that
    counted.
    """
    return dumps(
        {
            "issuer": principal.issuer,
            "issuer_name": principal.issuer_name,
            "subject": principal.subject,
            "roles": list(principal.roles),
            "agent": principal.agent,
        }
    )


def origin_json(origin: Peer) -> bytes:
    """Return the ``origin`` member."""
    return dumps(
        {
            "address": origin.address,
            "port": origin.port,
            "tls": origin.tls,
            "user_agent": origin.user_agent[:256],
        }
    )


def decision_json(decision: Decision) -> bytes:
    """Return the members that say how a call was decided, without braces."""
    return dumps(
        {
            "decision": "allow" if decision.allowed else "deny",
            "reason": decision.reason.value,
            "policies": list(decision.policies),
            "policy_hash": decision.policy_hash,
        }
    )[1:-1]
