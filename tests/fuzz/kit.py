"""Shared by the targets: the stored cases, calls of targets, and values with types written out."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from proxy.errors import Rejected
from proxy.model import Peer, Principal, Request, Value

HERE = Path(__file__).parent
SEEDS = HERE / "seeds"
FOUND = HERE / "found"
POLICIES = HERE.parent.parent / "policies"

TARGETS = (
    "luigi_api",
    "luigi_pages",
    "luigi_fields",
    "xmlrpc_codec",
    "xmlrpc_http",
    "json_to_xml",
    "credential",
    "journal",
    "http_edge",
    "policy_pattern",
    "argument_types",
    "gzip_body",
)

ALICE = Principal("https://idp.example", "idp", "alice", ("admin",))
ORIGIN = Peer("127.0.0.1", 1, "TLSv1.3", "fuzz")

T = TypeVar("T")


def load(target: str) -> Callable[[bytes], None]:
    """Return the function of one target."""
    function: Callable[[bytes], None] = importlib.import_module(f".{target}", __package__).one
    return function


def cases(target: str) -> list[Path]:
    """Return the stored cases of one target: the seeds, and the found ones."""
    return sorted(
        path
        for directory in (SEEDS, FOUND)
        for path in (directory / target).glob("*")
        if not path.name.startswith(".")
    )


def read(function: Callable[..., T], *args: object) -> T | Rejected:
    """Return the value of `function`, or the one refusal that it may raise.

    Every other exception passes through.
    """
    try:
        return function(*args)
    except Rejected as error:
        assert error.detail.isascii(), "a refusal's text is one ASCII line"
        assert error.detail.isprintable(), "a refusal's text is one ASCII line"
        return error


def typed(value: Value) -> object:
    """Return `value` with every type written out.

    Python has ``True == 1 == 1.0`` and ``-0.0 == 0.0``; the wire does not.
    """
    if isinstance(value, dict):
        return ("dict", [(name, typed(item)) for name, item in value.items()])
    if isinstance(value, list):
        return ("list", [typed(item) for item in value])
    if isinstance(value, int):  # repr refuses integers of thousands of digits
        return (type(value).__name__, hex(value))
    return (type(value).__name__, repr(value))


def request(verb: str, target: str, headers: dict[bytes, bytes], body: bytes) -> Request:
    """Return a request as the edge would make it of these parts."""
    path, mark, query = target.partition("?")
    return Request("REF", verb, path, query if mark else None, headers, body, ORIGIN)


def parse_http(data: bytes) -> Request | None:
    """Parse ``VERB target``, then ``name: value`` lines, an empty line, and the body.

    Return None for a request that the edge would refuse.
    """
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    verb, _, target = first.partition(b" ")
    if (
        verb not in (b"GET", b"POST", b"HEAD")
        or not target.startswith(b"/")
        or not all(0x21 <= c <= 0x7E and c != 0x23 for c in target)
    ):
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            return None
        headers[name.strip().lower()] = value.strip()
    return request(verb.decode(), target.decode(), headers, body)
