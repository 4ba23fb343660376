r"""The record format of the audit log: its specification, and the encoders of records.

**A log** is one directory per writing process, ``<audit directory>/<instance>/``. It has segments
``NNNNNNNN.jsonl``, numbered from 00000001, and next to each its signed checkpoints. A segment is
UTF-8 text with one record a line; each line ends with one LF. **A record** is one JSON object. The
bytes of its line without the LF are a leaf of the log's RFC 6962 tree; the leaf's index is the
record's ``seq``.

A line contains no raw control character, C1 control, U+2028 or U+2029; they are written as
``\u…``. Every reader therefore finds the same line ends.

Every record begins with these members, in this order:

| member | value |
|---|---|
| v     | 2 (or 1, see below); all records of a segment have the same |
| seq   | number of the record in its log, from 0, without gaps |
| prev  | first 16 hex digits of the previous record's leaf hash, zeros for seq 0; locates damage |
| time  | UTC, RFC 3339 with six decimals and ``Z``; never earlier than the previous record's |
| stage | kind of the record; a reader skips stages that it does not know |

**decided**: a call was decided. An allowed call was forwarded only after this record was durable; a
denied call has no further record. Members: ``id`` (the request id; ``.0``, ``.1``… appended within
a batch), ``principal`` {issuer, issuer_name, subject, roles, agent}, ``peer`` {address, port, tls,
user_agent, hop (a balancer's address, if one named the client)}, ``upstream``, ``protocol``,
``method``, ``permission`` (view, work, trigger, admin), ``in_catalog`` (only when false), ``task``
(id or family, if the call is about one), ``args`` (see `proxy.audit.redaction.redactor`),
``changed`` (names of arguments that were made harmless for the upstream, only if there are any;
``args`` has what it got), ``decision`` (allow or deny), ``reason``, ``policies`` (ids),
``policy_hash``, ``window`` {seconds, worker} (only when the call opens a heartbeat window).
Denied calls of one principal beyond ``audit.denials_per_minute`` have one record a minute:
``principal`` (missing for all others together), ``decision``, ``policy_hash`` and **summary**.

Members of **summary**: ``count``, ``first`` and ``last`` (times), ``reasons`` {reason: count} and
``calls`` [{upstream, method, permission, reason, address, count}, …], which add up to ``count``. A
member of ``calls`` that is missing has several values. The roles of ``principal`` are those of the
first call.

**completed**: the outcome of an allowed call. Members: ``id``, ``decided_seq`` (``seq`` of its
decided record), ``outcome`` (ok, fault, failed, or unknown when the process ended first),
``reason`` (if failed), ``status`` (HTTP, to the caller), ``bytes`` (of the response's body),
``duration_us``. A heartbeat window has, instead of the last three, ``window`` {calls, first, last,
outcomes {outcome: count}}, which accounts for every call in it.

**rejected**: a request that became no call. Members: ``id``, ``reason``, ``detail``, ``peer``, and
``principal``, ``upstream`` where known. A flood from one address without an identity has one record
with ``summary`` {address (null for all others together), count, seconds, reasons {reason: count}}
for the requests not recorded one by one; one of a principal has a summary as above.

Records about the log itself:

| stage | meaning and members |
|---|---|
| segment  | first record of every segment, from which the log can be read: see below |
| opened   | a process began to write: ``software`` (name and version), ``pid``, ``recovered`` |
| policy   | a policy set is in force: ``hash``, ``files``, ``texts_sha256`` |
| gap      | the log could not be written: ``since``, ``error``, ``refused`` calls; see below |
| clock    | the clock went back: ``behind_us`` |
| idle     | nothing happened for an hour: ``since`` |
| archived | segments were moved: ``log``, ``segments``, ``size``, ``root``, ``to`` |
| closed   | the process ended in order |

Members of **segment**: ``log`` (origin name), ``segment`` (number), ``tree`` {size, root, frontier}
before this record, ``open`` [[seq, id], …] (calls not completed yet), ``policy`` (the members of
the **policy** record in force). Member ``recovered`` of **opened**: null after a clean end, else
{torn_bytes (length of a torn end), unknown (calls that the next records close as unknown)}.

A process that ends before it can write a **gap** leaves its numbers to the next one of the log,
which writes it after **opened** and the ends of open calls. It has ``rejected`` too, if there are
requests that became no call and have no record. ``since`` is empty if it is not known.

Members may be added; none is renamed or changes its meaning without a new ``v``.

**Version 1** has the same members under these names:

| stage | version 1 | version 2 |
|---|---|---|
| decided           | class   | permission |
| decided           | known   | in_catalog |
| decided, rejected | origin  | peer |
| completed         | decided | decided_seq |
| segment           | tree.edge | tree.frontier |
| opened            | recovered.cut | recovered.torn_bytes |
| opened            | software: "callgate" | software: "callgate <version>" |

Its reason ``verb-not-allowed`` is ``method-not-allowed`` today. A writer reads both versions and
writes version 2: it continues a log whose last segment has version 1 in a new segment.
"""

