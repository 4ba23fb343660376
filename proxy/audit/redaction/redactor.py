r"""Redacts the arguments of a call for its record.

Secrets become keyed hashes, long values lengths and hashes.

Arguments are any `Value`. JSON has no bytes, dates, infinities or integers of any size, and lines
must stay short, so some values are recorded as an object with one reserved set of keys:

| recorded                              | value                                                   |
|---------------------------------------|---------------------------------------------------------|
| ``{"hmac-sha256": hex}``              | a secret: HMAC-SHA256 under the key next to the log      |
| ``{"length": n, "sha256": hex}``      | n bytes over the limit (UTF-8 of a text, else JSON)     |
| ``{"length": n, "hmac-sha256": hex}`` | n bytes of JSON that were not inspected                 |
| ``{"number": "Infinity"}``            | a float that JSON lacks (``-Infinity``, ``NaN`` too)    |
| ``{"integer": "1…"}``                 | an integer beyond 64 bits                               |
| ``{"bytes": base64}``                 | a byte string                                           |
| ``{"datetime": "YYYYMMDDTHH:MM:SS"}`` | an XML-RPC date                                         |
| ``{"escaped": text}``                 | a text with lone surrogates, written as ``\udXXX``      |
| ``{"object": {…}}``                   | an object whose own keys would read as one of these     |

A value is not inspected if it has too many parts, or if no catalog describes the method. `callgate
audit find-secret` tests a value against the keyed hashes.

An argument is a secret if the codec names it (`Call.secret_paths`: from the catalog, and Luigi
parameters that are HIDDEN or PRIVATE), or if a name on its path is a secret's
(`proxy.audit.redaction.secret_names`). Redaction errs on the side of too much: a redacted value can
still be tested for. ``null`` and booleans are never secrets. In a list of lists, ``[name, value]``
counts as a member of an object, because luigi's workers send their own data in that form.

A catalog alone gives arguments a meaning, so all arguments of a method outside it are secrets
(`Redactor.redact_all`).
"""

import hmac
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from math import isfinite, isnan
from typing import Any, Final, TypeAlias, cast

import orjson

from proxy.audit.redaction.fast_path import RESERVED, FastPath, count_nodes, joined_texts
from proxy.audit.redaction.secret_names import is_secret_name
from proxy.common.bounded_cache import BoundedCache
from proxy.model import DateTime, Value

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_I64_MIN: Final = -(2**63)
_U64_MAX: Final = 2**64 - 1

# Bytes of JSON that the arguments of a method outside the catalog may take in a record.
_UNDESCRIBED_LIMIT: Final = 1024

# Arguments of one call up to which each is inspected when all together are too large.
_MAX_INSPECTED: Final = 64

# Names whose secrecy is cached. The caller chooses the names.
_CACHE_SIZE: Final = 4096

# Bytes above which an argument becomes length and hash, when all together are too large.
_DIGEST_ABOVE: Final = 256


