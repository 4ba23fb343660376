"""The wiring: settings in, parts out. Nothing here runs, listens or waits.

It is the place that knows every part of a serving process. Below it, parts take plain arguments.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy import __version__
from proxy.audit.format.record import RecordEncoder
from proxy.audit.redaction.redactor import Redactor
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.keys import load_hmac_key
from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Catalog
from proxy.common.memory_budget import MemoryBudget
from proxy.config.loading import Settings
from proxy.config.model import Upstream
from proxy.config.values import split_url
from proxy.edge.server.limits import Limits
from proxy.edge.tls import ReloadingCertificate, upstream_context
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.coalescing import CoalescingUpstream
from proxy.edge.upstream.pool import ConnectionPool, UpstreamOptions
from proxy.edge.upstream.stream_limit import StreamLimit
from proxy.edge.validity import read_validity
from proxy.errors import ConfigError, Problem
from proxy.gate.routing import Route, Router, make_route
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.identity.oidc_discovery import OidcKeys
from proxy.policy.engine import PolicySet
from proxy.policy.load import load_policies
from proxy.protocol.codec import LARGE_ELEMENTS, LARGE_XML_ELEMENTS
from proxy.protocol.codec_table import CodecOptions
from proxy.protocol.luigi.batch_ids import derive_batch_key
from proxy.protocol.same_origin import origin_of
from proxy.protocol.strict_json import MAX_ELEMENTS
from proxy.runtime.certificate_watch import Certificate, CertificateWatch, ClientCertificate
from proxy.runtime.event_loop.large_call_handler import LargeCallHandler, NoUpstream

# How many times longer than on the event loop a decision may take in a process of its own.
LARGE_CALL_FACTOR = 64
# Readers of long answers may hold one in so many connections to an upstream, and as many may wait.
STREAM_SHARE = 8


@dataclass(frozen=True, slots=True)
class UpstreamParts:
    """What stands between the gate and one upstream: its connections, and what shares answers."""

    pool: ConnectionPool
    coalescing: CoalescingUpstream
    route: Route


def make_policies(settings: Settings, catalogs: dict[str, Catalog]) -> PolicySet:
    """Load the policy set. Raises `ConfigError` with every problem of it."""
    return load_policies(
        settings.policy.directory,
        catalogs,
        unused=_catalogs_without_upstream(settings),
        issuers=issuer_names(settings),
    )


def make_upstreams(
    settings: Settings, catalogs: dict[str, Catalog], memory: MemoryBudget
) -> list[UpstreamParts]:
    """Make the parts of each upstream, in the order of the settings."""
    all_options = make_codec_options(settings, catalogs)
    parts = []
    for upstream, options in zip(settings.upstreams, all_options, strict=True):
        pool = ConnectionPool(
            make_address(upstream),
            make_options(upstream),
            memory=memory.for_upstream(upstream.name),
        )
        coalescing = CoalescingUpstream(pool, now=pool.now, cache_ttl=0.0)
        streams = upstream.max_connections // STREAM_SHARE
        route = make_route(options, StreamLimit(coalescing, max(1, streams), streams))
        parts.append(UpstreamParts(pool, coalescing, route))
    return parts


def make_codec_options(
    settings: Settings, catalogs: dict[str, Catalog], *, large: bool = False
) -> list[CodecOptions]:
    """Return what the codecs of each upstream are made of, in the order of the settings.

    `large` is for codecs that do not run on the event loop.
    """
    batch_key = derive_batch_key(load_hmac_key(settings.audit.directory))
    return [
        CodecOptions(
            upstream.name,
            catalogs[upstream.name],
            max_batch_calls=settings.limits.max_batch_calls,
            body_bytes=settings.limits.body_bytes,
            prefix=upstream.path_prefix,
            upstream_path=upstream.upstream_path,
            replace_control_characters=upstream.replace_control_characters,
            luigi_batch_key=batch_key,
            max_elements=MAX_ELEMENTS if large else LARGE_ELEMENTS,
            max_xml_elements=MAX_ELEMENTS if large else LARGE_XML_ELEMENTS,
            public_origin=b"" if settings.public_url is None else origin_of(settings.public_url),
        )
        for upstream in settings.upstreams
    ]


def make_large_call_handler(
    settings: Settings, catalogs: dict[str, Catalog], policies: PolicySet
) -> LargeCallHandler:
    """Return what handles large calls in a process of its own."""
    policies.max_ns *= LARGE_CALL_FACTOR
    redactor = Redactor(
        load_hmac_key(settings.audit.directory),
        max_text_bytes=settings.audit.max_text_bytes,
        extra_secret_names=settings.audit.redact_arguments,
    )
    routes = [
        make_route(options, NoUpstream())
        for options in make_codec_options(settings, catalogs, large=True)
    ]
    return LargeCallHandler(Router(routes), policies, RecordEncoder(redactor).encode_args)


def load_catalogs(settings: Settings) -> dict[str, Catalog]:
    """Return the catalog of each upstream, by the upstream's name.

    Raises:
        ConfigError: with the problems of all catalogs.
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


