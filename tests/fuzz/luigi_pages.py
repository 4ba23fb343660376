"""luigid's pages: a path is read once, and the path that is sent on has one reading only.

The input is an HTTP request.
"""

import re
from urllib.parse import unquote, urlsplit

from proxy.catalog.loading import load_catalog
from proxy.model import Call
from proxy.protocol.luigi.pages import LuigiPages
from tests.fuzz.kit import ALICE, POLICIES, parse_http, read, request, typed

PAGES = LuigiPages("luigi", load_catalog(POLICIES / "catalogs" / "luigi.toml"), "", "/team-a")
SENT = re.compile(rb"/(?:(?!\.\.?(?:/|$|\?))[A-Za-z0-9_.@%~-]+/?)*(?:\?data=[A-Za-z0-9_.~%/-]*)?")


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    asked = parse_http(data)
    if asked is None:
        return
    call = read(PAGES.decode, asked, asked.path, ALICE)
    if not isinstance(call, Call) or not call.in_catalog:
        return
    outbound = PAGES.encode(call, ALICE, asked)
    assert SENT.fullmatch(outbound.path), "the path sent on is plain"
    target = outbound.path.decode("ascii")
    parts = urlsplit(target)
    assert ".." not in unquote(parts.path).split("/"), "no part of the path leads up"
    assert "//" not in parts.path, "no part of the path is empty"
    again = read(PAGES.decode, request(outbound.http_method, target, {}, b""), parts.path, ALICE)
    assert isinstance(again, Call), "the encoded request would be accepted"
    assert again.method == call.method, "it is the same page"
    assert typed(dict(again.args)) == typed({**call.args, "path": call.args["path"] or "/"}), (
        "it has the same arguments"
    )
