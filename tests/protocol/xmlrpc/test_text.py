import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.model import Reason
from proxy.protocol.xmlrpc.codec import decode_call
from proxy.protocol.xmlrpc.text import EncodingError, encode, escape, read_text, unescape

CALL = "<methodCall><methodName>m</methodName></methodCall>"


@pytest.mark.parametrize(
    "head",
    [
        "",
        "\ufeff",
        "\r\n\t ",
        '<?xml version="1.0"?>',
        "<?xml version='1.0'?>\n",
        '\ufeff<?xml version="1.0" encoding="UTF-8"?>',
        "<?xml\tversion\n=\r'1.0' encoding = 'utf-8' standalone=\"no\" ?>\r\n",
        '<?xml version="1.0" standalone="yes"?>',
    ],
    ids=ascii,
)
def test_a_valid_beginning_of_a_document(head: str) -> None:
    """White space, one declaration of XML 1.0 in UTF-8, and the byte order mark of .NET clients."""
    assert decode_call((head + CALL).encode()) == ("m", [])


@pytest.mark.parametrize(
    "head",
    [
        *(
            '<?xml version="1.1"?>',
            "<?xml?>",
            '<?xml encoding="utf-8"?>',
        ),
        *(
            '<?xml version="1.0" encoding="utf-16"?>',
            '<?xml version="1.0" encoding="utf-7"?>',
            '<?xml version="1.0" encoding=""?>',
        ),
        *(
            '<?xml version="1.0" standalone="maybe"?>',
            '<?xml version="1.0" a="b"?>',
        ),
        *(
            ' <?xml version="1.0"?>',
            '<?xml version="1.0"?><?xml version="1.0"?>',
            "<?x y?>",
            '<?xml version="1.0"?><?x y?>',
            "\ufeff\ufeff",
        ),
        *(
            "<!-- -->",
            "<!DOCTYPE methodCall>",
            '<!DOCTYPE m SYSTEM "file:///etc/hostname">',
            "<!DOCTYPE m []>",
            "\x00",
            "\u00a0",
            "x",
        ),
    ],
    ids=ascii,
)
def test_an_invalid_beginning_of_a_document(head: str) -> None:
    """Encodings beyond ASCII's, any DOCTYPE, comments and instructions are refused."""
    with pytest.raises(Rejected) as caught:
        decode_call((head + CALL).encode())
    assert caught.value.reason is Reason.MALFORMED_CALL


@pytest.mark.parametrize("odd", ["<!-- -->", "<!DOCTYPE methodCall>", "<!ENTITY x 'y'>"])
def test_a_comment_or_a_doctype_is_named_as_such(odd: str) -> None:
    """The refusal says that the comment is refused, not the call."""
    for document in (odd + CALL, CALL.replace(">m<", f">m{odd}<"), f"<![CDATA[{odd}]]>{odd}"):
        with pytest.raises(Rejected) as caught:
            decode_call(document.encode())
        assert caught.value.detail == "the document holds a comment or a DOCTYPE"


@pytest.mark.parametrize(
    "after", ["<!-- -->", "<?x y?>", "x", "\x00", "&#32;", "<![CDATA[ ]]>", "\ufeff"], ids=ascii
)
def test_only_white_space_may_follow_the_document(after: str) -> None:
    """The next parser might read anything else."""
    assert decode_call((CALL + "\r\n\t ").encode()) == ("m", [])
    with pytest.raises(Rejected) as caught:
        decode_call((CALL + after).encode())
    assert caught.value.reason is Reason.MALFORMED_CALL


@pytest.mark.parametrize(
    "coding",
    ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037", "shift_jis", "iso2022_jp"],
)
def test_another_encoding_is_refused(coding: str) -> None:
    """The same bytes could name another method, even if here the text is the same."""
    body = f'<?xml version="1.0" encoding="{coding}"?>{CALL}'.encode(coding)
    with pytest.raises(Rejected) as caught:
        decode_call(body)
    assert caught.value.reason is Reason.MALFORMED_CALL


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc3",
        b"\xef\xbf\xbe",
        b"\xef\xbf\xbf",
        b"\x00",
        b"\x1b",
        b"\x0c",
    ],
)
def test_bytes_that_are_no_text_of_xml_are_refused(raw: bytes) -> None:
    """Overlong forms, surrogates, numbers beyond Unicode, control characters, non-characters."""
    with pytest.raises(Rejected) as caught:
        read_text(b"<value>" + raw + b"</value>")
    assert caught.value.reason is Reason.MALFORMED_CALL


