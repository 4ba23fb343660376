import pytest

from proxy.errors import Rejected
from proxy.model import Reason
from proxy.protocol.xmlrpc.codec import decode_call

HEAD = "<methodCall><methodName>m</methodName>"


def call_of(params: str) -> str:
    """Return a call with `params` as they are."""
    return f"{HEAD}<params>{params}</params></methodCall>"


MEMBER = "<member><name>a</name><value>1</value></member>"
ROWS = [
    # An element of XML-RPC where it has no place: some parser would take it.
    (
        call_of("<param><value>1</value></param>").replace("</params>", "</params><params/>"),
        Reason.AMBIGUOUS_CALL,
        "params is not allowed in methodCall after params",
    ),
    (
        call_of("<param><value>1</value><value>2</value></param>"),
        Reason.AMBIGUOUS_CALL,
        "value is not allowed in param after value",
    ),
    (
        call_of("<param><value><array><data/></array></value><value>2</value></param>"),
        Reason.AMBIGUOUS_CALL,
        "value is not allowed in param after value",
    ),
    (
        call_of("<param><value><struct/></value><name>2</name></param>"),
        Reason.AMBIGUOUS_CALL,
        "name is not allowed in param after value",
    ),
    (call_of("<value>1</value>"), Reason.AMBIGUOUS_CALL, "value is not allowed in params"),
    (call_of("<param><int>1</int></param>"), Reason.AMBIGUOUS_CALL, "int is not allowed in param"),
    (
        call_of("<param><value>a<int>1</int></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "int is not allowed in value after text",
    ),
    (
        call_of("<param><value><int>1</int><int>1</int></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "int is not allowed in value after int",
    ),
    (
        call_of("<param><value><string><int>1</int></string></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "int is not allowed in string",
    ),
    (
        call_of("<param><value><array><data/><data/></array></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "data is not allowed in array after data",
    ),
    (
        call_of("<param><value><array><data></data><data/></array></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "data is not allowed in array after data",
    ),
    (
        call_of("<param><value><array><value>1</value></array></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "value is not allowed in array",
    ),
    (
        call_of("<param><value><array><data><int>1</int></data></array></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "int is not allowed in data",
    ),
    (
        call_of(f"<param><value><struct>{MEMBER}<value>1</value></struct></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "value is not allowed in struct",
    ),
    (
        call_of(
            "<param><value><struct><member><value>1</value><name>a</name></member></struct></value></param>"
        ),
        Reason.AMBIGUOUS_CALL,
        "value is not allowed in member",
    ),
    (
        call_of(
            f"<param><value><struct>{MEMBER.replace('</name>', '</name><name>b</name>')}</struct></value></param>"
        ),
        Reason.AMBIGUOUS_CALL,
        "name is not allowed in member after name",
    ),
    (
        call_of(
            f"<param><value><struct>{MEMBER.replace('</value>', '</value><value/>')}</struct></value></param>"
        ),
        Reason.AMBIGUOUS_CALL,
        "value is not allowed in member after value",
    ),
    (
        call_of(f"<param><value><struct>{MEMBER}{MEMBER}</struct></value></param>"),
        Reason.AMBIGUOUS_CALL,
        "a struct holds a member twice",
    ),
    (
        call_of(
            f"<param><value><struct>{MEMBER}{MEMBER.replace('>a<', '>&#97;<')}</struct></value></param>"
        ),
        Reason.AMBIGUOUS_CALL,
        "a struct holds a member twice",
    ),
    # Whatever else does not fit.
    (call_of("x"), Reason.MALFORMED_CALL, "text is not allowed in params"),
    (
        call_of("<param>x<value>1</value></param>"),
        Reason.MALFORMED_CALL,
        "text is not allowed in param",
    ),
    (
        call_of("<param><value>1</value>x</param>"),
        Reason.MALFORMED_CALL,
        "text is not allowed in param after value",
    ),
    (
        call_of("<param><value><int>1</int>x</value></param>"),
        Reason.MALFORMED_CALL,
        "text is not allowed in value after int",
    ),
    (
        call_of("<param><value><struct>x</struct></value></param>"),
        Reason.MALFORMED_CALL,
        "text is not allowed in struct",
    ),
    (call_of("<param></param>"), Reason.MALFORMED_CALL, "the end of param is not allowed in param"),
    (call_of("<param/>"), Reason.MALFORMED_CALL, "the document does not go on as XML-RPC"),
    (
        call_of("<param><value><array></array></value></param>"),
        Reason.MALFORMED_CALL,
        "the end of array is not allowed in array",
    ),
    (
        call_of("<param><value><array/></value></param>"),
        Reason.MALFORMED_CALL,
        "an array holds one data",
    ),
    (
        call_of("<param><value><struct><member/></struct></value></param>"),
        Reason.MALFORMED_CALL,
        "the document does not go on as XML-RPC",
    ),
    (
        call_of("<param><value><struct><member><name>a</name></member></struct></value></param>"),
        Reason.MALFORMED_CALL,
        "the end of member is not allowed in member after name",
    ),
    (
        call_of("<param><value><float>1</float></value></param>"),
        Reason.MALFORMED_CALL,
        "an unknown tag is not allowed in value",
    ),
    (
        call_of("<param><value><int>1</i4></value></param>"),
        Reason.MALFORMED_CALL,
        "the end of i4 is not allowed in int",
    ),
    (
        call_of("<param><value>1</param></value>"),
        Reason.MALFORMED_CALL,
        "the end of param is not allowed in value after text",
    ),
    (
        call_of('<param><value a="1">1</value></param>'),
        Reason.MALFORMED_CALL,
        "the document does not go on as XML-RPC",
    ),
    (
        call_of("<param><value>1</value ></param>") + "x",
        Reason.MALFORMED_CALL,
        "text is not allowed in document after methodCall",
    ),
    (
        call_of("< param><value>1</value></param>"),
        Reason.MALFORMED_CALL,
        "the document does not go on as XML-RPC",
    ),
    (
        call_of("<param><value>1</value></param>").replace("</methodCall>", ""),
        Reason.MALFORMED_CALL,
        "the document does not go on as XML-RPC",
    ),
    ("", Reason.MALFORMED_CALL, "the document does not go on as XML-RPC"),
    ("<document/>", Reason.MALFORMED_CALL, "an unknown tag is not allowed in document"),
    ("x", Reason.MALFORMED_CALL, "text is not allowed in document"),
    ("<methodCall/>", Reason.MALFORMED_CALL, "the document does not go on as XML-RPC"),
    (
        "<methodCall></methodCall>",
        Reason.MALFORMED_CALL,
        "the end of methodCall is not allowed in methodCall",
    ),
    (
        "<methodCall><params/></methodCall>",
        Reason.AMBIGUOUS_CALL,
        "params is not allowed in methodCall",
    ),
    (
        "<methodcall><methodname>m</methodname></methodcall>",
        Reason.MALFORMED_CALL,
        "an unknown tag is not allowed in document",
    ),
    (
        "<methodResponse><params/></methodResponse>",
        Reason.AMBIGUOUS_CALL,
        "methodResponse is not allowed in document",
    ),
]


@pytest.mark.parametrize(
    ("document", "reason", "what"),
    ROWS,
    ids=[f"{number}: {row[2]}" for number, row in enumerate(ROWS)],
)
def test_what_has_no_place_is_named(document: str, reason: Reason, what: str) -> None:
    """The detail says what stands where it must not, and never what was said there."""
    with pytest.raises(Rejected) as caught:
        decode_call(document.encode())
    assert caught.value.reason is reason
    assert caught.value.detail.endswith(what)
    assert caught.value.detail.isascii()


@pytest.mark.parametrize("level", ["<value><array><data>", "<value><struct><member><name>a</name>"])
def test_nesting_is_refused_at_the_bound_and_not_where_it_ends(level: str) -> None:
    """A hundred thousand levels cost as much as 65: nothing recurses further."""
    with pytest.raises(Rejected) as caught:
        decode_call((HEAD + "<params><param>" + level * 100_000).encode(), max_elements=10**9)
    assert caught.value.reason is Reason.CALL_TOO_COMPLEX


def test_nesting_is_counted_down_again() -> None:
    """Many arrays next to each other are not deep."""
    inner = f"<value><struct>{MEMBER}</struct></value><value><array><data/></array></value><value><struct/></value>"
    body = call_of(f"<param><value><array><data>{inner}</data></array></value></param>" * 100)
    assert decode_call(body.encode(), max_depth=2)[1] == [[{"a": "1"}, [], {}]] * 100


@pytest.mark.parametrize(
    "inner",
    ["<struct/>", "<struct></struct>", "<array><data/></array>", "<array><data></data></array>"],
)
def test_an_empty_struct_or_array_is_a_level_too(inner: str) -> None:
    """A decoded value is never deeper than one that can be encoded."""
    body = call_of(f"<param><value>{inner}</value></param>").encode()
    assert decode_call(body, max_depth=1)[1] in ([{}], [[]])
    with pytest.raises(Rejected) as caught:
        decode_call(body, max_depth=0)
    assert caught.value.reason is Reason.CALL_TOO_COMPLEX
