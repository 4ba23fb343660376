"""What no single key of the settings can tell: whether the tables fit together.

Works on whatever tables could be read, so that a mistake in one does not hide a clash between two
others.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.config.model import Audit, Issuer, Listen, LocalIssuer, Metrics, Upstream
from proxy.config.values import is_loopback
from proxy.errors import Problem

_OPERATOR = "operator"  # the log in which `callgate audit archive` records what it does
_LOCAL = "local"  # the name of the issuer that [local_issuer] adds
_LAST_PORT = 65535
# what a luigi upstream serves under its prefix
_LUIGI_PLACES = ("api", "static", "tasklist", "history", "metrics", "RPC2")


def cross_checks(
    raw: Mapping[str, Any], parsed: Mapping[str, Any], place: str
) -> Iterator[Problem]:
    """Yield a problem for each clash between the tables in `parsed`; `raw` tells whether a table
    that could not be read was there.
    """
    if isinstance(listen := parsed["listen"], Listen):
        yield from _check_listen(listen, "tls" in raw, place)
        if isinstance(metrics := parsed["metrics"], Metrics) and metrics.port:
            yield from _check_metrics(metrics, listen, place)
    if not raw.get("issuers") and "local_issuer" not in raw:
        yield Problem(
            f"{place}: issuers",
            "no issuer is named, so nobody could sign in",
            "Add [[issuers]], or [local_issuer] to issue tokens here.",
        )
    if not raw.get("upstreams"):
        yield Problem(
            f"{place}: upstreams",
            "no upstream is named, so there is nothing to guard",
            "Add [[upstreams]] with name, protocol and url.",
        )
    if isinstance(audit := parsed["audit"], Audit) and audit.name == _OPERATOR:
        yield Problem(
            f"{place}: audit.name",
            f"{_OPERATOR} is the log of callgate audit archive",
            "Choose another name for the gate.",
        )
    issuers: tuple[Issuer | None, ...] = parsed["issuers"]
    upstreams: tuple[Upstream | None, ...] = parsed["upstreams"]
    local: LocalIssuer | None = parsed["local_issuer"]
    yield from _check_issuers(issuers, local, place)
    yield from _check_upstreams(upstreams, place)


def _check_listen(listen: Listen, has_tls: bool, place: str) -> Iterator[Problem]:
    if listen.plain_http and not is_loopback(listen.address):
        yield Problem(
            f"{place}: listen.plain_http",
            "plain HTTP would carry tokens over the network",
            'Listen on "127.0.0.1", or remove it and set up [tls].',
        )
    if listen.plain_http and has_tls:
        yield Problem(f"{place}: listen.plain_http", "contradicts [tls]", "Remove one of the two.")
    if not listen.plain_http and not has_tls:
        yield Problem(
            f"{place}: tls",
            "is missing",
            "Set tls.certificate and tls.key; or, on loopback only, listen.plain_http = true.",
        )


def _check_metrics(metrics: Metrics, listen: Listen, place: str) -> Iterator[Problem]:
    """Each process shows its numbers on a port of its own: `metrics.port` and those that follow it."""
    last = metrics.port + listen.processes - 1
    ports = f"the metrics of {listen.processes} processes take the ports {metrics.port} to {last}"
    if last > _LAST_PORT:
        most = _LAST_PORT - listen.processes + 1
        yield Problem(
            f"{place}: metrics.port",
            f"{ports}, and there are none beyond {_LAST_PORT}",
            f"Choose {most} or less, or 0 for none.",
        )
    if metrics.port <= listen.port <= last and _meet(listen.address, metrics.address):
        what = f"{ports}, and {listen.port} is" if listen.processes > 1 else "is"
        remedy = f"Choose another, such as {_free_of(listen)}, or 0 for none."
        yield Problem(
            f"{place}: metrics.port",
            f"{what} the port of listen.port, where clients connect",
            remedy,
        )


def _meet(address: str, loopback: str) -> bool:
    """Say whether a port of `address` is one of `loopback` too: ``localhost`` may be any address of
    the kind.
    """
    if address == loopback or address in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        return True
    return is_loopback(address) and "localhost" in (address, loopback)


def _free_of(listen: Listen) -> int:
    """A metrics port from which those of all processes miss the listening port."""
    return (
        listen.port + 1
        if listen.port + listen.processes <= _LAST_PORT
        else listen.port - listen.processes
    )


def _check_issuers(
    issuers: tuple[Issuer | None, ...], local: LocalIssuer | None, place: str
) -> Iterator[Problem]:
    names = {_LOCAL: "local_issuer"} if local else {}
    urls = {local.issuer: "local_issuer"} if local else {}
    for number, issuer in enumerate(issuers):
        if issuer is None:
            continue
        here = f"issuers[{number}]"
        if issuer.name == _LOCAL and not local:
            yield Problem(
                f"{place}: {here}.name",
                "local is the name of the gate's own issuer",
                "Choose another name.",
            )
        yield from _twice(names, issuer.name, f"{place}: {here}.name", "name", here)
        yield from _twice(urls, issuer.issuer, f"{place}: {here}.issuer", "issuer", here)


def _check_upstreams(upstreams: tuple[Upstream | None, ...], place: str) -> Iterator[Problem]:
    names: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    for number, upstream in enumerate(upstreams):
        if upstream is None:
            continue
        here = f"upstreams[{number}]"
        yield from _twice(names, upstream.name, f"{place}: {here}.name", "name", here)
        yield from _twice(
            prefixes, upstream.path_prefix, f"{place}: {here}.path_prefix", "path_prefix", here
        )
        if not upstream.catalog:
            yield Problem(
                f"{place}: {here}.catalog",
                "is missing",
                "Name the catalog of its methods, policies/catalogs/<name>.toml without .toml.",
            )
        if (upstream.client_certificate is None) != (upstream.client_key is None):
            yield Problem(
                f"{place}: {here}.client_certificate",
                "goes with client_key",
                "Set both, or neither.",
            )
        if (upstream.client_certificate or upstream.ca_file) and not upstream.url.startswith(
            "https://"
        ):
            yield Problem(
                f"{place}: {here}.url",
                "has a CA or client certificate but is not https",
                "Use an https:// URL, or remove these keys.",
            )
    for number, upstream in enumerate(upstreams):
        for other in upstreams:
            if (
                upstream
                and other
                and other.protocol == "luigi"
                and (theirs := _shadowed(other.path_prefix, upstream.path_prefix))
            ):
                yield Problem(
                    f"{place}: upstreams[{number}].path_prefix",
                    f"would hide {theirs} of the upstream {other.name}",
                    "Choose another prefix, such as /processes.",
                )


def _shadowed(luigi_prefix: str, prefix: str) -> str:
    base = luigi_prefix.rstrip("/")
    return next(
        (
            f"{base}/{name}"
            for name in _LUIGI_PLACES
            if (prefix + "/").startswith(f"{base}/{name}/")
        ),
        "",
    )


def _twice(seen: dict[str, str], value: str, place: str, kind: str, here: str) -> Iterator[Problem]:
    if value in seen:
        yield Problem(
            place, f"is the same {kind} as that of {seen[value]}", f"Give each its own {kind}."
        )
    else:
        seen[value] = here
