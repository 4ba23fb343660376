import codecs
import re
from xml.parsers.expat import ExpatError

import pytest
from defusedxml.ElementTree import ParseError
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.model import Reason, Value
from proxy.protocol.xmlrpc.call_templates import TemplateCache
from proxy.protocol.xmlrpc.codec import decode_call
from proxy.protocol.xmlrpc.encodings import settle
from tests.support.xmlrpc import tree_call

ASCII_COMPATIBLE = [
    *("iso-8859-1", "ISO8859-1", "latin1", "Latin-1", "ISO_8859-1", "l1", "cp819", "ISO-8859-1"),
    *("us-ascii", "US-ASCII", "ascii", "ANSI_X3.4-1968", "ISO646-US", "utf-8", "UTF8", "utf_8"),
    *("windows-1252", "cp1252", "CP1251", "Windows-1250", "iso-8859-15", "ISO-8859-2", "latin2"),
    *("iso-8859-9", "latin9", "latin-10", "koi8-r", "KOI8-U", "cp437", "IBM850", "cp866"),
    *("macintosh", "mac-roman", "gb2312", "GBK", "gb18030", "EUC-JP", "euc-kr", "Big5", "TIS-620"),
    *("iso-8859-16", "windows-1258", "windows-874", "x-mac-cyrillic"),
]
OTHERS = [
    *("utf-16", "UTF-16LE", "utf16", "UTF-32", "ucs-2", "ucs-4", "iso-10646-ucs-2", "utf-7"),
    *("UTF7", "unicode-1-1-utf-7", "x-imap4-modified-utf7", "cp037", "ebcdic-cp-us", "ibm500"),
    *("cp1047", "IBM1140", "shift_jis", "sjis", "cp932", "iso-2022-jp", "iso-2022-kr", "hz"),
    *("hz-gb-2312", "iso-8859-12", "iso-8859-17", "unknown", "rot13", "idna", "base64", "none"),
]


def document(text: str, declared: str | None) -> str:
    """Return a call with one text, and the declaration."""
    encoding = "" if declared is None else f' encoding="{declared}"'
    return (
        f"<?xml version='1.0'{encoding}?><methodCall><methodName>m</methodName>"
        f"<params><param><value>{text}</value></param></params></methodCall>"
    )


def refusal(body: bytes, charset: str | None = None) -> Rejected:
    """Return why the document is refused."""
    with pytest.raises(Rejected) as caught:
        decode_call(body, charset=charset)
    return caught.value


@pytest.mark.parametrize("name", ASCII_COMPATIBLE)
@pytest.mark.parametrize("charset", [None, "utf-8", "iso-8859-1", "windows-1252"])
def test_plain_ascii_is_read_under_every_compatible_name(name: str, charset: str | None) -> None:
    """The bytes mean the same, whatever the declaration and the Content-Type name."""
    body = document("a \\ ~ &#233; <![CDATA[<]]>", name).encode()
    expected: tuple[str, list[Value]] = ("m", ["a \\ ~ é <"])
    assert decode_call(body, charset=charset) == expected
    assert decode_call(body, TemplateCache(), charset=name) == expected
    assert decode_call(document("x", None).encode(), charset=name) == ("m", ["x"])


def test_a_name_is_accepted_only_if_its_ascii_bytes_are_ascii() -> None:
    """Of all codecs that Python has for the names in the table, as a second opinion."""
    every = bytes(range(0x20, 0x7F)) + b"\t\n\r"
    known = 0
    for name in ASCII_COMPATIBLE:
        try:
            codec = codecs.lookup(name)
        except LookupError:
            continue
        known += 1
        assert codec.decode(every)[0] == every.decode("ascii"), name
    assert known > 30


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_refused_with_any_bytes(name: str) -> None:
    """ASCII bytes can mean something else under them, or nothing is known of them."""
    for body, charset in (
        (document("x", name).encode(), None),
        (document("x", None).encode(), name),
        (document("x", "utf-8").encode(), name),
        (document("x", name).encode(), "utf-8"),
    ):
        caught = refusal(body, charset)
        assert (caught.reason, caught.detail) == (
            Reason.MALFORMED_CALL,
            f"the encoding {name} is not read; send UTF-8",
        )


