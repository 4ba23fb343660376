"""The table of codecs: which codecs an upstream of each wire protocol has, and at which paths.

Another protocol is a package like `luigi` and `xmlrpc`, and a row in `CODECS`.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from proxy.catalog.model import Catalog, WireProtocol
from proxy.protocol.codec import Codec
from proxy.protocol.luigi.api import LuigiApi
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.luigi.pages import PAGES as LUIGI_PAGES
from proxy.protocol.luigi.pages import LuigiPages
from proxy.protocol.luigi.task_reports import TaskReports
from proxy.protocol.strict_json import MAX_ELEMENTS
from proxy.protocol.xmlrpc.luigi_bridge import LuigiBridge
from proxy.protocol.xmlrpc.server import XmlRpcServer
from proxy.protocol.xmlrpc.supervisor_pages import METHODS, PATHS, ROOTS, SupervisorPages
from proxy.protocol.xmlrpc.supervisor_pages import PAGES as SUPERVISOR_PAGES

_RPC2 = frozenset(("/RPC2", "/RPC2/"))
_RPC2_NAME = {"/RPC2": ""}


@dataclass(frozen=True, slots=True)
class CodecOptions:
    """What codecs are made of: one upstream, and the limits of a request.

    `upstream_path` is where the upstream itself is served, `prefix` where clients find it here.
    `luigi_batch_key` binds luigid's batch ids to identities, in all processes alike; without one
    they hold for one codec set. Calls with more than `max_elements` of JSON or `max_xml_elements`
    are rejected as too complex. `public_origin` is Callgate's own as browsers name it, and
    so is the one that a request's Host header gives.
    """

    upstream: str
    catalog: Catalog
    max_batch_calls: int
    body_bytes: int
    prefix: str = ""
    upstream_path: str = ""
    luigi_batch_key: bytes | None = None
    replace_control_characters: bool = False
    max_elements: int = MAX_ELEMENTS
    max_xml_elements: int = MAX_ELEMENTS
    public_origin: bytes = b""


@dataclass(frozen=True, slots=True)
class Mount:
    """A codec and the paths it serves: those of `exact`, and those at or below `root`.

    `pages` serves other HTTP methods than POST there, if it is given. `names` are the right paths
    that the refusal of a misspelt one may name, with the method of the catalog that each leads to;
    it is empty where the body names the method. `xml` says whether they take XML-RPC.
    """

    codec: Codec
    exact: frozenset[str] = frozenset()
    root: str | None = None
    pages: Codec | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    xml: bool = False

    def serves(self, path: str) -> bool:
        """Return whether `path`, without the upstream's prefix, is this codec's."""
        root = self.root
        return path in self.exact or (
            root is not None and (path == root or path.startswith(root.rstrip("/") + "/"))
        )


def _luigi(options: CodecOptions) -> tuple[Mount, ...]:
    upstream, catalog, base = options.upstream, options.catalog, options.upstream_path
    signer = BatchIdSigner(options.luigi_batch_key or secrets.token_bytes(32), upstream)
    reports = TaskReports(base)
    bridge = LuigiBridge(
        upstream,
        catalog,
        base,
        max_batch_calls=options.max_batch_calls,
        body_bytes=options.body_bytes,
        max_elements=options.max_xml_elements,
        batch_ids=signer,
        reports=reports,
        public_origin=options.public_origin,
    )
    api = LuigiApi(
        upstream,
        catalog,
        base,
        batch_ids=signer,
        reports=reports,
        max_elements=options.max_elements,
        public_origin=options.public_origin,
    )
    return (
        Mount(api, root="/api", names={f"/api/{name}": name for name in catalog.methods}),
        Mount(bridge, exact=_RPC2, names=_RPC2_NAME, xml=True),
        Mount(LuigiPages(upstream, catalog, base, options.prefix), root="/", names=LUIGI_PAGES),
    )


def _xmlrpc(options: CodecOptions) -> tuple[Mount, ...]:
    upstream, catalog = options.upstream, options.catalog
    methods = {name: each for name, each in catalog.methods.items() if name not in METHODS}
    server = XmlRpcServer(
        upstream,
        replace(catalog, methods=methods),
        options.upstream_path or "/RPC2",
        max_batch_calls=options.max_batch_calls,
        body_bytes=options.body_bytes,
        max_elements=options.max_xml_elements,
        public_origin=options.public_origin,
    )
    server.replace_control_characters = options.replace_control_characters
    if len(methods) == len(catalog.methods):
        return (Mount(server, exact=_RPC2 | {"/"}, names=_RPC2_NAME, xml=True),)
    pages = SupervisorPages(upstream, catalog, options.prefix)
    return (
        Mount(server, exact=_RPC2, names=_RPC2_NAME, xml=True),
        Mount(server, exact=frozenset("/"), pages=pages),
        Mount(pages, exact=PATHS, names=SUPERVISOR_PAGES),
        *(Mount(pages, root=root) for root in ROOTS),
    )


CODECS: Mapping[WireProtocol, Callable[[CodecOptions], tuple[Mount, ...]]] = {
    "luigi": _luigi,
    "xmlrpc": _xmlrpc,
}


def make_mounts(options: CodecOptions) -> tuple[Mount, ...]:
    """Return the codecs of an upstream; the first that serves a path has it."""
    return CODECS[options.catalog.protocol](options)
