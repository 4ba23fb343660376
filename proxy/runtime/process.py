"""The life cycle of one serving process: start, serve, drain, stop.

Start: policies and catalogs, the log (which recovers first), issuers, upstreams, listeners. Nothing
listens before all of it is ready. Stop: no new clients, calls in hand are answered, then the log
closes, so that every record of theirs is in it.
"""

import asyncio
import contextlib
import gc
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count

import structlog

from proxy.audit.writing.journal import Journal
from proxy.audit.writing.log_instances import instance_names, open_first_unlocked, recover_abandoned
from proxy.common.address import Networks
from proxy.common.memory_budget import MemoryBudget
from proxy.config.loading import Settings
from proxy.config.model import Listener as ListenerSettings
from proxy.edge.health import HealthEndpoints
from proxy.edge.server.connection_limit import ConnectionLimit
from proxy.edge.server.listener import Listener, bind, record_rejected_connection
from proxy.edge.server.request_ids import new_request_id_source
from proxy.edge.server.server import Server
from proxy.gate.pipeline import Gate
from proxy.identity.verifier import Verifier
from proxy.runtime.certificate_watch import CertificateWatch
from proxy.runtime.event_loop.allocator import return_large_blocks
from proxy.runtime.event_loop.large_calls import LargeCallProcesses
from proxy.runtime.event_loop.slow_steps import SlowSteps
from proxy.runtime.file_descriptors import max_clients
from proxy.runtime.metrics_endpoint import MetricsEndpoint, serve_metrics
from proxy.runtime.supervision.worker_process import RETIRE, WorkerSlot
from proxy.runtime.wiring import (
    load_catalogs,
    make_certificate_watch,
    make_certificates,
    make_issuers,
    make_large_call_handler,
    make_limits,
    make_policies,
    make_upstreams,
    open_journal,
)
from proxy.telemetry.event_log import EventLog
from proxy.telemetry.metrics import Metrics

