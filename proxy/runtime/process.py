"""The wiring: settings in, a running gate out. The only place that knows every part; below it,
plain arguments.

Order of starting: policies and catalogs, journal (which recovers first), issuers, upstream legs,
listeners. Nothing listens before all of it stands. Order of stopping: no new clients, calls in hand
are answered, then the journal closes, so that every record of theirs is in it.
"""

import asyncio
import base64
import gc
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count

import structlog

from proxy import __version__
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.keys import load_hmac_key
from proxy.audit.writing.log_instances import instance_names, open_first_unlocked, recover_abandoned
from proxy.catalog.loading import Catalog, load_catalog
from proxy.config.loading import Settings
from proxy.config.model import Listener as ListenerSettings
from proxy.config.model import Upstream
from proxy.config.values import split_url
from proxy.edge.health import HealthEndpoints
from proxy.edge.server.connection_limit import ConnectionLimit
from proxy.edge.server.limits import Limits
from proxy.edge.server.listener import Listener, bind, record_rejected_connection
from proxy.edge.server.request_ids import new_request_id_source
from proxy.edge.server.server import Server
from proxy.edge.tls import ReloadingCertificate, upstream_context
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.coalescing import CoalescingUpstream
from proxy.edge.upstream.pool import ConnectionPool, UpstreamOptions
from proxy.edge.upstream.stream_limit import StreamLimit
from proxy.errors import ConfigError, Problem
from proxy.gate.pipeline import Gate
from proxy.gate.routing import Route, make_route
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.identity.oidc_discovery import OidcKeys
from proxy.identity.verifier import Verifier
from proxy.policy.load import load_policies
from proxy.protocol.luigi.batch_ids import derive_batch_key
from proxy.runtime.file_descriptors import max_clients
from proxy.runtime.metrics_endpoint import serve_metrics
from proxy.runtime.worker_process import WorkerSlot
from proxy.telemetry.event_log import EventLog
from proxy.telemetry.metrics import Metrics

# one in so many connections to an upstream may be held by readers of long answers, and as many by
# those who wait for that
_STREAMED = 8
# between two looks for cyclic garbage: each takes some 8 us for every open connection (measured
# with 2,000)
_COLLECT_SECONDS = 60
_CACHE_SECONDS = 1.0  # for which the answer to a view is given again
_LAST_SECONDS = 1.0  # for calls to hear that their upstream is gone
# by mypyc: `make compiled`
_COMPILED = not str(sys.modules[Gate.__module__].__file__).endswith(".py")
# of a kept connection before it is closed, when nobody takes over: every moment is one of outage
_DRAIN_IDLE_SECONDS = 0.5

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def run(
    settings: Settings,
    *,
    ready: Callable[[], None] | None = None,
    stop: asyncio.Event | None = None,
    slot: WorkerSlot | None = None,
) -> None:
    """Serve until `stop` is set, or SIGTERM or SIGINT arrives. `ready` is called once clients are
    accepted.

    `slot` is given under a supervisor: SIGUSR1 then means that a successor serves. Raises `ConfigError` with every problem of policies and files, and `OSError` when an
    address is taken.
    """
    stop = stop or asyncio.Event()
    handing_over = False
    shared: list[CoalescingUpstream] = []
    loop = asyncio.get_running_loop()

    def hand_over() -> None:
        nonlocal handing_over
        handing_over = True
        for leg in shared:
            leg.set_cache_ttl(0.0)  # what acts through the other process empties no cache here
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if slot is not None:
        loop.add_signal_handler(signal.SIGUSR1, hand_over)
    catalogs = load_catalogs(settings)
    policy = load_policies(
        settings.policy.directory,
        catalogs,
        unused=_unused(settings),
        issuers=issuer_names(settings),
    )
    certificates = _certificates(settings)
    limits = settings.limits
    places = max_clients(
        limits.max_connections, [upstream.max_connections for upstream in settings.upstreams]
    )

    meter = Metrics()
    processes = settings.processes if slot is None else slot.processes
    instances = instance_names(settings.audit.name, processes)
    journal = open_first_unlocked(instances, partial(_open_journal, settings))
    verifier = Verifier(make_issuers(settings), policy.roles.of)
    legs = [
        ConnectionPool(make_target(upstream), make_options(upstream))
        for upstream in settings.upstreams
    ]
    shared += [CoalescingUpstream(leg, now=leg.now, cache_ttl=0.0) for leg in legs]

    def cache() -> None:
        """Let views be given again for a moment, where no act can go past that cache."""
        same = Counter((upstream.url, upstream.upstream_path) for upstream in settings.upstreams)
        for leg, upstream in zip(shared, settings.upstreams, strict=True):
            if (
                processes == 1
                and same[upstream.url, upstream.upstream_path] == 1
                and not handing_over
            ):
                leg.set_cache_ttl(_CACHE_SECONDS)

    runner = None
    gate: Gate | None = None
    try:
        journal.policy_in_force(policy.hash, policy.files)
        await verifier.start()
        routes = [
            _route(settings, upstream, catalogs, leg)
            for upstream, leg in zip(settings.upstreams, shared, strict=True)
        ]
        gate = Gate(
            routes, verifier, policy, journal, meter, EventLog(), in_flight=limits.max_in_flight
        )
        server = Server(
            HealthEndpoints(gate, journal, verifier), _limits(settings), new_request_id_source()
        )
        _gauges(meter, gate, server, journal)
        if settings.metrics.port:
            runner = await serve_metrics(
                meter,
                settings.metrics.address,
                settings.metrics.port + (0 if slot is None else slot.slot),
            )
        listening = (
            [bind(each.address, each.port) for each in settings.listeners]
            if slot is None
            else slot.listening
        )
        connection_limit = ConnectionLimit(places, limits.connections_per_address)
        listeners = [
            Listener(
                socket,
                server,
                None if certificate is None else certificate.context,
                limit=connection_limit,
                handshake_seconds=limits.handshake_seconds,
                on_rejected=lambda address: record_rejected_connection(server, address),
            )
            for socket, certificate in zip(listening, certificates, strict=True)
        ]
        watch = loop.create_task(_watch([each for each in certificates if each], journal))
        gc.collect()
        gc.freeze()  # what stands now stays: the collector need not look at it again
        # a call makes no cycles; looking for them every 700 objects costs 1 % of it
        gc.set_threshold(20_000, 10, 10)
        _log.info(
            "serving", listeners=[_described(each) for each in settings.listeners], policy=policy.hash,
            compiled=_COMPILED,
        )  # fmt: skip
        # While the process before this one drains, acts go through that, too.
        loop.call_later(0.0 if slot is None else slot.predecessor_timeout, cache)
        if ready is not None:
            ready()
        ended = loop.run_in_executor(
            None,
            recover_abandoned,
            settings.audit.directory,
            instances,
            partial(_open_journal, settings),
        )
        await stop.wait()
        _log.info("handing over" if handing_over else "draining", in_flight=gate.in_flight)
        # else workers would be told to end, though another process serves them
        gate.draining = not handing_over
        if runner is not None:
            await runner.close()
        for listener in listeners:
            listener.close()
        ends = loop.time() + limits.drain_seconds
        await server.drain(
            limits.drain_seconds, idle_seconds=None if handing_over else _DRAIN_IDLE_SECONDS
        )
        await gate.wait_idle(max(0.0, ends - loop.time()))  # calls go on whose callers have left
        watch.cancel()
        await ended
    finally:
        for leg in legs:
            leg.close()
        if gate is not None:
            await gate.wait_idle(_LAST_SECONDS)  # what the legs gave up is recorded as that
        if runner is not None:
            await runner.close()
        await verifier.close()
        await journal.close()
    _log.info("stopped")


