r"""What of a call's arguments may stand in the log: secrets become keyed hashes, long values
lengths and hashes.

Arguments are any `Value`. JSON has no bytes, dates, infinities or integers of any size, and lines
must stay short, so some values are written as an object with one reserved set of keys:

| written                             | stands for                                                              |
|-------------------------------------|-------------------------------------------------------------------------|
| ``{"hmac-sha256": hex}``            | a secret: HMAC-SHA256 under the key beside the log (`callgate audit find-secret`) |
| ``{"length": n, "sha256": hex}``    | a value of n bytes (a text in UTF-8, anything else as JSON), over the limit |
| ``{"length": n, "hmac-sha256": hex}`` | a value of n bytes as JSON that has too many parts to look at each, or arguments nobody knows |
| ``{"number": "Infinity"}``          | a float that JSON lacks (``-Infinity``, ``NaN`` too)                     |
| ``{"integer": "1…"}``               | an integer beyond 64 bits                                               |
| ``{"bytes": base64}``               | a byte string                                                           |
| ``{"datetime": "YYYYMMDDTHH:MM:SS"}`` | an XML-RPC date                                                       |
| ``{"escaped": text}``               | a text with lone surrogates, each written as ``\udXXX``                 |
| ``{"object": {…}}``                 | an object of the caller whose keys would read as one of these           |

An argument is a secret when the codec says so (`Call.secret`: catalog, Luigi parameters that are
HIDDEN or PRIVATE) or when a name on the way to it holds one of the words in `SECRET_WORDS`. Names
are split at anything that is no letter or digit and at a capital after a small letter, so
``dbPassword``, ``api_key`` and ``X-Auth-Token`` are secrets, while ``keyboard``, ``tokenizer`` and
``authors`` are not. Too much is withheld rather than too little: a withheld value can still be
tested for. ``null`` and truth values are no secrets. In a list of lists, ``[name, value]`` is
judged by its name like an object's member: that is how luigi's workers send what they say about
themselves.

Nothing says what the arguments of a method outside the catalog mean, so all of them are secrets
(`Withholder.withheld`).
"""

import hmac
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from math import isfinite
from typing import Any, Final, TypeAlias, cast

import orjson

from proxy.audit.redaction.fast_path import RESERVED, FastPath
from proxy.audit.redaction.sizes import count_nodes, joined_texts
from proxy.model import DateTime, Value

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

SECRET_WORDS: Final = frozenset(
    {
        "password", "passwords", "passwd", "passphrase", "passcode", "pass", "pwd", "pw", "pin", "otp",
        "secret", "secrets", "token", "tokens", "key", "keys", "apikey", "accesskey", "privatekey", "secretkey",
        "credential", "credentials", "creds", "auth", "authorization", "bearer", "cookie", "cookies",
    }
)  # fmt: skip
"""Words that make a name a secret's, in lower case and whole."""

