import xmlrpc.client
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.clients import introspection
from proxy.clients.introspection import (
    IntrospectionError,
    MethodDescription,
    Server,
    describe_methods,
    list_methods,
    read_signatures,
    sort_names,
)
from proxy.protocol.xmlrpc.codec import Fault
from tests.support.xmlrpc_servers import jobs_server, raw_server, reply


def at(port: int, **options: Any) -> Server:
    """The server at a port of this machine."""
    return Server(f"http://127.0.0.1:{port}", "/RPC2", **options)


async def refusal(port: int, **options: Any) -> str:
    """What is said of a server that gives no list."""
    with pytest.raises(IntrospectionError) as caught:
        await describe_methods(at(port, **options))
    return str(caught.value)


async def test_a_stock_server_is_described() -> None:
    """CPython's own: names sorted, help texts, no signatures; its ``system.`` methods are left out."""
    with jobs_server() as port:
        listed, methods = await describe_methods(at(port))
        assert await list_methods(at(port)) == listed
    assert listed.names == (
        "count_jobs", "delete_job", "get_state", "list_jobs", "ping", "start_job",
    )  # fmt: skip
    assert [method.name for method in methods] == list(listed.names)
    assert methods[1] == MethodDescription("delete_job", (), "Delete a job.")
    assert all(method.signatures == () for method in methods)


async def test_signatures_are_read_where_the_server_has_them() -> None:
    """As a list of lists, or as supervisord gives its one."""
    signatures = {"start_job": [["boolean", "string"], ["boolean", "string", "int"]]}
    system = {"methodSignature": lambda name: signatures.get(name, ["array", "string"])}
    with jobs_server(system=system) as port:
        _, methods = await describe_methods(at(port))
    by_name = {method.name: method.signatures for method in methods}
    assert by_name["start_job"] == (("boolean", "string"), ("boolean", "string", "int"))
    assert by_name["ping"] == (("array", "string"),)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([["int", "string"]], (("int", "string"),)), (["int"], (("int",),)), ([["int"], ["int"]], (("int",),)),
        ("signatures not supported", ()), ([], ()), ([[]], ()), ([["int", 3]], ()), ([["int"], "x"], ()), ({"a": 1}, ()),
        ([["int", "a b"]], ()), ([["int", 'x"\n']], ()), ([["int"] * 40], ()), ([["int"]] * 20, ()), (None, ()),
        (Fault(1, "no"), ()),
    ],
)  # fmt: skip
def test_a_signature_of_another_form_counts_as_not_said(
    answer: Any, expected: tuple[tuple[str, ...], ...]
) -> None:
    """Servers answer with texts, faults and lists of their own."""
    assert read_signatures(answer) == expected


def test_names_are_sorted_and_odd_ones_kept_apart() -> None:
    """What a catalog cannot have, or would mean as a page; what is no text is dropped."""
    listed = [
        "b",
        "a",
        "a",
        "system.listMethods",
        "page.status",
        "x y",
        'q"',
        "\u202e",
        "",
        7,
        None,
    ]
    found = sort_names(listed)
    assert found.names == ("a", "b")
    assert found.odd == ("", "page.status", 'q"', "x y", "\u202e")
    with pytest.raises(IntrospectionError, match="5001 methods, at most 5000"):
        sort_names([f"m{number}" for number in range(5001)])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_any_value_is_read(value: Any) -> None:
    """Whatever a server answers gives signatures or none, never an error."""
    for signature in read_signatures(value):
        assert all(signature)


async def test_a_credential_is_sent_and_kept_from_the_texts() -> None:
    """As Basic; what is said of a server that refuses it has none of it."""
    seen: list[dict[str, str]] = []
    with raw_server(reply(401, b""), seen) as port:
        text = await refusal(port, basic_auth="gate:hunter2")
    assert seen[0]["authorization"] == "Basic Z2F0ZTpodW50ZXIy"
    assert "requires a credential (status 401)" in text
    assert "hunter2" not in text


FAULT = xmlrpc.client.dumps(xmlrpc.client.Fault(1, "a text of the server"), methodresponse=True)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>login</html>", "is not XML-RPC"), (200, b"", "is not XML-RPC"), (404, b"", "answered status 404"),
        (302, b"", "answered status 302"), (500, b"", "answered status 500"),
        (200, FAULT.replace("text", "\x1b[31m").encode(), "the control character U+001B"),
        (200, FAULT.encode(), "fault 1 to system.listMethods"), (200, b"\xff\xfe", "is not XML-RPC"),
        (200, b"<methodResponse><params><param><value><int>1</int></value></param></params></methodResponse>", "no list of names"),
        (200, b"<!DOCTYPE a [<!ENTITY b 'c'>]><methodResponse/>", "is not XML-RPC"),
        (200, b"<" * 300_000, "is not XML-RPC"),
    ],
)  # fmt: skip
async def test_a_server_that_gives_no_list_is_said_so(status: int, body: bytes, said: str) -> None:
    """One line of our own words; nothing of the server's text is repeated."""
    with raw_server(reply(status, body)) as port:
        text = await refusal(port)
    assert said in text
    assert text.isprintable()
    assert "a text of the server" not in text


async def test_one_unreadable_help_text_is_not_said() -> None:
    """Control characters and faults of one method leave the others described."""

    def help_of(name: str) -> str:
        if name == "start_job":
            raise ValueError
        return "\x1b[31m" if name == "ping" else "Described."

    with jobs_server(system={"methodHelp": help_of}) as port:
        _, methods = await describe_methods(at(port))
    said = {method.name: method.help for method in methods}
    assert (said["ping"], said["start_job"], said["get_state"]) == ("", "", "Described.")


async def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes and in time, however much a server sends, or how little."""
    with raw_server(reply(200, b"x" * (introspection.MAX_BYTES + 1))) as port:
        assert "over 4194304 bytes" in await refusal(port)
    monkeypatch.setattr(introspection, "CALL_SECONDS", 0.2)
    with raw_server(lambda handler: None) as port:
        pass  # closed: nothing listens there
    assert "cannot be reached: no connection" in await refusal(port)


async def test_a_slow_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """All questions together have a limit."""
    monkeypatch.setattr(introspection, "TOTAL_SECONDS", 0.0)
    with jobs_server() as port:
        assert "within 0 seconds" in await refusal(port)


@pytest.mark.interpreted
def test_the_limits_are_those_that_the_documents_state() -> None:
    """A change of them is a change of the guide."""
    assert introspection.MAX_METHODS == 5000