def load_catalogs(settings: Settings) -> dict[str, Catalog]:
    """The catalog of each upstream, by the upstream's name. Raises `ConfigError` with the problems
    of all of them.
    """
    problems: list[Problem] = []
    catalogs: dict[str, Catalog] = {}
    for upstream in settings.upstreams:
        try:
            catalogs[upstream.name] = load_catalog(
                settings.policy.directory / "catalogs" / f"{upstream.catalog}.toml"
            )
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return catalogs


def _open_journal(settings: Settings, name: str) -> Journal:
    """The log `name` of this gate."""
    audit = settings.audit
    return Journal.open(
        audit.directory,
        name=name,
        origin_prefix=audit.origin_prefix,
        software=f"callgate {__version__}",
        signing_key=None if audit.signing_key is None else audit.signing_key.reveal().encode(),
        redact_arguments=audit.redact_arguments,
        max_text_bytes=audit.max_text_bytes,
        segment_bytes=audit.segment_bytes,
    )


def _unused(settings: Settings) -> list[Catalog]:
    """The catalogs that no upstream has: the policies may speak of their methods."""
    used = {upstream.catalog for upstream in settings.upstreams}
    return [
        load_catalog(path)
        for path in sorted((settings.policy.directory / "catalogs").glob("*.toml"))
        if path.stem not in used
    ]


def issuer_names(settings: Settings) -> set[str]:
    """Return the names by which roles.toml may call an issuer."""
    names = {issuer.name for issuer in settings.issuers}
    return names if settings.local_issuer is None else names | {"local"}