# Seconds between two collections of cyclic garbage. One takes some 8 us for every open connection
# (measured with 2,000).
_COLLECT_SECONDS = 60
# Seconds for which the response to a read is served again.
_CACHE_SECONDS = 1.0
# Seconds that calls have to learn that their upstream is gone, before the log closes.
ABORT_GRACE_SECONDS = 1.0
# Keep-alive timeout while shutting down with no successor: short, because clients are refused
# meanwhile.
DRAIN_IDLE_SECONDS = 0.5
# Seconds until the second recovery of abandoned logs.
_RECOVERY_PAUSE_SECONDS = 2.0
COMPILED = not str(sys.modules[Gate.__module__].__file__).endswith(".py")
"""Whether mypyc compiled the path of a call (`make compiled`)."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def run(
    settings: Settings,
    *,
    ready: Callable[["ServingProcess"], None] | None = None,
    stop: asyncio.Event | None = None,
    slot: WorkerSlot | None = None,
) -> None:
    """Serve until `stop` is set, or SIGTERM or SIGINT arrives.

    `ready` is called with the process once clients are accepted. `slot` is given under a
    supervisor: SIGUSR1 then means that a successor serves.

    Raises:
        ConfigError: with every problem of policies and files.
        OSError: an address is taken.
    """
    return_large_blocks()
    process = ServingProcess(settings, slot, stop or asyncio.Event())
    process.heed_signals()
    try:
        await process.start()
        if ready is not None:
            ready(process)
        await process.serve()
        await process.drain()
    finally:
        await process.stop()
    _log.info("stopped")


class ServingProcess:
    """The parts of one serving process, and what happens to them in which order."""

    def __init__(self, settings: Settings, slot: WorkerSlot | None, stop: asyncio.Event) -> None:
        """Load policies, open the log, and make the parts. Raises `ConfigError`."""
        self._settings, self._slot, self._stop = settings, slot, stop
        self._retiring = False  # a successor serves
        self._loop = asyncio.get_running_loop()
        limits = settings.limits
        catalogs = load_catalogs(settings)
        self._policy = make_policies(settings, catalogs)
        # Forked before there are threads, locks of logs and connections.
        self._large_calls = LargeCallProcesses(
            partial(make_large_call_handler, settings, catalogs, self._policy)
        )
        self._certificates = make_certificates(settings)
        self._watch = make_certificate_watch(
            settings, self._certificates, reports=slot is None or slot.slot == 0
        )
        self._clients = max_clients(
            limits.max_connections, [upstream.max_connections for upstream in settings.upstreams]
        )
        self._processes = settings.processes if slot is None else slot.processes
        self._instances = instance_names(settings.audit.name, self._processes)
        self._open_journal = partial(open_journal, settings)
        self._journal = open_first_unlocked(self._instances, self._open_journal)
        self._metrics = Metrics()
        self._verifier = Verifier(make_issuers(settings), self._policy.roles.of)
        self._memory = MemoryBudget(limits.memory_bytes)
        self._upstreams = make_upstreams(settings, catalogs, self._memory)
        self._gate = Gate(
            [parts.route for parts in self._upstreams],
            self._verifier,
            self._policy,
            self._journal,
            self._metrics,
            EventLog(),
            max_in_flight=limits.max_in_flight,
            memory=self._memory,
            large_calls=self._large_calls,
        )
        self._server = Server(
            HealthEndpoints(self._gate, self._journal, self._verifier),
            make_limits(settings),
            new_request_id_source(),
            memory=self._memory,
        )
        self._endpoint: MetricsEndpoint | None = None
        self._listeners: list[Listener] = []
        self._checks: asyncio.Task[None] | None = None
        self._slow_steps = SlowSteps(self._loop)
        self._recovery: asyncio.Future[None] | None = None

    @property
    def log_origin(self) -> str:
        """The origin of this process's log, ``<prefix>/<name>``."""
        return self._journal.origin

    @property
    def max_clients(self) -> int:
        """The most client connections, which open files may limit."""
        return self._clients

    @property
    def metrics_bound(self) -> bool:
        """Whether the metrics have their port, or need none."""
        return self._endpoint is None or self._endpoint.bound

    def heed_signals(self) -> None:
        """Stop at SIGTERM and SIGINT; under a supervisor, retire at SIGUSR1."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        if self._slot is not None:
            self._loop.add_signal_handler(RETIRE, self._retire)

    def _retire(self) -> None:
        self._retiring = True
        for parts in self._upstreams:
            # A write through the successor clears no cache here.
            parts.coalescing.set_cache_ttl(0.0)
        self._stop.set()

    async def start(self) -> None:
        """Record the policy in force, fetch keys, and accept clients."""
        settings, slot = self._settings, self._slot
        self._journal.policy_in_force(self._policy.hash, self._policy.files)
        await self._verifier.start()
        self._add_gauges()
        if settings.metrics.port:
            self._endpoint = await serve_metrics(
                self._metrics,
                settings.metrics.address,
                settings.metrics.port + (0 if slot is None else slot.slot),
            )
        self._listen()
        self._checks = self._loop.create_task(
            _background_checks(self._watch, self._journal, self._verifier)
        )
        gc.collect()
        gc.freeze()  # the collector need not visit again what exists now
        # PERF: a higher threshold saves 1 % of a call (add_task, 900 B): calls make no cycles.
        gc.set_threshold(20_000, 10, 10)
        self._slow_steps.start()
        _log.info(
            "serving",
            listeners=[_described(each) for each in settings.listeners],
            policy=self._policy.hash,
            compiled=COMPILED,
        )
        # Writes go through the predecessor, too, until it has drained.
        self._loop.call_later(0.0 if slot is None else slot.predecessor_timeout, self._start_cache)

    def _listen(self) -> None:
        settings, limits, server = self._settings, self._settings.limits, self._server
        given = None if self._slot is None else self._slot.listening
        listening = given or [bind(each.address, each.port) for each in settings.listeners]
        limit = ConnectionLimit(self._clients, limits.connections_per_address)
        self._listeners = [
            Listener(
                socket,
                server,
                None if certificate is None else certificate.context,
                limit=limit,
                handshake_seconds=limits.handshake_seconds,
                on_rejected=lambda peer: record_rejected_connection(server, peer),
                balancers=Networks.of(each.proxy_protocol_from),
                https_url=settings.public_url or f"an https:// URL with port {each.port}",
            )
            for socket, certificate, each in zip(
                listening, self._certificates, settings.listeners, strict=True
            )
        ]

    def _start_cache(self) -> None:
        """Cache responses to reads for a moment, where every write passes that cache."""
        given = self._settings.upstreams
        same = Counter((upstream.url, upstream.upstream_path) for upstream in given)
        for parts, upstream in zip(self._upstreams, given, strict=True):
            alone = same[upstream.url, upstream.upstream_path] == 1
            if self._processes == 1 and alone and not self._retiring:
                parts.coalescing.set_cache_ttl(_CACHE_SECONDS)

    async def serve(self) -> None:
        """Recover the logs of killed processes, and wait for the signal to stop.

        The log of the predecessor is free once that has drained, so recovery is repeated, with
        doubling pauses, until it must have ended.
        """
        pause, ends = _RECOVERY_PAUSE_SECONDS, self._loop.time()
        if self._slot is not None:
            ends += self._slot.predecessor_timeout
        while True:
            begun = self._loop.time()
            self._recovery = self._loop.run_in_executor(
                None,
                recover_abandoned,
                self._settings.audit.directory,
                self._instances,
                self._open_journal,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), None if begun >= ends else pause)
                return
            await asyncio.wait([self._recovery])
            pause *= 2

    async def drain(self) -> None:
        """Accept no more clients, and finish the calls in hand."""
        seconds = self._settings.limits.drain_seconds
        ends = self._loop.time() + seconds
        _log.info("retiring" if self._retiring else "draining", in_flight=self._gate.in_flight)
        # With a successor, workers are not sent away.
        self._gate.draining = not self._retiring
        if self._endpoint is not None:
            await self._endpoint.close()
        for listener in self._listeners:
            listener.close()
        idle = None if self._retiring else DRAIN_IDLE_SECONDS
        await self._server.drain(seconds, idle_seconds=idle)
        # Calls go on whose callers have left.
        await self._gate.wait_idle(max(0.0, ends - self._loop.time()))
        if self._recovery is not None:
            await self._recovery

    async def stop(self) -> None:
        """Close every part, the log last."""
        if self._checks is not None:
            self._checks.cancel()
        self._slow_steps.stop()
        for parts in self._upstreams:
            parts.pool.close()
        # The calls that this aborted are recorded as that.
        await self._gate.wait_idle(ABORT_GRACE_SECONDS)
        if self._endpoint is not None:
            await self._endpoint.close()
        await self._verifier.close()
        await self._journal.close()
        self._large_calls.close()

    def _add_gauges(self) -> None:
        gate, server, journal = self._gate, self._server, self._journal
        memory = self._memory
        self._metrics.gauges += [
            ("callgate_in_flight_requests", "Requests in hand.", lambda: gate.in_flight),
            (
                "callgate_memory_bytes",
                "Memory reserved for bodies and answers in hand.",
                lambda: memory.in_use,
            ),
            ("callgate_connections", "Open client connections.", lambda: len(server.connections)),
            (
                "callgate_audit_writable",
                "1 when the log can be written, else 0.",
                lambda: float(journal.writable),
            ),
            ("callgate_audit_records", "Durable records of this log.", lambda: journal.size),
        ]
        self._metrics.counters += [
            (
                "callgate_memory_refused",
                "Reservations of memory that were refused, each with 503 overloaded.",
                lambda: memory.refused,
            ),
            (
                "callgate_slow_steps",
                "Steps of the event loop that took longer than 20 ms.",
                lambda: self._slow_steps.count,
            ),
            (
                "callgate_large_calls",
                "Large calls and answers handled in a process of their own.",
                lambda: self._large_calls.done,
            ),
            (
                "callgate_failed_large_calls",
                "Large calls and answers whose process ended without a result.",
                lambda: self._large_calls.failed,
            ),
            (
                "callgate_failed_handshakes",
                "Connections to a TLS port that ended without a handshake.",
                lambda: server.failed_handshakes,
            ),
            (
                "callgate_unsolicited_upstream_bytes",
                "Upstream connections closed because of bytes that no request asked for.",
                lambda: sum(parts.pool.unsolicited for parts in self._upstreams),
            ),
        ]
        issuers = self._verifier.issuers
        self._metrics.labelled_gauges += [
            (
                "callgate_certificate_expires_seconds",
                "Seconds until a certificate of Callgate ends; below 0 once it has ended.",
                "certificate",
                self._watch.seconds_left,
            ),
            (
                "callgate_issuer_keys",
                "Keys of the issuer in use; 0 when none was read, all are withdrawn or too old.",
                "issuer",
                lambda: {each.name: float(each.source.usable_keys) for each in issuers},
            ),
            (
                "callgate_issuer_keys_readable",
                "1 when the last reading of the issuer's keys succeeded, else 0.",
                "issuer",
                lambda: {each.name: float(each.source.readable) for each in issuers},
            ),
        ]


def _described(listener: ListenerSettings) -> str:
    """Return a listener for the log, such as ``https://0.0.0.0:8443``."""
    host = f"[{listener.address}]" if ":" in listener.address else listener.address
    return f"{'http' if listener.plain_http else 'https'}://{host}:{listener.port}"


async def _background_checks(
    certificates: CertificateWatch, journal: Journal, verifier: Verifier
) -> None:
    """Once a second, check certificates and key sets, and log whether the journal is writable.

    Once in `_COLLECT_SECONDS`, collect garbage. Calls make no cycles, so the collector would hardly
    ever run by itself. An error in the depths of a library may make one, and hold a long answer.
    """
    failing: str | None = None
    for seconds in count(1):
        await asyncio.sleep(1.0)
        if seconds % _COLLECT_SECONDS == 0:
            gc.collect()
        certificates.check()
        verifier.poll()
        if journal.failure != failing:
            failing = journal.failure
            if failing is None:
                _log.info("audit log writable again")
            else:
                _log.error("audit log unwritable: nothing is forwarded", error=failing)
