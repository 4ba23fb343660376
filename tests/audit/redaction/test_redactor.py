import hmac
from collections.abc import Mapping
from hashlib import sha256
from math import inf, nan

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audit.redaction.redactor import Json, Redactor, hash_input
from proxy.model import DateTime, Value

KEY = b"k" * 32
W = Redactor(KEY)


def keyed(data: bytes) -> dict[str, str]:
    """Return the recorded form of a secret."""
    return {"hmac-sha256": hmac.digest(KEY, data, "sha256").hex()}


def shown(args: dict[str, Value], *secret: tuple[str, ...]) -> dict[str, object]:
    """Return the recorded form of arguments."""
    found: dict[str, object] = orjson.loads(W.encode(args, secret))
    return found


def test_secrets_are_keyed_at_any_depth() -> None:
    """A secret's name redacts its value in nested objects and lists of objects; the same value has
    the same hash.
    """
    args: dict[str, Value] = {
        "params": {"dbPassword": "hunter2", "list": [{"token": "hunter2"}]},
        "key": {"a": 1},
    }
    assert shown(args) == {
        "params": {"dbPassword": keyed(b"hunter2"), "list": [{"token": keyed(b"hunter2")}]},
        "key": keyed(b'{"a":1}'),
    }
    assert b"hunter2" not in W.encode(args)


def test_named_paths_are_keyed() -> None:
    """Paths that the codec names are redacted, texts, numbers and lists alike, and no others."""
    args: dict[str, Value] = {"params": {"region": "eu", "n": 5, "l": [1]}, "region": "us"}
    assert shown(args, ("params", "region"), ("params", "n"), ("params", "l")) == {
        "params": {"region": keyed(b"eu"), "n": keyed(b"5"), "l": keyed(b"[1]")},
        "region": "us",
    }


def test_null_and_booleans_are_no_secrets() -> None:
    """null, true and false are recorded unchanged, also under a secret's name."""
    assert shown({"password": None, "token": True}) == {"password": None, "token": True}


def test_settings_can_name_more() -> None:
    """A name from the settings redacts exactly that name."""
    assert orjson.loads(Redactor(KEY, extra_secret_names=["ssn"]).encode({"ssn": "1", "SSN": "2"}))[
        "ssn"
    ] == keyed(b"1")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (inf, {"number": "Infinity"}),
        (-inf, {"number": "-Infinity"}),
        (nan, {"number": "NaN"}),
        (2**64, {"integer": "18446744073709551616"}),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (b"\x00\xff", {"bytes": "AP8="}),
        (DateTime("20260101T00:00:00"), {"datetime": "20260101T00:00:00"}),
        ("\ud800x", {"escaped": "\\ud800x"}),
        ({"number": "Infinity"}, {"object": {"number": "Infinity"}}),
        ({"hmac-sha256": "00"}, {"object": {"hmac-sha256": "00"}}),
        ("x" * 1025, {"length": 1025, "sha256": sha256(b"x" * 1025).hexdigest()}),
        ("x" * 1024, "x" * 1024),
        ("é" * 600, {"length": 1200, "sha256": sha256("é".encode() * 600).hexdigest()}),
        (1.5, 1.5),
        (None, None),
        (True, True),
    ],
)
def test_values_json_lacks(value: Value, written: object) -> None:
    """Values without a JSON form, and long ones, have one recorded form each, which no caller's
    object can imitate.
    """
    assert shown({"a": value, "b": [value]}) == {"a": written, "b": [written]}


def test_arguments_are_bounded() -> None:
    """The recorded form of any arguments is small; small arguments stay readable, large ones become
    hashes.
    """
    args: dict[str, Value] = {"task_id": "etl.A", "deps": [f"task-{n}" for n in range(50_000)]}
    text = W.encode(args)
    assert len(text) < 16_384
    assert (
        orjson.loads(text)["task_id"] == "etl.A" and orjson.loads(text)["deps"]["length"] > 500_000
    )
    many: dict[str, Value] = {f"a{n}": "x" * 50 for n in range(10_000)}
    assert set(orjson.loads(W.encode(many))) == {"length", "hmac-sha256"}
    assert set(orjson.loads(W.encode({f"a{n}": "x" * 50 for n in range(1000)}))) == {
        "length",
        "sha256",
    }


def test_huge_names_and_numbers_are_bounded() -> None:
    """A long name or a number of a million digits makes no long record; two long names stay
    distinct.
    """
    args: dict[str, Value] = {"x": {"n" * 5000 + "1": 1, "n" * 5000 + "2": 2}, "big": 10**100_000}
    text = W.encode(args)
    assert len(text) < 2000 and len(orjson.loads(text)["x"]) == 2