import re
from collections.abc import Mapping
from time import gmtime, strftime
from typing import Final

import orjson

from proxy.audit.redaction.redactor import Json, Redactor
from proxy.common.bounded_cache import BoundedCache
from proxy.model import Call, Decision, Peer, Principal, Reason

VERSION: Final = 2
"""The version of all records that are written."""

VERSIONS: Final = (1, 2)
"""The versions that are read."""

_NAMES_IN_1: Final = {
    "permission": "class",
    "in_catalog": "known",
    "peer": "origin",
    "decided_seq": "decided",
    "frontier": "edge",
    "torn_bytes": "cut",
}
FIRST_PREV: Final = b"0" * 16

# DEL, C1 controls, line and paragraph separators and bidirectional overrides, as UTF-8: valid JSON
# that misleads a reader or a terminal.
_UNSAFE: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xaf]|\xe2\x81[\xa6-\xa9]")

# All other outcomes are reasons of a failure.
_OUTCOMES: Final = {"ok": b'"ok"', "fault": b'"fault"', "unknown": b'"unknown"'}

# Encoded fragments in each cache of `RecordEncoder`: about half a megabyte.
_CACHE_SIZE: Final = 1024


def member_name(name: str, version: object) -> str:
    """Return the name that the member `name` has in records of a version."""
    return _NAMES_IN_1.get(name, name) if version == 1 else name


def encode_record(seq: int, prev: bytes, time: bytes, body: bytes) -> bytes:
    """Return a record without its LF. `body` is the record from ``"stage"`` to its last brace."""
    return b'{"v":2,"seq":%d,"prev":"%b","time":"%b",%b' % (seq, prev, time, body)


def escape_unsafe(text: bytes) -> bytes:
    """Escape the characters of JSON text that a reader may take for a line end or a command."""
    if text.isascii() and b"\x7f" not in text:
        return text
    return _UNSAFE.sub(lambda m: b"\\u%04x" % ord(m[0].decode()), text)


def encode_json(value: object) -> bytes:
    r"""Return JSON for any texts: a lone surrogate becomes the six characters ``\udXXX``."""
    try:
        return escape_unsafe(orjson.dumps(value))
    except orjson.JSONEncodeError:
        return escape_unsafe(orjson.dumps(_encodable(value)))


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_encodable(k): _encodable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(v) for v in value]
    return value


class TimestampEncoder:
    """An encoder of microseconds since 1970 as RFC 3339 text; it formats each second once."""

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


