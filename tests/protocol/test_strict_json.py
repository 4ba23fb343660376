import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.model import Reason
from proxy.protocol.strict_json import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    Escaped,
    encode_arguments,
    parse_arguments,
    parse_strict,
)
from tests.bench.calls import task


class RefusedError(Exception):
    """A refusal by the reference."""


def by_hand(text: bytes) -> Any:
    """Parse as simply as possible: Python's parser, a hook for keys, and a walk over the result."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise RefusedError
        return dict(pairs)

    def escaped(text: str) -> str:
        return text.encode("utf-8", "backslashreplace").decode()

    def walk(value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return escaped(value)
        if not isinstance(value, (dict, list)):
            return value
        if depth > MAX_DEPTH:
            raise RefusedError
        if isinstance(value, list):
            return [walk(item, depth + 1) for item in value]
        return once([(escaped(key), walk(item, depth + 1)) for key, item in value.items()])

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=once)
        if not isinstance(value, dict):
            raise RefusedError
        return walk(value, 1)
    except (ValueError, RecursionError) as error:
        raise RefusedError from error


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal in type and in the order of keys too.

    The order is that of the record.
    """
    return json.dumps(one) == json.dumps(other)


def outcome(parse: Callable[[bytes], Any], text: bytes) -> str:
    """Return what a parser makes of a text: the arguments in order, or the refusal in full."""
    try:
        return json.dumps(parse(text))
    except Rejected as error:
        return f"{error.reason}: {error.detail}"


def agree(text: bytes) -> None:
    """Assert that all readings of `text` agree, and that luigid reads the same once encoded."""
    assert outcome(parse_arguments, text) == outcome(parse_strict, text)
    try:
        expected = by_hand(text)
    except RefusedError:
        with pytest.raises(Rejected):
            parse_arguments(text)
    else:
        args = parse_arguments(text)
        assert same(args, expected)
        assert same(json.loads(encode_arguments(args, {})), expected)
        assert same(
            json.loads(encode_arguments(args, {"worker": "w [a:b]"})),
            {**expected, "worker": "w [a:b]"},
        )


KEYS = ["a", "b", "task_id", "\\u0061", "\\ud800", "é", "\\u00e9", "\\\\", '\\"', ""]
ATOMS = [
    *(
        "1",
        "-1",
        "0",
        "-0",
        "0.0",
        "-0.0",
        "01",
        "1.",
        "1.5",
        "1e3",
        "1E400",
        "-1e999",
        "1e999",
        "0.1",
        "1e16",
        "12345678901234567890",
        "9" * 40,
    ),
    *(
        "9223372036854775807",
        "-9223372036854775809",
        "true",
        "false",
        "null",
        "True",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
    ),
    *(
        '""',
        '"a"',
        '"\\u0000"',
        '"\\ud83d\\ude00"',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"é"',
        '"\\/"',
        '"\t"',
        '"\\x"',
        "'a'",
        "\ufeff1",
        '"\x7f"',
    ),
]


def documents() -> st.SearchStrategy[str]:
    """Generate JSON and near misses: spacing, equal keys in several spellings, odd scalars."""
    space = st.sampled_from(["", " ", "  ", "\n"])
    key = st.sampled_from(KEYS).map(lambda k: f'"{k}"')

    def nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pair = st.tuples(key, st.sampled_from([": ", ":", " :"]), inner).map("".join)
        comma = st.sampled_from([", ", ",", " ,"])
        return st.one_of(
            st.builds(
                lambda items, by: "{" + by.join(items) + "}", st.lists(pair, max_size=4), comma
            ),
            st.builds(
                lambda items, by: "[" + by.join(items) + "]", st.lists(inner, max_size=4), comma
            ),
            st.builds(lambda a, v, b: a + v + b, space, inner, space),
        )

    value = st.recursive(st.sampled_from(ATOMS), nest, max_leaves=12)
    top = st.lists(st.tuples(key, st.just(": "), value).map("".join), max_size=5).map(
        lambda items: "{" + ", ".join(items) + "}"
    )
    return st.one_of(top, top, value)