def test_pairs_are_judged_by_their_name() -> None:
    """A list of [name, value], the form of a luigi worker's own data, is redacted like an object's
    member.
    """
    args: dict[str, Value] = {
        "info": [["workers", 2], ["api_token", "X"], ["password", ["a"]], ["token", None]],
        "ssn": [["id", "1"]],
    }
    assert shown(args) == {
        "info": [
            ["workers", 2],
            ["api_token", keyed(b"X")],
            ["password", keyed(b'["a"]')],
            ["token", None],
        ],
        "ssn": [["id", "1"]],
    }
    assert shown({"info": [["zone", "X"]]}, ("info", "zone")) == {"info": [["zone", keyed(b"X")]]}
    assert orjson.loads(
        Redactor(KEY, extra_secret_names=["zone"]).encode({"i": [["zone", "X"]]})
    ) == {"i": [["zone", keyed(b"X")]]}
    assert shown({"deps": ["etl.RotateKeys_1", "etl.B_2"]}) == {
        "deps": ["etl.RotateKeys_1", "etl.B_2"]
    }


def test_flags_of_secret_parameters_are_no_secrets() -> None:
    """The visibility of a parameter, 0 to 2 under its name, is recorded unchanged; other values
    under that name are not.
    """
    assert shown({"param_visibilities": {"db_password": 0, "token": 2}}) == {
        "param_visibilities": {"db_password": 0, "token": 2}
    }
    assert shown({"param_visibilities": {"pin": 1234}}) == {
        "param_visibilities": {"pin": keyed(b"1234")}
    }


def test_arguments_outside_the_catalog_are_redacted() -> None:
    """Arguments of methods outside the catalog are keyed hashes, and take 1 KiB at most."""
    found = orjson.loads(
        W.redact_all({"0": "db", "1": "hunter2", "2": {"a": "hunter2"}, "3": None})
    )
    assert found == {
        "0": keyed(b"db"),
        "1": keyed(b"hunter2"),
        "2": keyed(b'{"a":"hunter2"}'),
        "3": None,
    }
    for args in (
        {f"a{n}": "hunter2" for n in range(15)},
        {"hunter2" * 200: 1},
        {"x": ["hunter2"] * 1000},
        {"x": [[["hunter2"]]] * 1000},
    ):
        text = W.redact_all(args)  # type: ignore[arg-type]  # mypy does not see these as Values
        assert len(text) <= 1024 and b"hunter2" not in text