class RecordEncoder:
    """An encoder of the bodies of ``decided`` and ``rejected`` records.

    It caches the fragments of objects that recur: principals, peers and decisions by identity
    (together with the object, so that its id is not reused), call targets by value. Identity works
    because verifier, connection and policy engine return the same object again.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._encode_args = redactor.encode
        self._redact_all = redactor.redact_all
        self._text = redactor.text
        self._fragments: BoundedCache[int, tuple[object, bytes]] = BoundedCache(_CACHE_SIZE)
        self._targets: BoundedCache[tuple[str, str, str, str], bytes] = BoundedCache(_CACHE_SIZE)

    def decided(
        self,
        call_id: str,
        principal: Principal,
        peer: Peer,
        call: Call,
        decision: Decision,
        window: bytes = b"",
    ) -> bytes:
        """Return the body of a ``decided`` record; `window` is an encoded member or nothing."""
        # PERF: fragments cached by identity, without hashing or comparing the objects, save 2.4 us
        # of 4.9 (add_task, 900 B).
        fragments = self._fragments
        cached = fragments.get(id(principal))
        who = (
            cached[1] if cached is not None else self._cache(principal, encode_principal(principal))
        )
        cached = fragments.get(id(peer))
        where = cached[1] if cached is not None else self._cache(peer, encode_peer(peer))
        cached = fragments.get(id(decision))
        why = cached[1] if cached is not None else self._cache(decision, encode_decision(decision))
        target = (
            call.in_catalog
            and self._targets.get((call.upstream, call.protocol, call.method, call.permission))
        ) or self._target(call)
        task = call.task
        about = b"" if task is None else b',"task":' + orjson.dumps(self._text(task))
        args = self.encode_args(call)
        if call.changed:
            args += b',"changed":' + encode_json(list(call.changed))
        # Escaping the joined body once is enough: it leaves fragments that are escaped unchanged.
        body = b'"stage":"decided","id":%b,"principal":%b,"peer":%b,%b%b,"args":%b,%b%b}' % (
            orjson.dumps(call_id), who, where, target, about, args, why, window,
        )  # fmt: skip
        return body if body.isascii() and b"\x7f" not in body else escape_unsafe(body)

    def encode_args(self, call: Call) -> bytes:
        """Return the arguments of a call as its record has them, in JSON."""
        if call.prepared is not None:
            return call.prepared.recorded_args
        if call.in_catalog:
            return self._encode_args(call.args, call.secret_paths)
        return self._redact_all(call.args)

    def rejected(
        self,
        request_id: str,
        reason: Reason,
        detail: str,
        peer: Peer,
        principal: Principal | None,
        upstream: str | None,
    ) -> bytes:
        """Return the body of a ``rejected`` record."""
        rest = b"" if principal is None else b',"principal":' + encode_principal(principal)
        if upstream is not None:
            rest += b',"upstream":' + encode_json(upstream)
        return b'"stage":"rejected","id":%b,"reason":%b,"detail":%b,"peer":%b%b}' % (
            encode_json(request_id),
            encode_json(reason.value),
            encode_json(detail[:512]),
            encode_peer(peer),
            rest,
        )

    def _cache(self, thing: object, fragment: bytes) -> bytes:
        # The copy drops the 4 kB in which orjson wrote.
        fragment = bytes(memoryview(fragment))
        self._fragments.put(id(thing), (thing, fragment))
        return fragment

    def _target(self, call: Call) -> bytes:
        fragment = b'"upstream":%b,"protocol":%b,"method":%b,"permission":%b' % (
            encode_json(call.upstream),
            encode_json(call.protocol),
            encode_json(call.method[:256]),
            encode_json(call.permission),
        )
        if not call.in_catalog:  # the caller chose the name: not worth caching
            return fragment + b',"in_catalog":false'
        self._targets.put((call.upstream, call.protocol, call.method, call.permission), fragment)
        return fragment


def encode_completed(
    call_id: str, decided_seq: int, outcome: str, status: int, sent: int, duration_us: int
) -> bytes:
    """Return the body of a ``completed`` record.

    `outcome` is ok, fault or unknown, or the reason code of a failure.
    """
    how = _OUTCOMES.get(outcome) or b'"failed","reason":' + encode_json(outcome)
    return b'"stage":"completed","id":%b,"decided_seq":%d,"outcome":%b,%b' % (
        _encode_id(call_id),
        decided_seq,
        how,
        b'"status":%d,"bytes":%d,"duration_us":%d}' % (status, sent, duration_us),
    )


def _encode_id(call_id: str) -> bytes:
    """Return a request id as JSON. Ids that Callgate makes are letters and digits."""
    if call_id.isascii() and call_id.isalnum():
        return b'"%b"' % call_id.encode()
    return encode_json(call_id)


def encode_event(stage: str, members: Mapping[str, Json]) -> bytes:
    """Return the body of a record about the log itself, or of a summary."""
    if not members:
        return b'"stage":%b}' % encode_json(stage)
    return b'"stage":%b,%b' % (encode_json(stage), encode_json(members)[1:])


def encode_principal(principal: Principal) -> bytes:
    """Return the ``principal`` member: issuer and subject, and the effective roles."""
    return encode_json(principal_members(principal))


def principal_members(principal: Principal) -> dict[str, Json]:
    """Return the members of ``principal``."""
    roles: list[Json] = [*principal.roles]
    return {
        "issuer": principal.issuer,
        "issuer_name": principal.issuer_name,
        "subject": principal.subject,
        "roles": roles,
        "agent": principal.agent,
    }


def encode_peer(peer: Peer) -> bytes:
    """Return the ``peer`` member."""
    return encode_json(
        {
            "address": peer.address,
            "port": peer.port,
            "tls": peer.tls,
            "user_agent": peer.user_agent[:256],
        }
        | ({} if peer.hop is None else {"hop": peer.hop})
    )


def encode_decision(decision: Decision) -> bytes:
    """Return the members of a decision, without braces."""
    return encode_json(
        {
            "decision": "allow" if decision.allowed else "deny",
            "reason": decision.reason.value,
            "policies": list(decision.policies),
            "policy_hash": decision.policy_hash,
        }
    )[1:-1]
