from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.loading import load_catalog
from proxy.errors import Rejected
from proxy.gate.routing import Endpoint, Route, Router, make_route
from proxy.model import Reason, Receipt, UpstreamRequest, UpstreamResponse
from proxy.protocol.codec_table import CodecOptions
from proxy.protocol.luigi.api import LuigiApi
from proxy.protocol.luigi.pages import LuigiPages
from proxy.protocol.xmlrpc.luigi_bridge import LuigiBridge
from proxy.protocol.xmlrpc.server import XmlRpcServer
from tests.support.paths import ROOT

CATALOGS = ROOT / "policies" / "catalogs"


class NoUpstream:
    """An upstream that is never called here."""

    def forward(self, receipt: Receipt, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        raise AssertionError


def route(name: str, prefix: str) -> Route:
    """A route to an upstream called `name`, which is luigid or else a supervisord."""
    catalog = load_catalog(
        CATALOGS / ("luigi.toml" if name.startswith("luigi") else "supervisor.toml")
    )
    options = CodecOptions(name, catalog, max_batch_calls=10, body_bytes=1000, prefix=prefix)
    return make_route(options, NoUpstream())


MADE = [
    route("luigi", "/"),
    route("processes", "/processes"),
    route("luigi-b", "/team"),
    route("luigi-c", "/team/c/"),
]
PREFIXED = MADE[1:]


@pytest.mark.parametrize(
    ("path", "name", "rest", "codec"),
    [
        ("/api/ping", "luigi", "/api/ping", LuigiApi), ("/RPC2", "luigi", "/RPC2", LuigiBridge), ("/", "luigi", "/", LuigiPages),
        ("/processes", "processes", "/", XmlRpcServer), ("/processes/RPC2/", "processes", "/RPC2/", XmlRpcServer),
        ("/processes/x", "processes", "/x", None), ("/processesx", "luigi", "/processesx", LuigiPages),
        ("/team/api/ping", "luigi-b", "/api/ping", LuigiApi), ("/team/c/api/ping", "luigi-c", "/api/ping", LuigiApi),
        ("/team/cx", "luigi-b", "/cx", LuigiPages), ("/team//c/", "luigi-b", "//c/", LuigiPages), ("/Team/", "luigi", "/Team/", LuigiPages),
        ("/%74eam/api/ping", "luigi", "/%74eam/api/ping", LuigiPages),
    ],
)  # fmt: skip
def test_the_longest_prefix_that_fits_has_the_request(
    path: str, name: str, rest: str, codec: type[object] | None
) -> None:
    """A prefix ends at a slash, and the path is taken as it was sent; what has been looked for
    before comes out the same.
    """
    router = Router(MADE)
    for _ in range(2):
        found = router.resolve(path)
        assert (found.route.name, found.path) == (name, rest)
        assert type(found.codec) is (codec or type(None))


def test_a_path_that_no_prefix_fits_is_not_found() -> None:
    """Without a route at the root, whatever lies beside the prefixes is nobody's, the second time
    too.
    """
    router = Router(PREFIXED)
    for path in ("/", "/api/ping", "/processe", "/teamx", "") * 2:
        with pytest.raises(Rejected) as caught:
            router.resolve(path)
        assert caught.value.reason is Reason.NOT_FOUND


PIECES = st.sampled_from(
    ["/", "team", "c", "processes", "api", "ping", "RPC2", "..", "%2f", "é", "x" * 130]
)


@given(st.lists(st.lists(PIECES, max_size=6).map("".join), max_size=30))
def test_a_cached_endpoint_is_the_one_that_would_be_found(paths: list[str]) -> None:
    """The cache saves time and changes nothing: every path, in any order and again, has the
    endpoint that an empty cache gives it.
    """

    def resolve(router: Router, path: str) -> Endpoint | Reason:
        try:
            return router.resolve(path)
        except Rejected as error:
            return error.reason

    cached = Router(PREFIXED)
    for path in [*paths, *paths]:
        assert resolve(cached, path) == resolve(Router(PREFIXED), path)


def test_the_cache_is_bounded() -> None:
    """Callers choose the paths, before they are identified."""
    router = Router(MADE)
    for number in range(10_000):
        router.resolve(f"/{number}")
        router.resolve(f"/{'x' * 200}{number}")
    assert len(router.cached_paths) <= 256
    assert max(map(len, router.cached_paths)) <= 128
    assert router.resolve("/api/ping").route.name == "luigi"
