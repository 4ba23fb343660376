"""Rules across the tables of the settings.

They work on the tables that could be read, so that a mistake in one table hides no clash between
two others.
"""

from collections.abc import Collection, Iterator

from proxy.common.address import is_loopback
from proxy.common.memory_budget import needed_bytes
from proxy.common.toml_lines import Loc
from proxy.common.validation import Locate, dotted
from proxy.config.model import Issuer, Listener, LocalIssuer, Upstream
from proxy.config.partial import PartialSettings
from proxy.errors import Problem

_OPERATOR = "operator"  # the log in which `callgate audit archive` records what it does
_LOCAL = "local"  # the name of the issuer that [local_issuer] adds
_LAST_PORT = 65535
# What a luigi upstream serves below its path prefix.
_LUIGI_PATHS = ("api", "static", "tasklist", "history", "metrics", "RPC2")
_WANTED = {
    "listeners": (
        "no listener is configured",
        "Add [[listeners]] with address, port, certificate and key.",
    ),
    "issuers": (
        "no issuer is configured",
        "Add [[issuers]], or [local_issuer] to issue tokens here.",
    ),
    "upstreams": (
        "no upstream is configured",
        "Add [[upstreams]] with name, protocol and url.",
    ),
}


def cross_checks(settings: PartialSettings, given: Collection[str]) -> Iterator[Problem]:
    """Yield a problem for each clash between tables.

    `given` names the tables that are there, readable or not.
    """
    locate = settings.locate
    for name, (message, hint) in _WANTED.items():
        if name not in given and not (name == "issuers" and "local_issuer" in given):
            yield Problem(locate((name,)), message, hint)
    yield from _check_listeners(settings.listeners, locate)
    yield from _check_metrics(settings)
    yield from _check_memory(settings)
    if settings.audit is not None and settings.audit.name == _OPERATOR:
        message = f"{_OPERATOR} is the log of callgate audit archive"
        yield Problem(locate(("audit", "name")), message, "Choose another name.")
    yield from _check_issuers(settings.issuers, settings.local_issuer, locate)
    yield from _check_upstreams(settings.upstreams, locate)


def _check_listeners(listeners: tuple[Listener | None, ...], locate: Locate) -> Iterator[Problem]:
    for number, listener in enumerate(listeners):
        if listener is None:
            continue
        row: Loc = ("listeners", number)
        yield from _check_tls(listener, row, locate)
        for earlier, other in enumerate(listeners[:number]):
            if other and other.port == listener.port and _overlap(other.address, listener.address):
                message = f"listeners[{earlier}] has this port already"
                yield Problem(locate((*row, "port")), message, "Give each listener its own port.")


def _check_tls(listener: Listener, row: Loc, locate: Locate) -> Iterator[Problem]:
    missing = [name for name in ("certificate", "key") if getattr(listener, name) is None]
    if not listener.plain_http:
        if missing:
            message = " and ".join(missing) + (" is" if len(missing) == 1 else " are") + " missing"
            hint = "Set certificate and key; or, on loopback only, plain_http = true."
            yield Problem(locate(row), message, hint)
        return
    if len(missing) < 2:
        message = "cannot be combined with certificate and key"
        yield Problem(locate((*row, "plain_http")), message, "Remove one of the two.")
    if not is_loopback(listener.address):
        message = "plain HTTP would carry tokens over the network"
        hint = 'Listen on "127.0.0.1", or remove it and set certificate and key.'
        yield Problem(locate((*row, "plain_http")), message, hint)


def _check_metrics(settings: PartialSettings) -> Iterator[Problem]:
    """Each process has a metrics port of its own: `metrics.port` and those that follow it."""
    metrics, processes = settings.metrics, settings.processes
    if metrics is None or processes is None or not metrics.port:
        return
    where = settings.locate(("metrics", "port"))
    last = metrics.port + processes - 1
    ports = f"the metrics of {processes} processes take the ports {metrics.port} to {last}"
    if last > _LAST_PORT:
        hint = f"Choose {_LAST_PORT - processes + 1} or less, or 0 for none."
        yield Problem(where, f"{ports}, and there are none beyond {_LAST_PORT}", hint)
    taken = {each.port for each in settings.listeners if each}
    for number, listener in enumerate(settings.listeners):
        if listener is None or not _overlap(listener.address, metrics.address):
            continue
        if metrics.port <= listener.port <= last:
            message = f"{ports}, and {listener.port} is" if processes > 1 else "is"
            hint = f"Choose another, such as {_free_port(taken, processes)}, or 0 for none."
            yield Problem(where, f"{message} the port of listeners[{number}]", hint)