@given(documents())
@example('{"a": 1, "a": 1}')
@example('{"a": 1, "\\u0061": 2}')
@example('{"a": {"b": 1, "b": 1}}')
@example('{"a": 1e999}')
@example('{"a": -1e999}')
@example('{"a": Infinity}')
@example('{"a": NaN}')
@example('{"a": 18446744073709551616}')
@example('{"a": "\\ud800"}')
@example('{"\\ud800": 1}')
@example('{"a": 1} ')
@example('{"a": "x  y", "b c": [1 , 2]}')
@example('{"a": 1e16, "b": 1e-7, "c": 123456789.0}')
@example('{"a": 1}{"a": 2}')
@example('\ufeff{"a": 1}')
def test_fast_and_strict_parsing_agree_with_the_simple_one(text: str) -> None:
    """Any text gives the same arguments or refusal, and the arguments survive encoding."""
    agree(text.encode("utf-8"))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values))
def test_the_json_of_a_stock_worker_is_read_back(args: dict[str, Any]) -> None:
    """`json.dumps`, as luigi/rpc.py calls it, and ``JSON.stringify`` are read back unchanged."""
    assert same(parse_arguments(json.dumps(args).encode()), args)
    assert same(
        parse_arguments(json.dumps(args, separators=(",", ":"), ensure_ascii=False).encode()), args
    )


@given(st.binary())
def test_any_bytes_are_arguments_or_one_rejection(text: bytes) -> None:
    """No bytes raise anything but `Rejected`."""
    agree(text)


REAL = [
    json.dumps(
        {
            **task(),
            "deps": ["etl.A_1", "etl.B_2"],
            "params": {"name": "x y", "n": "[1.5, 2]", "q": '{"a": "b"}'},
        }
    ),
    json.dumps(
        {**task(), "params": {"name": "M\u00fcller", "smile": "\U0001f600"}, "priority": 1e16}
    ),
    json.dumps(
        {"worker": "w", "task_family": "A", "batched_args": ["x"], "max_batch_size": math.inf}
    ),
    json.dumps(
        {"task_id": "A_1", "status_message": "é", "n": [1, -0.0, 1e-7]},
        separators=(",", ":"),
        ensure_ascii=False,
    ),
]


@pytest.mark.parametrize("text", REAL)
@pytest.mark.parametrize("mangle", ["lost", "twice", "other", "quote", "blank", "swapped"])
def test_real_arguments_with_one_byte_wrong_are_parsed_as_simply(text: str, mangle: str) -> None:
    """Each byte is lost, doubled, one bit off, a quotation mark, a blank, or swapped."""
    whole = text.encode()
    agree(whole)
    for at in range(len(whole)):
        byte = whole[at : at + 1]
        put = {
            "lost": b"",
            "twice": byte * 2,
            "other": bytes([byte[0] ^ 1]),
            "quote": b'"',
            "blank": b" ",
        }.get(mangle)
        mangled = (
            whole[:at]
            + (whole[at + 1 : at + 2] + byte if put is None else put)
            + whole[at + (2 if put is None else 1) :]
        )
        agree(mangled)


@pytest.mark.parametrize("member", ["task_id", "params", "date", "worker"])
def test_two_equal_members_are_found_at_any_depth(member: str) -> None:
    """At the top and below, in any spelling and with any value, the call is ambiguous."""
    text = json.dumps(task())
    for name in (f'"{member}"', f'"\\u{ord(member[0]):04x}{member[1:]}"'):
        for value in ("1", "1e5", "null", '"\\u00e9"', "Infinity"):
            twice = text.replace(f'"{member}": ', f'{name}: {value}, "{member}": ', 1).encode()
            assert (
                outcome(parse_arguments, twice)
                == "ambiguous-call: a JSON object has two equal keys"
            )


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"a": '])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, 500, 5_000, 100_000])
@pytest.mark.parametrize("inner", ["1", '"\\u00e9"', "Infinity"])
def test_nesting_is_bounded_by_every_parser(
    opening: str, closed: bool, depth: int, inner: str
) -> None:
    """One level above the limit is refused, and so is a depth that exhausts a parser's stack."""
    closing = ("]" if opening == "[" else "}") * depth if closed else ""
    text = f'{{"a": {opening * depth}{inner}{closing}}}'.encode()
    if closed and depth < MAX_DEPTH:
        assert parse_arguments(text)
    else:
        with pytest.raises(Rejected) as refused:
            parse_arguments(text)
        assert refused.value.reason in (Reason.CALL_TOO_COMPLEX, Reason.MALFORMED_CALL)


