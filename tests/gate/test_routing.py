from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.loading import load_catalog
from proxy.errors import Rejected
from proxy.gate.routing import Route, Routes, make_route
from proxy.model import Reason, Receipt, UpstreamRequest, UpstreamResponse
from tests.support.paths import ROOT

CATALOGS = ROOT / "policies" / "catalogs"


class NoLeg:
    """A leg that is never used here."""

    def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        raise AssertionError


def route(name: str, prefix: str) -> Route:
    """A route to an upstream called `name`, which is luigid or else a supervisord."""
    catalog = load_catalog(
        CATALOGS / ("luigi.toml" if name.startswith("luigi") else "supervisor.toml")
    )
    return make_route(name, prefix, catalog, NoLeg(), batch_calls=10, body_bytes=1000)


MADE = [
    route("luigi", "/"),
    route("processes", "/processes"),
    route("luigi-b", "/team"),
    route("luigi-c", "/team/c/"),
]
PREFIXED = MADE[1:]


@pytest.mark.parametrize(
    ("path", "name", "rest", "dialect"),
    [
        ("/api/ping", "luigi", "/api/ping", "api"), ("/RPC2", "luigi", "/RPC2", "xmlrpc"), ("/", "luigi", "/", "pages"),
        ("/processes", "processes", "/", "xmlrpc"), ("/processes/RPC2/", "processes", "/RPC2/", "xmlrpc"),
        ("/processes/x", "processes", "/x", None), ("/processesx", "luigi", "/processesx", "pages"),
        ("/team/api/ping", "luigi-b", "/api/ping", "api"), ("/team/c/api/ping", "luigi-c", "/api/ping", "api"),
        ("/team/cx", "luigi-b", "/cx", "pages"), ("/team//c/", "luigi-b", "//c/", "pages"), ("/Team/", "luigi", "/Team/", "pages"),
        ("/%74eam/api/ping", "luigi", "/%74eam/api/ping", "pages"),
    ],
)  # fmt: skip
def test_the_longest_prefix_that_fits_has_the_request(
    path: str, name: str, rest: str, dialect: str | None
) -> None:
    """A prefix ends at a slash, and the path is taken as it was sent; what has been looked for
    before comes out the same.
    """
    routes = Routes(MADE)
    for _ in range(2):
        found, left, speaks = routes.find(path)
        assert (found.name, left) == (name, rest)
        assert speaks is (None if dialect is None else found.dialects[dialect])


def test_a_path_that_no_prefix_fits_is_not_found() -> None:
    """Without a route at the root, whatever lies beside the prefixes is nobody's, the second time
    too.
    """
    routes = Routes(PREFIXED)
    for path in ("/", "/api/ping", "/processe", "/teamx", "") * 2:
        with pytest.raises(Rejected) as caught:
            routes.find(path)
        assert caught.value.reason is Reason.NOT_FOUND


PIECES = st.sampled_from(
    ["/", "team", "c", "processes", "api", "ping", "RPC2", "..", "%2f", "é", "x" * 130]
)


@given(st.lists(st.lists(PIECES, max_size=6).map("".join), max_size=30))
def test_what_is_remembered_is_what_would_be_found(paths: list[str]) -> None:
    """Memory saves time and changes nothing: every path, in any order and again, has the route that
    a fresh look gives it.
    """

    def look(routes: Routes, path: str) -> object:
        try:
            return routes.find(path)
        except Rejected as error:
            return error.reason

    remembering = Routes(PREFIXED)
    for path in [*paths, *paths]:
        assert look(remembering, path) == look(Routes(PREFIXED), path)


def test_memory_is_bounded() -> None:
    """Paths are the callers' to choose, before anybody knows who they are."""
    routes = Routes(MADE)
    for number in range(10_000):
        routes.find(f"/{number}")
        routes.find(f"/{'x' * 200}{number}")
    assert len(routes._known) <= 256
    assert max(map(len, routes._known)) <= 128
    assert routes.find("/api/ping")[0].name == "luigi"