def make_issuers(settings: Settings) -> list[Issuer]:
    """The issuers of the settings, the local one among them, each with the source of its keys."""
    if any(given.jwks_file is None for given in settings.issuers):
        # with it comes aiohttp, which takes a quarter of a second to load
        from proxy.edge.https_fetch import make_fetcher
    issuers = []
    for given in settings.issuers:
        profile = TokenProfile(
            given.issuer,
            given.audiences,
            token_types=given.token_types,
            groups_claim=given.groups_claim,
            max_lifetime_seconds=given.max_lifetime_seconds,
        )
        source = (
            OidcKeys(given.issuer, make_fetcher(given.ca_file))
            if given.jwks_file is None
            else JwksFile(given.jwks_file)
        )
        issuers.append(Issuer(given.name, profile, source))
    local = settings.local_issuer
    if local is not None:
        profile = TokenProfile(
            local.issuer, (local.audience,), max_lifetime_seconds=local.max_lifetime_seconds
        )
        issuers.append(Issuer("local", profile, JwksFile(local.jwks_file)))
    return issuers


def make_target(upstream: Upstream) -> UpstreamAddress:
    """Where the leg of `upstream` goes."""
    authorization = b""
    if upstream.basic_auth is not None:
        authorization = b"Basic " + base64.b64encode(upstream.basic_auth.reveal().strip().encode())
    target = UpstreamAddress(authorization=authorization)
    if upstream.socket_path is not None:
        return replace(target, socket=str(upstream.socket_path))
    url = split_url(upstream.url)
    host = url.hostname or "127.0.0.1"
    if url.scheme == "http":
        return replace(target, host=host, port=url.port or 80)
    key = (
        None
        if upstream.client_key is None
        else (upstream.client_key.file or upstream.client_key.reveal())
    )
    tls = upstream_context(upstream.ca_file, upstream.client_certificate, key)
    return replace(target, host=host, port=url.port or 443, tls=tls, server_hostname=host)


def make_options(upstream: Upstream) -> UpstreamOptions:
    """Return the limits of the connections to `upstream`."""
    return UpstreamOptions(
        connect_timeout=upstream.connect_timeout_seconds,
        response_timeout=upstream.response_timeout_seconds,
        read_timeout=upstream.read_timeout_seconds,
        max_connections=upstream.max_connections,
    )


def _route(
    settings: Settings, upstream: Upstream, catalogs: dict[str, Catalog], shared: CoalescingUpstream
) -> Route:
    limits = settings.limits
    streams = upstream.max_connections // _STREAMED
    return make_route(
        upstream.name,
        upstream.path_prefix,
        catalogs[upstream.name],
        StreamLimit(shared, max(1, streams), streams),
        path=upstream.upstream_path,
        batch_calls=limits.max_batch_calls,
        body_bytes=limits.body_bytes,
        batch_key=derive_batch_key(load_hmac_key(settings.audit.directory)),
    )


def _limits(settings: Settings) -> Limits:
    limits = settings.limits
    return Limits(
        header_bytes=limits.header_bytes,
        body_bytes=limits.body_bytes,
        header_seconds=limits.header_seconds,
        body_seconds=limits.body_seconds,
        idle_seconds=limits.idle_seconds,
        write_seconds=limits.write_seconds,
    )


def _certificates(settings: Settings) -> list[ReloadingCertificate | None]:
    """Return the certificate of each listener; None for plain HTTP."""
    return [
        None
        if each.certificate is None or each.key is None
        else ReloadingCertificate(each.certificate, each.key.file or each.key.reveal())
        for each in settings.listeners
    ]


def _described(listener: ListenerSettings) -> str:
    """Return a listener for the log, such as ``https://0.0.0.0:8443``."""
    host = f"[{listener.address}]" if ":" in listener.address else listener.address
    return f"{'http' if listener.plain_http else 'https'}://{host}:{listener.port}"


async def _watch(certificates: list[ReloadingCertificate], journal: Journal) -> None:
    """Once a second: has the certificate changed, has the journal stopped or resumed. More seldom:
    collect garbage.

    Calls make no cycles, so the collector would hardly ever run by itself; but an error in a
    library's depths may make one now and then, and hold on to a long answer with it.
    """
    failing: str | None = None
    for seconds in count(1):
        await asyncio.sleep(1.0)
        if seconds % _COLLECT_SECONDS == 0:
            gc.collect()
        for certificate in certificates:
            try:
                if certificate.reload_if_changed():
                    _log.info("certificate reloaded")
            except ConfigError as error:
                for problem in error.problems:
                    _log.error(
                        "certificate not reloaded",
                        location=problem.location,
                        message=problem.message,
                        hint=problem.hint,
                    )
        if journal.failure != failing:
            failing = journal.failure
            if failing is None:
                _log.info("audit journal writable again")
            else:
                _log.error("audit journal unwritable: nothing is forwarded", why=failing)


def _gauges(meter: Metrics, gate: Gate, server: Server, journal: Journal) -> None:
    meter.gauges += [
        ("callgate_in_flight_requests", "Requests being worked on.", lambda: gate.in_flight),
        ("callgate_connections", "Open client connections.", lambda: len(server.connections)),
        (
            "callgate_audit_writable",
            "1 when the journal can be written, else 0.",
            lambda: float(journal.writable),
        ),
        (
            "callgate_audit_records",
            "Records that this journal durably holds.",
            lambda: journal.size,
        ),
    ]