def open_journal(settings: Settings, name: str) -> Journal:
    """Open the log instance `name`."""
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
        denials_per_minute=audit.denials_per_minute,
    )


def _catalogs_without_upstream(settings: Settings) -> list[Catalog]:
    """Return the catalogs that no upstream has; policies may name their methods too."""
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
    """Return the issuers, the local one included, each with the source of its keys."""
    if any(given.jwks_file is None for given in settings.issuers):
        # Imported here: aiohttp takes a quarter of a second to load.
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
            OidcKeys(
                given.issuer,
                make_fetcher(given.ca_file),
                max_age_seconds=given.keys_max_age_seconds,
            )
            if given.jwks_file is None
            else JwksFile(given.jwks_file, max_age_seconds=given.keys_max_age_seconds)
        )
        issuers.append(Issuer(given.name, profile, source))
    local = settings.local_issuer
    if local is not None:
        profile = TokenProfile(
            local.issuer, (local.audience,), max_lifetime_seconds=local.max_lifetime_seconds
        )
        issuers.append(Issuer("local", profile, JwksFile(local.jwks_file, made_later=True)))
    return issuers


def make_address(upstream: Upstream) -> UpstreamAddress:
    """Return where the connections to `upstream` go."""
    authorization = b""
    if upstream.basic_auth is not None:
        authorization = b"Basic " + base64.b64encode(upstream.basic_auth.reveal().strip().encode())
    address = UpstreamAddress(authorization=authorization)
    if upstream.socket_path is not None:
        return replace(address, socket=str(upstream.socket_path))
    url = split_url(upstream.url)
    host = url.hostname or "127.0.0.1"
    if url.scheme == "http":
        return replace(address, host=host, port=url.port or 80)
    key = (
        None
        if upstream.client_key is None
        else (upstream.client_key.file or upstream.client_key.reveal())
    )
    tls = upstream_context(upstream.ca_file, upstream.client_certificate, key)
    return replace(address, host=host, port=url.port or 443, tls=tls, server_hostname=host)


def make_options(upstream: Upstream) -> UpstreamOptions:
    """Return the limits of the connections to `upstream`."""
    return UpstreamOptions(
        connect_timeout=upstream.connect_timeout_seconds,
        response_timeout=upstream.response_timeout_seconds,
        read_timeout=upstream.read_timeout_seconds,
        max_connections=upstream.max_connections,
    )


def make_limits(settings: Settings) -> Limits:
    """Return the limits of client connections."""
    limits = settings.limits
    return Limits(
        header_bytes=limits.header_bytes,
        body_bytes=limits.body_bytes,
        header_seconds=limits.header_seconds,
        body_seconds=limits.body_seconds,
        idle_seconds=limits.idle_seconds,
        write_seconds=limits.write_seconds,
    )


def make_certificates(settings: Settings) -> list[ReloadingCertificate | None]:
    """Return the certificate of each listener; None for plain HTTP."""
    return [
        None
        if each.certificate is None or each.key is None
        else ReloadingCertificate(each.certificate, each.key.file or each.key.reveal())
        for each in settings.listeners
    ]


def make_certificate_watch(
    settings: Settings, listeners: Sequence[ReloadingCertificate | None], *, reports: bool
) -> CertificateWatch:
    """Return the watch over the certificates of the listeners and those shown to upstreams."""
    watched: dict[str, Certificate] = {
        f"listeners[{number}].certificate": certificate
        for number, certificate in enumerate(listeners)
        if certificate is not None
    }
    for number, upstream in enumerate(settings.upstreams):
        if upstream.client_certificate is not None:
            name = f"upstreams[{number}].client_certificate"
            watched[name] = ClientCertificate(read_validity(upstream.client_certificate))
    return CertificateWatch(watched, reports=reports)