@pytest.mark.parametrize(
    ("text", "codec", "declared", "charset"),
    [
        ("é", "latin-1", "iso-8859-1", None),
        ("é", "latin-1", "ISO-8859-1", "iso-8859-1"),
        ("é", "latin-1", "latin1", "ISO_8859-1"),
        # The other reading is none.
        ("é", "latin-1", None, "iso-8859-1"),
        ("é", "latin-1", "iso-8859-1", "utf-8"),
        ("é", "latin-1", "iso-8859-1", "us-ascii"),
        ("é", "latin-1", "us-ascii", "iso-8859-1"),
        ("é", "utf-8", None, None),
        ("é", "utf-8", "utf8", "UTF-8"),
        ("é", "utf-8", "us-ascii", "utf-8"),
        ("".join(map(chr, range(0x80, 0x100))), "latin-1", "iso-8859-1", None),
        ("\u20ac", "utf-8", "utf-8", None),
    ],
)
def test_other_bytes_have_the_one_reading_that_is_named(
    text: str, codec: str, declared: str | None, charset: str | None
) -> None:
    """Latin-1 is decoded exactly, C1 controls included; a name that decodes nothing is no reading."""
    body = document(text, declared).encode(codec)
    assert decode_call(body, charset=charset) == ("m", [text])


@pytest.mark.parametrize(
    ("declared", "charset", "detail"),
    [
        ("iso-8859-1", "utf-8", "the document has two encodings: iso-8859-1 by its declaration"),
        (None, "iso-8859-1", "the document has two encodings: utf-8 by its declaration and"),
        ("utf-8", "latin1", "the document has two encodings: utf-8 by its declaration and latin1"),
    ],
)
def test_bytes_with_two_readings_are_ambiguous(
    declared: str | None, charset: str, detail: str
) -> None:
    """One parser believes the declaration, another the header: each would run another call."""
    caught = refusal(document("é", declared).encode("utf-8"), charset)
    assert (caught.reason, caught.detail[: len(detail)]) == (Reason.AMBIGUOUS_CALL, detail)


@pytest.mark.parametrize(
    ("raw", "declared", "charset"),
    [
        (b"\x80", "windows-1252", None),
        (b"\xe9", "us-ascii", None),
        (b"\xe9", None, None),
        (b"\xe9", "utf8", "utf-8"),
        (b"\xe9", "iso-8859-15", None),
        (b"\xe9", None, "us-ascii"),
        (b"\xe9", "iso-8859-1", "windows-1252"),
        (b"\xc3\xa9", "koi8-r", "utf-8"),
    ],
)
def test_other_bytes_that_no_name_decodes_are_refused(
    raw: bytes, declared: str | None, charset: str | None
) -> None:
    """An encoding that is not decoded here could be a second reading."""
    assert (
        refusal(document("@", declared).encode().replace(b"@", raw), charset).reason
        is Reason.MALFORMED_CALL
    )


def test_the_byte_order_mark_of_utf8_is_a_name_too() -> None:
    """Under another name its three bytes would be text before the document."""
    marked = codecs.BOM_UTF8
    assert decode_call(marked + document("é", "UTF8").encode()) == ("m", ["é"])
    for text, declared, charset in (("x", "latin1", None), ("é", None, "latin1")):
        caught = refusal(marked + document(text, declared).encode(), charset)
        assert caught.reason is Reason.AMBIGUOUS_CALL


@given(
    text=st.text(st.sampled_from("aé\x85\xa0ÿÃ©")),
    declared=st.sampled_from([None, "utf-8", "iso-8859-1", "us-ascii"]),
    codec=st.sampled_from(["utf-8", "latin-1"]),
)
def test_a_parser_that_goes_by_the_declaration_reads_the_same(
    text: str, declared: str | None, codec: str
) -> None:
    """Without a charset, every document that is accepted is the same call to defusedxml's parser.

    And what is refused for its encoding is no document to it.
    """
    body = document(text, declared).encode(codec)
    try:
        call = decode_call(body)
    except Rejected:
        if declared != "us-ascii":  # expat decodes it as UTF-8
            with pytest.raises((ParseError, ExpatError)):
                tree_call(body)
        return
    assert call == tree_call(body)


@given(st.text(st.sampled_from("iso-8859utflatinwdcp12503koibgr_."), max_size=20))
def test_a_name_never_chooses_another_codec_than_the_three(name: str) -> None:
    """Whatever is declared: the text is that of UTF-8 or of Latin-1, or the document is refused."""
    if re.fullmatch(r"[A-Za-z0-9._-]{1,40}", name):
        try:
            assert settle("é".encode(), name, None, marked=False) in ("utf-8", "iso-8859-1")
        except Rejected as caught:
            assert caught.reason is Reason.MALFORMED_CALL
