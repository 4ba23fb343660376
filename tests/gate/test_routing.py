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


def all_allowed(upstream: str, method: str) -> bool:
    """Every method may be called."""
    return True


@pytest.mark.parametrize(
    ("path", "xml", "nearest"),
    [
        # a misspelt path, its slashes, its case
        ("/apii/ping", False, "/api/ping"),
        ("/api/ping/", False, "/api/ping"),
        ("//api//ping", False, "/api/ping"),
        ("/API/Ping", False, "/api/ping"),
        ("/ap/add_taks", False, "/api/add_task"),
        ("/static/visualizer/index.html", False, "/static/visualiser/index.html"),
        ("/historie", False, "/history"),
        ("/metric", False, "/metrics"),
        # a misspelt prefix, one that is missing, one too many
        ("/taem/api/ping", False, "/team/api/ping"),
        ("/team/d/api/pong", False, "/team/api/ping"),
        ("/luigi/api/task_list", False, "/api/task_list"),
        ("/process/mainlogtail", False, "/processes/mainlogtail"),
        ("/mainlogtail", False, "/processes/mainlogtail"),
        # XML-RPC: the one path that takes it
        ("/RPC3", True, "/RPC2"),
        ("/rpc2", True, "/RPC2"),
        ("/xmlrpc/server.php", True, "/RPC2"),
        ("/", True, "/RPC2"),
        ("/api/ping", True, "/RPC2"),
        ("/team", True, "/team/RPC2"),
        ("/processes/rpc", True, "/processes/RPC2"),
        ("/process/RPC2", True, "/processes/RPC2"),
        # nothing near, or no path that a client would have meant
        ("/robots.txt", False, None),
        ("/wp-admin/setup.php", False, None),
        ("/api/../ping", False, None),
        ("/%61pi/ping", False, None),
        ("/api/ping[x]", False, None),
        ("/" + "a" * 200, False, None),
    ],
)
def test_a_wrong_path_has_the_nearest_right_one(path: str, xml: bool, nearest: str | None) -> None:
    """Whatever part of it is wrong; a path that a call would be misread from has none."""
    assert Router(MADE).nearest(path, xml=xml, may_call=all_allowed) == nearest


def test_no_path_is_revealed_that_its_caller_may_not_use() -> None:
    """As with methods: what may not be called is not named."""
    router = Router(MADE)
    asked = []

    def none(upstream: str, method: str) -> bool:
        asked.append((upstream, method))
        return False

    assert router.nearest("/apii/ping", xml=False, may_call=none) is None
    assert ("luigi", "ping") in asked


def test_a_nearest_path_leads_somewhere() -> None:
    """Each path that a refusal may name is served, with and without a prefix."""
    router = Router(MADE)
    for one in MADE:
        for mount in one.mounts:
            for name in mount.names:
                found = router.resolve(one.prefix + name)
                assert found.codec is not None
                assert found.route is one
