r"""What of a call's arguments may stand in the log: secrets become keyed hashes, long values lengths and hashes.

Arguments are any `Value`. JSON has no bytes, dates, infinities or integers of any size, and lines must stay short, so
some values are written as an object with one reserved set of keys:

| written                             | stands for                                                              |
|-------------------------------------|-------------------------------------------------------------------------|
| ``{"hmac-sha256": hex}``            | a secret: HMAC-SHA256 under the key beside the log (`callgate audit match`) |
| ``{"length": n, "sha256": hex}``    | a value of n bytes (a text in UTF-8, anything else as JSON), over the limit |
| ``{"number": "Infinity"}``          | a float that JSON lacks (``-Infinity``, ``NaN`` too)                     |
| ``{"integer": "1…"}``               | an integer beyond 64 bits                                               |
| ``{"bytes": base64}``               | a byte string                                                           |
| ``{"datetime": "YYYYMMDDTHH:MM:SS"}`` | an XML-RPC date                                                       |
| ``{"escaped": text}``               | a text with lone surrogates, each written as ``\udXXX``                 |
| ``{"object": {…}}``                 | an object of the caller whose keys would read as one of these           |

An argument is a secret when the codec says so (`Call.secret`: catalog, Luigi parameters that are HIDDEN or PRIVATE) or
when a name on the way to it holds one of the words in `SECRET_WORDS`. Names are split at anything that is no letter or
digit and at a capital after a small letter, so ``dbPassword``, ``api_key`` and ``X-Auth-Token`` are secrets, while
``keyboard``, ``tokenizer`` and ``authors`` are not. Too much is withheld rather than too little: a withheld value can
still be tested for. ``null`` and truth values are no secrets.
"""

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from math import isfinite
from typing import Final, TypeAlias, cast

import orjson

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

RESERVED: Final = frozenset({"hmac-sha256", "length", "sha256", "number", "integer", "bytes", "datetime", "escaped", "object"})