@pytest.mark.parametrize(
    "bulk",
    [
        [[]] * 50_000,
        [{}] * 50_000,
        {f"k{n}": 1 for n in range(50_000)},
        [["password", "hunter2"]] * 20_000,
        {"a": [[1]] * 30_000, "b": "\ud800"},
        {"a": [2**70] * 30_000},
        {"a": [[10**5000]] * 9_000},
        [b"hunter2", DateTime("20260101T00:00:00"), *[[]] * 20_000],
    ],
    ids=["lists", "objects", "names", "pairs", "surrogate", "integer", "digits", "bytes"],
)
def test_a_value_of_many_parts_is_not_inspected(
    bulk: Value, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes one keyed hash; no more parts are inspected than fit into a record; the other
    arguments stay readable.
    """
    inspected = 0
    value_of = Redactor._value

    def counting(self: Redactor, *args: object) -> object:
        nonlocal inspected
        inspected += 1
        return value_of(self, *args)  # type: ignore[arg-type]  # passed on as they came

    inner = bulk.get("a") if isinstance(bulk, dict) else None
    digits = isinstance(inner, list) and inner[0] == [10**5000]
    with monkeypatch.context() as patched:
        patched.setattr(Redactor, "_value", counting)
        text = W.encode({"task_id": "etl.A", "password": "hunter2", "bulk": bulk})
    found = orjson.loads(text)
    assert (
        found["task_id"] == "etl.A"
        and found["password"] == keyed(b"hunter2")
        and set(found["bulk"]) == {"length", "hmac-sha256"}
    )
    assert b"hunter2" not in text and (inspected < 10_000 or digits)
    assert set(orjson.loads(W.encode({"bulk": bulk, **{f"a{n}": 1 for n in range(70)}}))) == {
        "length",
        "hmac-sha256",
    }


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_any_arguments_can_be_recorded(args: dict[str, Value]) -> None:
    """There are no arguments that cannot be recorded."""
    assert isinstance(orjson.loads(W.encode(args)), dict)


class Slow(Redactor):
    """A redactor without its two short cuts: it inspects every value on its own."""

    def encode(self, args: Mapping[str, Value], secret: tuple[tuple[str, ...], ...] = ()) -> bytes:
        return self._slow_path(args, frozenset(secret))

    def _digests_of_long_lists(
        self, args: Mapping[str, Value], secret: frozenset[tuple[str, ...]]
    ) -> dict[str, Json]:
        return {}


NAMES = st.sampled_from(
    [
        "task_id",
        "params",
        "deps",
        "n",
        "password",
        "apiKey",
        "length",
        "sha256",
        "param_visibilities",
        "é",
        "x" * 300,
    ]
)
PLAIN = st.sampled_from(
    [
        None,
        True,
        0,
        7,
        -(2**63),
        2**64,
        1.5,
        inf,
        nan,
        "",
        "etl.A",
        "a\u2028b",
        "é" * 300,
        "x" * 255,
        "x" * 1025,
        "\ud800",
    ]
)
LISTS = st.builds(
    lambda text, count: [text] * count,
    st.sampled_from(["", "etl.A_1", "x" * 256, "x" * 257, "é", "\x00"]),
    st.integers(0, 3000),
)
OBJECTS = st.dictionaries(NAMES | st.text(), PLAIN | LISTS | VALUES, max_size=4)
ARGS = st.dictionaries(
    NAMES | st.text(), PLAIN | LISTS | OBJECTS | st.lists(PLAIN | OBJECTS, max_size=3), max_size=6
)
PATHS = st.sampled_from([(), (("deps",),), (("params", "n"), ("params", "deps"))])


@pytest.mark.interpreted
@given(ARGS, PATHS, st.sampled_from([(1024, 16_384), (64, 512), (1024, 1024)]))
def test_the_fast_path_returns_what_the_slow_path_returns(
    args: dict[str, Value], secret: tuple[tuple[str, ...], ...], limits: tuple[int, int]
) -> None:
    """Both paths return the same bytes, with an empty cache and with a filled one."""
    max_text_bytes, max_total_bytes = limits
    quick = Redactor(
        KEY,
        max_text_bytes=max_text_bytes,
        max_total_bytes=max_total_bytes,
        extra_secret_names=["é"],
    )
    slow = Slow(
        KEY,
        max_text_bytes=max_text_bytes,
        max_total_bytes=max_total_bytes,
        extra_secret_names=["é"],
    )
    assert [quick.encode(args, secret), quick.encode(args, secret)] == [
        slow.encode(args, secret)
    ] * 2


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "deps",
    [
        ["etl.A_1"] * 5000,
        ["x" * 256] * 64,
        ["x" * 257] * 64,
        ["é"] * 9000,
        ['"'] * 9000,
        [*["etl.A_1"] * 5000, 1],
    ],
    ids=["short", "just short", "not so short", "not ASCII", "quotes", "a number"],
)
@pytest.mark.parametrize("name", ["deps", "keys", "x" * 65, "zone"])
def test_long_lists_become_one_digest(deps: list[Value], name: str) -> None:
    """A list of texts that fills more than a record is the digest of its JSON, unless it is a
    secret; so is any other long argument.
    """
    args: dict[str, Value] = {
        "task_id": "etl.A",
        name: deps,
        "params": {"text": "y" * 300},
        "expl": "y" * 200,
    }
    secret = (("zone",),)
    assert W.encode(args, secret) == Slow(KEY).encode(args, secret)
    found = shown(args, *secret)
    redacted = found[name]
    assert isinstance(redacted, dict)
    assert set(redacted) == ({"hmac-sha256"} if name in ("keys", "zone") else {"length", "sha256"})
    assert found["task_id"] == "etl.A"


def test_the_caches_of_names_are_bounded() -> None:
    """Callers choose names: ten thousand of them evict each other and change no result."""
    redactor = Redactor(KEY)
    for number in range(10_000):
        assert redactor.encode({f"a{number}": {f"b{number}": 1}}) == b'{"a%d":{"b%d":1}}' % (
            number,
            number,
        )
    assert len(redactor._secrecy) <= 4096
    assert len(redactor._fast_path._outer) <= 1024 and len(redactor._fast_path._inner) <= 1024
    assert redactor.encode({"password": "hunter2"}) == W.encode({"password": "hunter2"})


def test_the_hash_input_of_a_text_is_its_utf8() -> None:
    """An auditor's typed value has the hash in the record: texts by their UTF-8, numbers as they
    are written.
    """
    assert (hash_input("é"), hash_input(12), hash_input(b"x"), hash_input({"b": 1, "a": inf})) == (
        "é".encode(),
        b"12",
        b"x",
        b'{"a":{"number":"Infinity"},"b":1}',
    )