def _check_memory(settings: PartialSettings) -> Iterator[Problem]:
    """Yield a problem if the memory of a process is too little for the largest body."""
    limits = settings.limits
    if limits is None:
        return
    needed = needed_bytes(limits.body_bytes)
    if limits.memory_bytes < needed:
        message = f"is too little for a call with a body of {limits.body_bytes} bytes"
        hint = f"Set at least {needed}, or lower limits.body_bytes."
        yield Problem(settings.locate(("limits", "memory_bytes")), message, hint)


def _overlap(one: str, other: str) -> bool:
    """Return whether a port of one address is a port of the other address too.

    A socket for ``::`` takes IPv4 clients as well. ``localhost`` may be any loopback address.
    """
    if one == other or "::" in (one, other):
        return True
    if "0.0.0.0" in (one, other):  # noqa: S104  (compared, not bound)
        return not (":" in one or ":" in other)
    return "localhost" in (one, other) and is_loopback(one) and is_loopback(other)


def _free_port(taken: set[int], processes: int) -> int:
    """Return a metrics port from which the ports of all processes miss the `taken` ones."""
    above = max(taken) + 1
    return above if above + processes - 1 <= _LAST_PORT else min(taken) - processes


def _check_issuers(
    issuers: tuple[Issuer | None, ...], local: LocalIssuer | None, locate: Locate
) -> Iterator[Problem]:
    names = {_LOCAL: "local_issuer"} if local else {}
    urls = {local.issuer: "local_issuer"} if local else {}
    for number, issuer in enumerate(issuers):
        if issuer is None:
            continue
        row: Loc = ("issuers", number)
        if issuer.name == _LOCAL and not local:
            message = f"{_LOCAL} is the name of the issuer of [local_issuer]"
            yield Problem(locate((*row, "name")), message, "Choose another name.")
        yield from _check_unique(names, issuer.name, (*row, "name"), locate)
        yield from _check_unique(urls, issuer.issuer, (*row, "issuer"), locate)


def _check_upstreams(upstreams: tuple[Upstream | None, ...], locate: Locate) -> Iterator[Problem]:
    names: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    for number, upstream in enumerate(upstreams):
        if upstream is None:
            continue
        row: Loc = ("upstreams", number)
        yield from _check_unique(names, upstream.name, (*row, "name"), locate)
        yield from _check_unique(prefixes, upstream.path_prefix, (*row, "path_prefix"), locate)
        if not upstream.catalog:
            hint = "Name the catalog of its methods, policies/catalogs/<name>.toml without .toml."
            yield Problem(locate((*row, "catalog")), "is missing", hint)
        if (upstream.client_certificate is None) != (upstream.client_key is None):
            given, other = "client_certificate", "client_key"
            if upstream.client_certificate is None:
                given, other = other, given
            yield Problem(locate((*row, given)), f"requires {other}", "Set both, or neither.")
        https_only = upstream.client_certificate or upstream.ca_file
        if https_only and not upstream.url.startswith("https://"):
            message = "has a CA or client certificate but is not https"
            hint = "Use an https:// URL, or remove these keys."
            yield Problem(locate((*row, "url")), message, hint)
        yield from _check_shadowing(upstream, upstreams, (*row, "path_prefix"), locate)


def _check_shadowing(
    upstream: Upstream, others: tuple[Upstream | None, ...], loc: Loc, locate: Locate
) -> Iterator[Problem]:
    for other in others:
        if other and other.protocol == "luigi":
            hidden = _shadowed(other.path_prefix, upstream.path_prefix)
            if hidden:
                message = f"would hide {hidden} of the upstream {other.name}"
                yield Problem(
                    locate(loc), message, "Choose another path prefix, such as /processes."
                )


def _shadowed(luigi_prefix: str, prefix: str) -> str:
    """Return the path of a luigi upstream that an upstream at `prefix` would take, or nothing."""
    base = luigi_prefix.rstrip("/")
    paths = (f"{base}/{name}" for name in _LUIGI_PATHS)
    return next((path for path in paths if f"{prefix}/".startswith(f"{path}/")), "")


def _check_unique(seen: dict[str, str], value: str, loc: Loc, locate: Locate) -> Iterator[Problem]:
    row, kind = dotted(loc[:-1]), loc[-1]
    if value in seen:
        message = f"is the same {kind} as that of {seen[value]}"
        yield Problem(locate(loc), message, f"Give each its own {kind}.")
    else:
        seen[value] = row