@pytest.mark.parametrize("filling", [" ", "é", "x y"])
@pytest.mark.parametrize("ascii", [True, False])
def test_a_large_text_is_parsed_as_a_small_one(filling: str, ascii: bool) -> None:
    """Above a megabyte the comparison is another one; the result is the same."""
    text = json.dumps({"task_id": "A_1", "expl": filling * 1_200_000, "n": 1.5}, ensure_ascii=ascii)
    agree(text.encode())
    twice = text.replace('"n"', '"task_id": "A_1", "n"').encode()
    assert outcome(parse_arguments, twice) == "ambiguous-call: a JSON object has two equal keys"


def test_many_brackets_are_not_deep() -> None:
    """A long list and brackets within strings are no nesting."""
    args = {"deps": ["[[[{"] * 1000, "more": [[] for _ in range(1000)]}
    assert parse_arguments(json.dumps(args).encode()) == args


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"task_id": "mine", "task_id": "prod"}', Reason.AMBIGUOUS_CALL),
        (b'{"task_id": "mine", "\\u0074ask_id": "prod"}', Reason.AMBIGUOUS_CALL),
        (b'{"params": {"a": 1, "a": 1}}', Reason.AMBIGUOUS_CALL),
        (b'\x01{"task_id": "prod"}', Reason.MALFORMED_CALL),
        (b"", Reason.MALFORMED_CALL),
        (b"null", Reason.MALFORMED_CALL),
        (b"[]", Reason.MALFORMED_CALL),
        (b'{"a": "\xff"}', Reason.MALFORMED_CALL),
        (b'{"a": "\xed\xa0\x80"}', Reason.MALFORMED_CALL),
        (b'{"a": ' + b"9" * 5000 + b"}", Reason.MALFORMED_CALL),
    ],
)
def test_refusals_have_their_reason(text: bytes, reason: Reason) -> None:
    """Two readings are ambiguous, none is malformed; a refusal never repeats what came."""
    with pytest.raises(Rejected) as refused:
        parse_arguments(text)
    assert refused.value.reason is reason
    assert "prod" not in refused.value.detail


def test_infinity_is_a_number_here() -> None:
    """Stock workers send it for every batchable family."""
    assert parse_arguments(b'{"max_batch_size": Infinity}') == {"max_batch_size": math.inf}
    assert parse_arguments(b'{"max_batch_size": 1e999}') == {"max_batch_size": math.inf}


def test_half_a_surrogate_pair_becomes_its_escape() -> None:
    """A worker has one for a byte of a file's name that is not UTF-8; no other reader takes it."""
    args = parse_arguments(rb'{"a": "x\udcff", "b": "\ud83d\ude00", "c": ["\uD800"], "d": 1}')
    assert args == {"a": r"x\udcff", "b": "\U0001f600", "c": [r"\ud800"], "d": 1}
    assert isinstance(args, Escaped)
    assert args.names() == ("a", "c")
    assert json.loads(encode_arguments(args, {})) == args
    assert not isinstance(parse_arguments(rb'{"b": "\ud83d\ude00"}'), Escaped)
    with pytest.raises(Rejected, match="two equal keys"):
        parse_arguments(rb'{"\ud800": 1, "\\ud800": 2}')


def test_elements_are_counted_before_anything_is_read() -> None:
    """Brackets of 16 MB would block the event loop for seconds; the bound needs no parser."""
    with pytest.raises(Rejected) as caught:
        parse_arguments(b'{"a":[' + b"[]," * MAX_ELEMENTS + b"[]]}")
    assert caught.value.reason is Reason.CALL_TOO_COMPLEX
    assert len(parse_arguments(b'{"a":[' + b"1," * (MAX_ELEMENTS - 10) + b"1]}")) == 1