def hash_input(value: Value) -> bytes:
    """Return the bytes that a value's keyed hash covers: UTF-8 of a text, JSON of anything else."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)


def _plain(value: Value) -> Json:
    """Return a value in its JSON form, neither shortened nor redacted."""
    return Redactor(b"", max_text_bytes=2**62)._value(value, (), frozenset())


class Redactor:
    """A redactor of arguments, one per journal. It holds the HMAC key and does not expose it."""

    def __init__(
        self,
        key: bytes,
        *,
        max_text_bytes: int = 1024,
        max_total_bytes: int = 16_384,
        extra_secret_names: Iterable[str] = (),
    ) -> None:
        """Set the HMAC key, the limits in bytes, and further names of secrets."""
        self._key = key
        self._max_text_bytes = max_text_bytes
        self._max_total_bytes = max_total_bytes
        self._extra = frozenset(extra_secret_names)
        self._secrecy: BoundedCache[str, bool] = BoundedCache(_CACHE_SIZE)
        self._fast_path = FastPath(self._cached_is_secret, max_text_bytes)

    def keyed_hash(self, value: Value) -> str:
        """Return the keyed hash of a value in hex."""
        return hmac.digest(self._key, hash_input(value), "sha256").hex()

    def encode(self, args: Mapping[str, Value], secret: tuple[tuple[str, ...], ...] = ()) -> bytes:
        """Return `args` as JSON for a record. If they are too long, large ones become hashes."""
        text = None if secret else self._fast_path.encode(args)
        return self._slow_path(args, frozenset(secret)) if text is None else text

    def _slow_path(self, args: Mapping[str, Value], secret: frozenset[tuple[str, ...]]) -> bytes:
        """Return any arguments as JSON for a record."""
        digests = self._digests_of_long_lists(args, secret)
        redacted = self._redacted({**args, **dict.fromkeys(digests)} if digests else args, secret)
        if not digests:
            text = orjson.dumps(redacted)
            if len(text) <= self._max_total_bytes:
                return text
        redacted.update(digests)
        for name, value in redacted.items():
            part = orjson.dumps(value)
            if len(part) > _DIGEST_ABOVE:
                redacted[name] = _digest(part)
        shorter = orjson.dumps(redacted)
        if len(shorter) <= self._max_total_bytes:
            return shorter
        return orjson.dumps(_digest(orjson.dumps(self._redacted(args, secret))))

    def _redacted(
        self, args: Mapping[str, Value], secret: frozenset[tuple[str, ...]]
    ) -> dict[str, Json]:
        """Return `args` redacted, of any length.

        If all together have too many parts to inspect, those that have many become keyed hashes.
        """
        # A part takes at least two bytes of JSON: with more parts than this the record is too long.
        limit = self._max_total_bytes // 2
        if count_nodes(args, limit) <= limit:
            return self._members(args, (), secret)
        few = {}
        if len(args) <= _MAX_INSPECTED:
            each = limit // 64
            few = {n: value for n, value in args.items() if count_nodes(value, each) <= each}
        if not few:
            return self._opaque(args)
        return self._members(few, (), secret) | {
            _name(name): self._opaque(value) for name, value in args.items() if name not in few
        }

    def _digests_of_long_lists(
        self, args: Mapping[str, Value], secret: frozenset[tuple[str, ...]]
    ) -> dict[str, Json]:
        """Return the digests of arguments that are lists of short texts longer than a record.

        ``add_task`` has such lists. They end as digests in any case.
        """
        # PERF: encoding and hashing them once, uninspected, takes 130 us, of which the hash is 58
        # (1,000 texts of 100 bytes).
        digests: dict[str, Json] = {}
        if len(args) > _MAX_INSPECTED:
            return digests
        shortest = self._max_total_bytes // (self._max_text_bytes + 8)
        for name, value in args.items():
            if type(value) is not list or len(value) < shortest:
                continue
            # A cached name is recorded unchanged, so it needs no `_name`.
            if (name,) in secret or self._secrecy.get(name, True):
                continue
            joined = joined_texts(value)
            if (
                joined is not None
                and len(joined) + 3 * len(value) > self._max_total_bytes
                and self._are_short(value, joined)
            ):
                digests[name] = _digest(orjson.dumps(value))
        return digests

    def redact_all(self, args: Mapping[str, Value]) -> bytes:
        """Return the arguments of a method outside the catalog: keyed hashes, at most 1 KiB."""
        if (
            len(args) <= 16
            and all(len(name) <= 64 for name in args)
            and count_nodes(args, 256) <= 256
        ):
            text = orjson.dumps(
                {
                    _name(name): self._member(value, is_secret=True, path=(), secret=frozenset())
                    for name, value in args.items()
                }
            )
            if len(text) <= _UNDESCRIBED_LIMIT:
                return text
        return orjson.dumps(self._opaque(args))

    def _opaque(self, value: object) -> dict[str, Json]:
        """Return length and keyed hash of a value that is not inspected: it may hold secrets."""
        data = _raw(value)
        return {"length": len(data), "hmac-sha256": hmac.digest(self._key, data, "sha256").hex()}

    def text(self, value: str) -> Json:
        """Return one text for a record, shortened or escaped if it has to be."""
        if len(value) * 4 > self._max_text_bytes or not value.isascii():
            try:
                data = value.encode()
            except UnicodeEncodeError:
                cut = value[: self._max_text_bytes]
                return {"escaped": cut.encode("utf-8", "backslashreplace").decode()}
            if len(data) > self._max_text_bytes:
                return _digest(data)
        return value

    def _members(
        self, args: Mapping[str, Value], path: tuple[str, ...], secret: frozenset[tuple[str, ...]]
    ) -> dict[str, Json]:
        """Return the members of an object redacted."""
        # Hot: a short text or a number under a cached name takes no further call.
        secrecy: dict[str, bool] = self._secrecy
        short = self._max_text_bytes // 4
        redacted: dict[str, Json] = {}
        for name, value in args.items():
            is_secret = secrecy.get(name)
            if is_secret is None:
                is_secret = self._cached_is_secret(name)
                if name not in secrecy:
                    redacted[_name(name)] = self._member(value, is_secret, (*path, name), secret)
                    continue
            if is_secret or secret:
                redacted[name] = self._member(value, is_secret, (*path, name), secret)
            elif (type(value) is str and len(value) <= short and value.isascii()) or (
                type(value) is int and 0 <= value <= _U64_MAX
            ):
                redacted[name] = value
            else:
                redacted[name] = self._value(value, (*path, name), secret)
        return redacted

    def _cached_is_secret(self, name: str) -> bool:
        is_secret = self._is_secret(name)
        if len(name) <= 64 and name.isascii():
            self._secrecy.put(name, is_secret)
        return is_secret

    def _is_secret(self, name: str) -> bool:
        return name in self._extra or len(name) > 1024 or is_secret_name(name)

    def _member(
        self,
        value: Value,
        is_secret: bool,
        path: tuple[str, ...],
        secret: frozenset[tuple[str, ...]],
    ) -> Json:
        if value is None or value is True or value is False:
            return value
        # Luigi's flags: the visibility of a parameter is no secret, though its name may be.
        if path[:1] == ("param_visibilities",) and value in (0, 1, 2):
            return value
        if is_secret or path in secret:
            return {"hmac-sha256": self.keyed_hash(value)}
        return self._value(value, path, secret)

    def _value(
        self, value: Value, path: tuple[str, ...], secret: frozenset[tuple[str, ...]]
    ) -> Json:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            members = self._members(value, path, secret)
            if len(members) <= 2 and not RESERVED.isdisjoint(members):
                return {"object": members}
            return members
        if isinstance(value, list):
            joined = joined_texts(value)
            if joined is not None and self._are_short(value, joined):
                return cast(Json, value)
            return [self._item(item, path, secret) for item in value]
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return value if _I64_MIN <= value <= _U64_MAX else self._integer(value)
        if isinstance(value, float):
            if isfinite(value):
                return value
            return {"number": "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"}
        if isinstance(value, bytes):
            if len(value) > self._max_text_bytes:
                return _digest(value)
            return {"bytes": b64encode(value).decode()}
        if isinstance(value, DateTime):
            return {"datetime": value.text}
        return self.text(str(value))

    def _item(self, item: Value, path: tuple[str, ...], secret: frozenset[tuple[str, ...]]) -> Json:
        """Return an item of a list redacted; ``[name, value]`` counts as a member of an object."""
        if isinstance(item, list) and len(item) == 2 and isinstance(name := item[0], str):
            is_secret = self._secrecy.get(name)  # not cached: most of these texts are no names
            if is_secret is None:
                is_secret = self._is_secret(name)
            member = self._member(item[1], is_secret, (*path, name), secret)
            return [self.text(name), member]
        return self._value(item, path, secret)

    def _are_short(self, texts: list[Any], joined: str) -> bool:
        """Return whether each of `texts`, given joined too, is short ASCII."""
        return joined.isascii() and (
            len(joined) * 4 <= self._max_text_bytes
            or max(map(len, texts)) * 4 <= self._max_text_bytes
        )

    def _integer(self, value: int) -> Json:
        if value.bit_length() > 4096:  # conversion to decimal is quadratic
            return _digest(value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
        # mypyc 2.4 leaks the result of str() for an integer of 63 bits or more.
        return {"integer": format(value, "d")}


def _digest(data: bytes) -> dict[str, Json]:
    return {"length": len(data), "sha256": sha256(data).hexdigest()}


def _raw(value: object) -> bytes:
    """Return a value as JSON, in linear time."""
    try:
        return orjson.dumps(value, default=_json_default, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer beyond 64 bits
        pass
    try:
        return json.dumps(value, default=_json_default, separators=(",", ":")).encode()
    except ValueError:  # an integer of more digits than Python converts
        return orjson.dumps(_plain(cast(Value, value)))


def _json_default(value: object) -> Json:
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode()}
    return {"datetime": value.text} if isinstance(value, DateTime) else str(type(value).__name__)


def _name(name: str) -> str:
    """Return a name as UTF-8 can hold it, cut to 256 characters and a hash if it is longer."""
    if len(name) > 256:
        name = f"{name[:256]}…{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return name
