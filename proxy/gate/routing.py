"""Which upstream a request is for, and which codec reads it: by the raw path, read in one way.

Below the pipeline (`proxy.gate.pipeline`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.catalog.model import Catalog
from proxy.common.bounded_cache import BoundedCache
from proxy.errors import Rejected
from proxy.gate.ports import Upstream
from proxy.model import Reason
from proxy.protocol.codec import Codec
from proxy.protocol.codec_table import CodecOptions, Mount, make_mounts

# Paths whose endpoint is cached: a catalog has some thirty methods.
CACHE_SIZE = 256
# Characters of a path that is cached.
_MAX_CACHED_PATH = 128


@dataclass(frozen=True, slots=True)
class Route:
    """One upstream as clients see it: a path prefix (``/`` or ``/team-a``) and its codecs."""

    name: str
    prefix: str
    catalog: Catalog
    upstream: Upstream
    mounts: tuple[Mount, ...]

    def mount(self, path: str) -> Mount | None:
        """Return what serves `path` (without the prefix), None when nothing does."""
        for mount in self.mounts:
            if mount.serves(path):
                return mount
        return None


def make_route(options: CodecOptions, upstream: Upstream) -> Route:
    """Return the route to one upstream, with the codecs of its protocol."""
    return Route(
        options.upstream,
        options.prefix.rstrip("/"),
        options.catalog,
        upstream,
        make_mounts(options),
    )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a path leads to: a route, the path without its prefix, and the codec that serves it.

    `codec` is None where the upstream serves nothing. `pages` is the codec of other HTTP methods
    than POST, if another one than `codec`.
    """

    route: Route
    path: str
    codec: Codec | None
    pages: Codec | None = None


class Router:
    """All routes of a gate, with a cache: a few dozen paths make up nearly all requests."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Give each request to the route with the longest prefix that fits."""
        self.routes = tuple(sorted(routes, key=lambda route: len(route.prefix), reverse=True))
        self._cache: BoundedCache[str, Endpoint] = BoundedCache(CACHE_SIZE)

    @property
    def cached_paths(self) -> Sequence[str]:
        """The paths in the cache."""
        return tuple(self._cache)

    def resolve(self, path: str) -> Endpoint:
        """Return what `path` leads to. Raises `Rejected` (NOT_FOUND) when no prefix fits."""
        endpoint = self._cache.get(path)
        return self._resolve(path) if endpoint is None else endpoint

    def _resolve(self, path: str) -> Endpoint:
        for route in self.routes:
            prefix = route.prefix
            if path.startswith(prefix):
                rest = path[len(prefix) :] or "/"
                if rest[0] == "/":
                    mount = route.mount(rest)
                    endpoint = (
                        Endpoint(route, rest, None)
                        if mount is None
                        else Endpoint(route, rest, mount.codec, mount.pages)
                    )
                    # The paths are the callers' to choose: the cache is bounded in both ways.
                    if len(path) <= _MAX_CACHED_PATH:
                        self._cache.put(path, endpoint)
                    return endpoint
        raise Rejected(Reason.NOT_FOUND)