_WORDS = re.compile(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+")
_I64_MIN, _U64_MAX = -(2**63), 2**64 - 1
_AS_THEY_ARE = frozenset({str, int, bool, type(None)})
_NAMES_KEPT = 4096  # names are the caller's to choose: what is remembered of them is bounded


def names_secret(name: str) -> bool:
    """Say whether a value under this name is withheld, by its words alone."""
    return any(word.lower() in SECRET_WORDS for word in _WORDS.findall(name))


def secret_bytes(value: Value) -> bytes:
    """Return the bytes of a value that its keyed hash is taken over: a text's UTF-8, anything else's JSON."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)


def _plain(value: Value) -> Json:
    """Make a value JSON can hold, nothing shortened or withheld."""
    return Withholder(b"", text_limit=2**62)._value(value, (), frozenset())


class Withholder:
    """Makes arguments fit to be recorded. One per journal; holds the HMAC key, which it never gives out."""

    def __init__(self, key: bytes, *, text_limit: int = 1024, total_limit: int = 16_384, extra_names: Iterable[str] = ()) -> None:
        """Take the key and the limits in bytes: of one text, and of all arguments together. `extra_names` are withheld too."""
        self._key = key
        self._text_limit = text_limit
        self._total_limit = total_limit
        self._extra = frozenset(extra_names)
        self._known: dict[str, bool] = {}
        self._shapes: set[tuple[str, ...]] = set()

    def keyed(self, value: Value) -> str:
        """Return the keyed hash of a value in hex."""
        return hmac.digest(self._key, secret_bytes(value), "sha256").hex()

    def encode(self, args: Mapping[str, Value], secret: tuple[tuple[str, ...], ...] = ()) -> bytes:
        """Return the recorded form of `args` as JSON, bounded: when all is too long, large arguments become length and hash."""
        if not secret and self._harmless(args):
            try:
                text = orjson.dumps(args)
            except orjson.JSONEncodeError:  # a lone surrogate, or an integer beyond 64 bits
                text = b""
            if text and len(text) <= self._text_limit:
                return text
        shown = self._members(args, (), frozenset(secret))
        text = orjson.dumps(shown)
        if len(text) <= self._total_limit:
            return text
        for name, value in shown.items():
            part = orjson.dumps(value)
            if len(part) > 256:
                shown[name] = {"length": len(part), "sha256": sha256(part).hexdigest()}
        shorter = orjson.dumps(shown)
        return shorter if len(shorter) <= self._total_limit else orjson.dumps({"length": len(text), "sha256": sha256(text).hexdigest()})

    def _harmless(self, args: Mapping[str, Value]) -> bool:
        """Say whether `args` can stand as they are, if they are also short: most can, and need no copy then (3 µs instead of 10).

        What a caller's names say is remembered for all names of an object together, since the same ones come again.
        """
        names = tuple(args)
        if names not in self._shapes and not self._learn_shape(names):
            return False
        for value in args.values():
            kind = type(value)
            if kind in _AS_THEY_ARE:
                continue
            if kind is dict:
                if not self._harmless(cast(dict[str, Value], value)) or not RESERVED.isdisjoint(cast(dict[str, Value], value)):
                    return False
            elif kind is not list or not all(type(item) is str for item in cast(list[Value], value)):
                return False
        return True

    def _learn_shape(self, names: tuple[str, ...]) -> bool:
        if any(self._learn(name) or len(name) > 256 for name in names):
            return False
        if len(self._shapes) < _NAMES_KEPT and len(names) <= 32:
            self._shapes.add(names)
        return True

    def text(self, value: str) -> Json:
        """Return one text as it may stand in a record."""
        if len(value) * 4 > self._text_limit or not value.isascii():
            try:
                data = value.encode()
            except UnicodeEncodeError:
                return {"escaped": value[: self._text_limit].encode("utf-8", "backslashreplace").decode()}
            if len(data) > self._text_limit:
                return {"length": len(data), "sha256": sha256(data).hexdigest()}
        return value

    def _members(self, args: Mapping[str, Value], path: tuple[str, ...], secret: frozenset[tuple[str, ...]]) -> dict[str, Json]:
        """Return an object's members as they may be recorded. Hot: the usual text or number under a known name takes no call."""
        known, short = self._known, self._text_limit // 4
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
            elif type(value) is str and len(value) <= short and value.isascii():
                shown[name] = value
            else:
                shown[name] = self._value(value, path, secret)
        return shown

    def _learn(self, name: str) -> bool:
        withheld = name in self._extra or names_secret(name)
        if len(self._known) < _NAMES_KEPT and len(name) <= 64 and name.isascii():
            self._known[name] = withheld
        return withheld

    def _member(self, value: Value, withheld: bool, path: tuple[str, ...], secret: frozenset[tuple[str, ...]]) -> Json:
        if value is None or value is True or value is False:
            return value
        return {"hmac-sha256": self.keyed(value)} if withheld or path in secret else self._value(value, path, secret)

    def _value(self, value: Value, path: tuple[str, ...], secret: frozenset[tuple[str, ...]]) -> Json:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return value if _I64_MIN <= value <= _U64_MAX else self._integer(value)
        if isinstance(value, float):
            return value if isfinite(value) else {"number": "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"}
        if isinstance(value, dict):
            shown = self._members(value, path, secret)
            return {"object": shown} if len(shown) <= 2 and not RESERVED.isdisjoint(shown) else shown
        if isinstance(value, list):
            if self._short_texts(value):
                return cast(Json, value)
            return [self._value(item, path, secret) for item in value]
        if isinstance(value, bytes):
            if len(value) > self._text_limit:
                return {"length": len(value), "sha256": sha256(value).hexdigest()}
            return {"bytes": b64encode(value).decode()}
        if isinstance(value, DateTime):
            return {"datetime": value.text}
        return self.text(str(value))

    def _short_texts(self, value: list[Value]) -> bool:
        """Say whether a list holds short ASCII texts alone, looking at all of them at once: an add_task can name thousands."""
        if not value or set(map(type, value)) != {str}:
            return False
        texts = cast(list[str], value)
        return max(map(len, texts)) * 4 <= self._text_limit and "".join(texts).isascii()

    def _integer(self, value: int) -> Json:
        if value.bit_length() > 4096:  # decimal conversion is quadratic; nobody reads 1,234 digits
            data = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
            return {"length": len(data), "sha256": sha256(data).hexdigest()}
        return {"integer": str(value)}


def _name(name: str) -> str:
    """Return a key that UTF-8 can hold, cut to 256 characters (longer ones end in a hash, so that two stay two)."""
    if len(name) > 256:
        name = f"{name[:256]}…{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return name