_WORDS = re.compile(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+")
_UNKNOWN_LIMIT = 1024  # bytes that the arguments of an unknown method may take in a record
_I64_MIN, _U64_MAX = -(2**63), 2**64 - 1
_FEW = 64  # arguments of a call that are worth looking at one by one when there is too much of them
# names are the caller's to choose, so what is remembered of them is bounded: at this many all go
_NAMES_KEPT = 4096


def is_secret_name(name: str) -> bool:
    """Say whether a value under this name is withheld, by its words alone."""
    return any(word.lower() in SECRET_WORDS for word in _WORDS.findall(name))


def hash_input(value: Value) -> bytes:
    """Return the bytes of a value that its keyed hash is taken over: a text's UTF-8, anything
    else's JSON.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)


def _plain(value: Value) -> Json:
    """Make a value JSON can hold, nothing shortened or withheld."""
    return Redactor(b"", max_text_bytes=2**62)._value(value, (), frozenset())


class Redactor:
    """Makes arguments fit to be recorded. One per journal; holds the HMAC key, which it never gives
    out.
    """

    def __init__(
        self,
        key: bytes,
        *,
        max_text_bytes: int = 1024,
        max_total_bytes: int = 16_384,
        extra_secret_names: Iterable[str] = (),
    ) -> None:
        """Take the key and the limits in bytes: of one text, and of all arguments together.
        `extra_secret_names` are withheld too.
        """
        self._key = key
        self._max_text_bytes = max_text_bytes
        self._max_total_bytes = max_total_bytes
        self._extra = frozenset(extra_secret_names)
        self._known: dict[str, bool] = {}
        self._fast_path = FastPath(self._learn, max_text_bytes)

    def keyed_hash(self, value: Value) -> str:
        """Return the keyed hash of a value in hex."""
        return hmac.digest(self._key, hash_input(value), "sha256").hex()

    def encode(self, args: Mapping[str, Value], secret: tuple[tuple[str, ...], ...] = ()) -> bytes:
        """Return the recorded form of `args` as JSON, bounded: when all is too long, large
        arguments become length and hash.
        """
        text = None if secret else self._fast_path.encode(args)
        return self._looked_through(args, frozenset(secret)) if text is None else text

    def _looked_through(
        self, args: Mapping[str, Value], secret: frozenset[tuple[str, ...]]
    ) -> bytes:
        """Return the recorded form of arguments of which nothing is known."""
        pinned = self._pinned(args, secret)
        shown = self._shown({**args, **dict.fromkeys(pinned)} if pinned else args, secret)
        if not pinned:
            text = orjson.dumps(shown)
            if len(text) <= self._max_total_bytes:
                return text
        shown.update(pinned)
        for name, value in shown.items():
            part = orjson.dumps(value)
            if len(part) > 256:
                shown[name] = {"length": len(part), "sha256": sha256(part).hexdigest()}
        shorter = orjson.dumps(shown)
        if len(shorter) <= self._max_total_bytes:
            return shorter
        text = orjson.dumps(self._shown(args, secret))
        return orjson.dumps({"length": len(text), "sha256": sha256(text).hexdigest()})

    def _shown(
        self, args: Mapping[str, Value], secret: frozenset[tuple[str, ...]]
    ) -> dict[str, Json]:
        """Return what may be shown of `args`, however long that is; where they have too many parts,
        of those that have few.
        """
        # a part takes two bytes at least: what has more of them cannot be recorded whole
        room = self._max_total_bytes // 2
        if count_nodes(args, room) <= room:
            return self._members(args, (), secret)
        few = (
            {
                name: value
                for name, value in args.items()
                if count_nodes(value, room // 64) <= room // 64
            }
            if len(args) <= _FEW
            else {}
        )
        if not few:
            return self._opaque(args)
        shown = self._members(few, (), secret)
        return shown | {
            _name(name): self._opaque(value) for name, value in args.items() if name not in few
        }

    def _pinned(
        self, args: Mapping[str, Value], secret: frozenset[tuple[str, ...]]
    ) -> dict[str, Json]:
        """Return the digests of arguments that fill more than a record each and are lists of short
        texts, as in ``add_task``.

        They are known to end as digests, with whatever else is long, so they are written and hashed
        once and not looked at again (1,000 texts of 100 bytes: 130 µs, of which the hash is 58).
        """
        pinned: dict[str, Json] = {}
        if len(args) > _FEW:
            return pinned
        for name, value in args.items():
            if type(value) is not list or len(value) < self._max_total_bytes // (
                self._max_text_bytes + 8
            ):
                continue
            # a name that is known has no other spelling in a record
            if (name,) in secret or self._known.get(name, True):
                continue
            joined = joined_texts(value)
            if (
                joined is not None
                and len(joined) + 3 * len(value) > self._max_total_bytes
                and self._are_short(value, joined)
            ):
                data = orjson.dumps(value)
                pinned[name] = {"length": len(data), "sha256": sha256(data).hexdigest()}
        return pinned

    def redact_all(self, args: Mapping[str, Value]) -> bytes:
        """Return the arguments of a method that no catalog describes, as JSON of at most 1 KiB:
        keyed hashes alone.
        """
        if (
            len(args) <= 16
            and all(len(name) <= 64 for name in args)
            and count_nodes(args, 256) <= 256
        ):
            text = orjson.dumps(
                {
                    _name(name): self._member(value, withheld=True, path=(), secret=frozenset())
                    for name, value in args.items()
                }
            )
            if len(text) <= _UNKNOWN_LIMIT:
                return text
        return orjson.dumps(self._opaque(args))

    def _opaque(self, value: object) -> dict[str, Json]:
        """Return what stands for a value of many parts. The hash is keyed, since there may be
        secrets among the parts.
        """
        data = _raw(value)
        return {"length": len(data), "hmac-sha256": hmac.digest(self._key, data, "sha256").hex()}

    def text(self, value: str) -> Json:
        """Return one text as it may stand in a record."""
        if len(value) * 4 > self._max_text_bytes or not value.isascii():
            try:
                data = value.encode()
            except UnicodeEncodeError:
                return {
                    "escaped": value[: self._max_text_bytes]
                    .encode("utf-8", "backslashreplace")
                    .decode()
                }
            if len(data) > self._max_text_bytes:
                return {"length": len(data), "sha256": sha256(data).hexdigest()}
        return value

    def _members(
        self, args: Mapping[str, Value], path: tuple[str, ...], secret: frozenset[tuple[str, ...]]
    ) -> dict[str, Json]:
        """Return an object's members as they may be recorded. Hot: the usual text or number under a
        known name takes no call.
        """
        known, short = self._known, self._max_text_bytes // 4
        shown: dict[str, Json] = {}
        for name, value in args.items():
            withheld = known.get(name)
            if withheld is None:
                withheld = self._learn(name)
                if name not in known:
                    shown[_name(name)] = self._member(value, withheld, (*path, name), secret)
                    continue
            if withheld or secret:
                shown[name] = self._member(value, withheld, (*path, name), secret)
            elif (type(value) is str and len(value) <= short and value.isascii()) or (
                type(value) is int and 0 <= value <= _U64_MAX
            ):
                shown[name] = value
            else:
                shown[name] = self._value(value, (*path, name), secret)
        return shown

    def _learn(self, name: str) -> bool:
        withheld = self._names(name)
        if len(name) <= 64 and name.isascii():
            if len(self._known) >= _NAMES_KEPT:
                self._known.clear()
            self._known[name] = withheld
        return withheld

    def _names(self, name: str) -> bool:
        return name in self._extra or len(name) > 1024 or is_secret_name(name)

    def _member(
        self,
        value: Value,
        withheld: bool,
        path: tuple[str, ...],
        secret: frozenset[tuple[str, ...]],
    ) -> Json:
        if value is None or value is True or value is False:
            return value
        # luigi's flags say who may see a parameter, not what it is
        if path[:1] == ("param_visibilities",) and value in (0, 1, 2):
            return value
        return (
            {"hmac-sha256": self.keyed_hash(value)}
            if withheld or path in secret
            else self._value(value, path, secret)
        )

    def _value(
        self, value: Value, path: tuple[str, ...], secret: frozenset[tuple[str, ...]]
    ) -> Json:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            shown = self._members(value, path, secret)
            return (
                {"object": shown} if len(shown) <= 2 and not RESERVED.isdisjoint(shown) else shown
            )
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
            return (
                value
                if isfinite(value)
                else {
                    "number": "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
                }
            )
        if isinstance(value, bytes):
            if len(value) > self._max_text_bytes:
                return {"length": len(value), "sha256": sha256(value).hexdigest()}
            return {"bytes": b64encode(value).decode()}
        if isinstance(value, DateTime):
            return {"datetime": value.text}
        return self.text(str(value))

    def _item(self, item: Value, path: tuple[str, ...], secret: frozenset[tuple[str, ...]]) -> Json:
        """Return an item of a list; ``[name, value]`` is a member by another spelling."""
        if isinstance(item, list) and len(item) == 2 and isinstance(name := item[0], str):
            withheld = self._known.get(name)  # not learnt: what stands here is seldom a name
            return [
                self.text(name),
                self._member(
                    item[1],
                    self._names(name) if withheld is None else withheld,
                    (*path, name),
                    secret,
                ),
            ]
        return self._value(item, path, secret)

    def _are_short(self, texts: list[Any], joined: str) -> bool:
        """Say whether `texts` are short ASCII each, looking at all of them at once: an ``add_task``
        can name thousands.
        """
        return joined.isascii() and (
            len(joined) * 4 <= self._max_text_bytes
            or max(map(len, texts)) * 4 <= self._max_text_bytes
        )

    def _integer(self, value: int) -> Json:
        if value.bit_length() > 4096:  # decimal conversion is quadratic; nobody reads 1,234 digits
            data = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
            return {"length": len(data), "sha256": sha256(data).hexdigest()}
        # mypyc 2.4 leaks what str() makes of an integer of 63 bits or more
        return {"integer": format(value, "d")}


def _raw(value: object) -> bytes:
    """Return a value as JSON, quickly however large it is."""
    try:
        return orjson.dumps(value, default=_odd, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer beyond 64 bits
        pass
    try:
        return json.dumps(value, default=_odd, separators=(",", ":")).encode()
    except ValueError:  # an integer of more digits than Python writes
        return orjson.dumps(_plain(cast(Value, value)))


def _odd(value: object) -> Json:
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode()}
    return {"datetime": value.text} if isinstance(value, DateTime) else str(type(value).__name__)


def _name(name: str) -> str:
    """Return a key that UTF-8 can hold, cut to 256 characters (longer ones end in a hash, so that
    two stay two).
    """
    if len(name) > 256:
        name = f"{name[:256]}…{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return name
