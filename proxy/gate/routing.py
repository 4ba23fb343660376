"""Which upstream a request is for, and which codec reads it: by the raw path, read in one way.

Below the pipeline (`proxy.gate.pipeline`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from proxy.catalog.model import Catalog
from proxy.common.bounded_cache import BoundedCache
from proxy.common.nearest import CUTOFF, MAX_LENGTH, nearest_names
from proxy.errors import Rejected
from proxy.gate.ports import Upstream
from proxy.model import Reason
from proxy.protocol.codec import Codec
from proxy.protocol.codec_table import CodecOptions, Mount, make_mounts

# Paths whose endpoint is cached: a catalog has some thirty methods.
CACHE_SIZE = 256
# Characters of a path that is cached.
_MAX_CACHED_PATH = 128
# What a wrong path is compared with: comparing takes time, so each is bounded.
_MAX_PREFIXES = 64
_MAX_ROUTES = 4
# How well a prefix fits, from 0 to 1. The root fits everything, a misspelt prefix at `CUTOFF`.
_ROOT_FIT = 0.7
_NO_FIT = 0.3
_PLAIN_PATH = re.compile(r"(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9_.~-]*)+")
_SLASHES = re.compile("//+")


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

    def find(self, path: str) -> Endpoint | None:
        """Return what `path` leads to, None when no prefix fits."""
        endpoint = self._cache.get(path)
        return self._resolve(path) if endpoint is None else endpoint

    def resolve(self, path: str) -> Endpoint:
        """Return what `path` leads to. Raises `Rejected` (NOT_FOUND) when no prefix fits."""
        endpoint = self.find(path)
        if endpoint is None:
            raise Rejected(Reason.NOT_FOUND)
        return endpoint

    def nearest(self, path: str, *, xml: bool, may_call: Callable[[str, str], bool]) -> str | None:
        """Return the right path that a wrong one most likely stands for, None when none is near.

        A prefix may be misspelt, missing or one too many, a slash doubled or at the end, and so may
        the rest be. `xml` says that the path has to take XML-RPC, of which a route has one path, so
        that one need not be near. `may_call` tells for an upstream and a method whether the caller
        may call it; no other path is revealed.
        """
        if len(path) > MAX_LENGTH or not _PLAIN_PATH.fullmatch(path):
            return None
        clean = _SLASHES.sub("/", path).rstrip("/") or "/"
        near: list[tuple[float, str]] = []
        for fit, route, rest in self._likely_routes(clean)[:_MAX_ROUTES]:
            names = {
                name: method
                for mount in route.mounts
                if mount.xml is xml
                for name, method in mount.names.items()
            }
            closest = [rest] if rest in names else nearest_names(rest, names)
            for name in (closest or list(names)) if xml else closest:
                full = route.prefix + name
                if full != path and (not names[name] or may_call(route.name, names[name])):
                    near.append((fit + _similarity(rest.lower(), name.lower()), full))
        return max(near, default=(0.0, None))[1]

    def _likely_routes(self, path: str) -> list[tuple[float, Route, str]]:
        """Return the routes that `path` may be for, best fit first, each with the path's rest."""
        likely: list[tuple[float, Route, str]] = []
        words = path.split("/")
        for route in self.routes[:_MAX_PREFIXES]:
            prefix = route.prefix
            if not prefix:
                likely.append((_ROOT_FIT, route, path))
                likely.append((_NO_FIT, route, "/" + "/".join(words[2:])))
                continue
            count = prefix.count("/") + 1
            fit = _similarity(prefix.lower(), "/".join(words[:count]).lower())
            if fit >= CUTOFF:
                likely.append((fit, route, "/" + "/".join(words[count:])))
            likely.append((_NO_FIT, route, path))
        likely.sort(key=lambda each: each[0], reverse=True)
        return likely

    def _resolve(self, path: str) -> Endpoint | None:
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
        return None


def _similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