@pytest.mark.parametrize("length", [1, 900, 7_999, 8_000, 299_999, 300_000])
def test_a_control_character_is_found_at_any_position(length: int) -> None:
    """In documents of every length, since the search depends on it; XML's own ones pass."""
    good = b"\t\n\r ~\x7f"
    text = (good * length)[:length]
    assert read_text(text)[0] == text.decode().replace("\r\n", "\n").replace("\r", "\n")
    for control in set(range(0x20)) - set(good):
        for at in (0, length // 2, length - 1):
            body = text[:at] + bytes([control]) + text[at + 1 :]
            with pytest.raises(Rejected) as caught:
                read_text(body)
            assert caught.value.detail == (
                f"the document holds the control character U+{control:04X} at byte {at}"
            )
            with pytest.raises(EncodingError):
                encode(body.decode())
            assert (
                encode(body.decode(), lossy=True).decode()
                == text[:at].decode() + "\ufffd" + text[at + 1 :].decode()
            )


@given(st.text(st.sampled_from("]>!<[x")))
def test_the_delimiters_of_cdata_and_comments_are_found_at_any_position(text: str) -> None:
    """A search between the first and the last of one character finds what a complete one finds."""
    if "<!" in text or "]]>" in text:
        with pytest.raises(Rejected) as caught:
            read_text(text.encode())
        assert caught.value.reason is Reason.MALFORMED_CALL
    else:
        assert read_text(text.encode()) == (text, 0, True)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "&",
            "&;",
            "&foo;",
            "&amp",
            "&AMP;",
            "&#;",
            "&#x;",
            "&#xg;",
            "&#X41;",
            "&#0;",
            "&#8;",
            "&#x1b;",
            "&#xd800;",
            "&#xdfff;",
            "&#xfffe;",
        ),
        *(
            "&#x110000;",
            "&#9999999;",
            "&#99999999;",
            "&#-1;",
            "&# 65;",
            "&#1114112;",
            "& amp;",
            "&nbsp;",
            "&%x;",
        ),
    ],
)
def test_a_reference_to_anything_that_xml_does_not_predefine_is_refused(text: str) -> None:
    """There are five entities, and no references to characters that XML does not have."""
    with pytest.raises(Rejected) as caught:
        unescape(text)
    assert caught.value.reason is Reason.MALFORMED_CALL


@pytest.mark.parametrize(
    "document",
    [
        *(
            "<val<![CDATA[ue]]>>",
            "<value<![CDATA[ ]]>>",
            "<<![CDATA[value]]>>",
            "<params><![CDATA[ ]]></params>",
        ),
        *(
            "<![CDATA[x",
            "<![CDATA[x]]",
            "<![cdata[x]]>",
            "<! [CDATA[x]]>",
            "]]>",
            "<![CDATA[x]]>]]>",
        ),
    ],
)
def test_a_cdata_section_is_text_and_cannot_join_markup(document: str) -> None:
    """A section becomes text before the grammar is applied; it never completes a tag."""
    with pytest.raises(Rejected) as caught:
        decode_call(f"<methodCall><methodName>m</methodName>{document}</methodCall>".encode())
    assert caught.value.reason is Reason.MALFORMED_CALL


@given(
    st.text(
        st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff")
        | st.sampled_from("\t\n\r")
    )
)
def test_escaped_text_is_read_back(text: str) -> None:
    """Every text that XML can hold, `plain` or not."""
    read, at, plain = read_text(b"x" + encode(escape(text)))  # a document never begins with a text
    assert (at, read if plain else unescape(read)) == (0, "x" + text)


@given(st.text())
def test_lossy_encoding_keeps_the_length(text: str) -> None:
    """One character for each, and only those that XML does not have are replaced."""
    read, _, plain = read_text(b"x" + encode(escape(text), lossy=True))
    meant = (read if plain else unescape(read))[1:]
    assert len(meant) == len(text)
    for before, after in zip(text, meant, strict=True):
        if before != after:
            assert after == "\ufffd"
            with pytest.raises(EncodingError):
                encode(escape(before))
