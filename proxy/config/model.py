"""The tables of ``callgate.toml`` as frozen types: every key, its kind, its default, its purpose.

An error about a key repeats the key's description as its hint, so descriptions are noun phrases
without a full stop. The TOML keys of a release are an interface; `proxy.config.renamed_keys` has
the names that earlier releases used.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from proxy.config.values import (
    Address,
    Directory,
    ExistingDirectory,
    ExistingFile,
    IssuerUrl,
    LoopbackAddress,
    Name,
    Network,
    Prefix,
    PublicUrl,
    RequestPath,
    SecretValue,
    UpstreamUrl,
)

Seconds = Annotated[float, Field(gt=0, le=86400)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Texts = tuple[Text, ...]


class _Table(BaseModel):
    """A table of the file. It is strict: ``port = "8443"`` is an error, not a number."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True
    )


class Listener(_Table):
    """``[[listeners]]``: an address on which clients connect, with TLS as a rule."""

    address: Address = Field(default="127.0.0.1", description="the IP address to listen on")
    port: Port = Field(default=8443, description="the TCP port to listen on")
    certificate: ExistingFile | None = Field(
        default=None, description="the PEM file with the certificate chain of Callgate"
    )
    key: SecretValue | None = Field(
        default=None, description='the private key, as { file = "path" } or { env = "NAME" }'
    )
    plain_http: bool = Field(
        default=False, description="true to serve without TLS, on a loopback address only"
    )
    proxy_protocol_from: tuple[Network, ...] = Field(
        default=(),
        description="the addresses or networks of balancers, each of which sends a PROXY header",
    )


class Issuer(_Table):
    """``[[issuers]]``: an identity provider whose tokens are accepted.

    Its keys come by OIDC discovery, or from `jwks_file` if that is set.
    """

    name: Name = Field(description="a short name; records and policies name its users by it")
    issuer: IssuerUrl = Field(description="the issuer's URL, exactly as in the iss of its tokens")
    audiences: Texts = Field(
        min_length=1,
        description="the audiences (aud) of Callgate; a token has at least one of them",
    )
    groups_claim: Text = Field(
        default="groups", description="the claim that lists the user's groups"
    )
    token_types: Texts = Field(
        default=("at+jwt",), min_length=1, description="the values of the typ header to accept"
    )
    jwks_file: ExistingFile | None = Field(
        default=None, description="a key-set file, instead of discovery over HTTPS"
    )
    ca_file: ExistingFile | None = Field(
        default=None, description="a PEM file with the CA of the issuer's own HTTPS server"
    )
    max_lifetime_seconds: Seconds = Field(
        default=86400.0, description="the longest lifetime of a token to accept"
    )
    keys_max_age_seconds: Annotated[float, Field(ge=10, le=86400)] = Field(
        default=3600.0, description="how long keys are used while a newer set cannot be read"
    )


class LocalIssuer(_Table):
    """``[local_issuer]``: Callgate's own issuer, for sites without an identity provider.

    Its name in policies and records is ``local``.
    """

    directory: Directory = Field(
        description="the directory of the issuer's keys, made on first use"
    )
    issuer: IssuerUrl = Field(
        default="https://callgate.local/issuer", description="the iss of its tokens"
    )
    audience: Text = Field(default="callgate", description="the aud of its tokens")
    max_lifetime_seconds: Seconds = Field(
        default=86400.0, description="the longest lifetime of a token to issue and accept"
    )

    @property
    def jwks_file(self) -> Path:
        """The key set that the verifier reads; it appears with the first key."""
        return self.directory / "jwks.json"


def _default_catalog(fields: dict[str, Any]) -> str:
    return "luigi" if fields.get("protocol") == "luigi" else ""


def _default_upstream_path(fields: dict[str, Any]) -> str:
    return "/RPC2" if fields.get("protocol") == "xmlrpc" else ""


class Upstream(_Table):
    """``[[upstreams]]``: a scheduler, and the path prefix under which clients find it."""

    name: Name = Field(description='a short name; policies call it Scheduler::"name"')
    protocol: Literal["luigi", "xmlrpc"] = Field(description="the wire protocol of the scheduler")
    url: UpstreamUrl = Field(
        description="http://host:port, https://host:port or unix:/path/of.sock"
    )
    path_prefix: Prefix = Field(
        default="/", description='the path prefix for clients, "/" or such as "/team-a"'
    )
    catalog: Name = Field(
        default_factory=_default_catalog,
        validate_default=False,
        description="the catalog of its methods, policies/catalogs/<name>.toml without .toml",
    )
    upstream_path: RequestPath = Field(
        default_factory=_default_upstream_path,
        description='the path on the upstream: of XML-RPC "/RPC2", of luigi a base path or nothing',
    )
    replace_control_characters: bool = Field(
        default=False,
        description="whether control characters in an answer of XML-RPC become U+FFFD",
    )
    ca_file: ExistingFile | None = Field(
        default=None, description="a PEM file with the CA of an https upstream"
    )
    client_certificate: ExistingFile | None = Field(
        default=None, description="a PEM file with the client certificate of Callgate"
    )
    client_key: SecretValue | None = Field(
        default=None, description="the key of the client certificate"
    )
    basic_auth: SecretValue | None = Field(
        default=None, description="user:password that the upstream itself requires (HTTP Basic)"
    )
    connect_timeout_seconds: Seconds = Field(
        default=5.0, description="the time to establish a connection"
    )
    response_timeout_seconds: Seconds = Field(
        default=60.0, description="the time until the first byte of a response"
    )
    read_timeout_seconds: Seconds = Field(
        default=30.0, description="the longest pause within a response"
    )
    max_connections: Count = Field(default=64, description="the most connections open to it")

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket of a ``unix:`` URL, or None."""
        return Path(self.url.removeprefix("unix:")) if self.url.startswith("unix:") else None


class Policy(_Table):
    """``[policy]``: the Cedar policies, roles.toml and catalogs/."""

    directory: ExistingDirectory = Field(
        description="the directory with *.cedar, roles.toml and catalogs/"
    )


class State(_Table):
    """``[state]``: what outlives a process. Nothing uses it yet."""

    directory: Directory = Field(description="the directory of the store and of cookie keys")


class Audit(_Table):
    """``[audit]``: the journal. Callgate does not run without one."""

    directory: Directory = Field(description="the directory of the journal")
    name: Name = Field(default="gate", description="the name of this installation in its journal")
    origin_prefix: Name = Field(
        default="callgate",
        description="the first part of the origin line of checkpoints, origin_prefix/name; "
        "a log keeps the one it began with",
    )
    signing_key: SecretValue | None = Field(
        default=None,
        description="the Ed25519 key (PEM) that signs checkpoints; "
        "without it, the one in the directory",
    )
    redact_arguments: Texts = Field(
        default=(),
        description="names of arguments to redact, in addition to those that look like secrets",
    )
    max_text_bytes: Annotated[int, Field(ge=64, le=16384)] = Field(
        default=1024, description="the size beyond which a text is recorded as length and hash"
    )
    segment_bytes: Annotated[int, Field(ge=65536, le=1 << 32)] = Field(
        default=64 << 20, description="the size at which a segment is sealed"
    )
    denials_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=60,
        description="the refusals of one principal that are recorded one by one; "
        "the rest are counted in one record a minute",
    )


class Limits(_Table):
    """``[limits]``: what one client may use before and after it is identified."""

    header_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = Field(
        default=65536, description="the most bytes of request line and headers"
    )
    body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=16 << 20, description="the most bytes of a request body"
    )
    header_seconds: Seconds = Field(
        default=10.0, description="the time for the request line and headers to arrive"
    )
    body_seconds: Seconds = Field(default=30.0, description="the time for the body to arrive")
    write_seconds: Seconds = Field(
        default=30.0, description="the time in which a client has to take 64 KiB of a response"
    )
    idle_seconds: Seconds = Field(
        default=75.0, description="the time a connection may be idle between requests"
    )
    handshake_seconds: Seconds = Field(default=10.0, description="the time for a TLS handshake")
    max_connections: Count = Field(default=10000, description="the most connections open at once")
    connections_per_address: Count = Field(
        default=512, description="the most connections open at once from one address"
    )
    memory_bytes: Annotated[int, Field(ge=16 << 20, le=1 << 40)] = Field(
        default=256 << 20,
        description="the memory of one process for bodies and answers in hand, in bytes",
    )
    max_in_flight: Count = Field(default=1024, description="the most requests in progress at once")
    max_batch_calls: Count = Field(
        default=100, description="the most calls in one system.multicall"
    )
    drain_seconds: Seconds = Field(
        default=20.0, description="the time that calls in progress get at shutdown"
    )


class Metrics(_Table):
    """``[metrics]``: the Prometheus endpoint, on loopback only; port 0 turns it off."""

    address: LoopbackAddress = Field(default="127.0.0.1", description="a loopback address")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=9464, description="the port, or 0 for no metrics"
    )


class Log(_Table):
    """``[log]``: events on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the lowest level to write"
    )
    format: Literal["json", "console"] = Field(default="json", description="the form of a line")


class Settings(_Table):
    """All settings of one Callgate."""

    public_url: PublicUrl | None = Field(
        default=None, description="the https URL of Callgate as its users know it"
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="the number of processes that share the listeners"
    )
    listeners: tuple[Listener, ...] = Field(
        default=(), description="the addresses on which clients connect"
    )
    issuers: tuple[Issuer, ...] = Field(
        default=(), description="the identity providers whose tokens are accepted"
    )
    local_issuer: LocalIssuer | None = Field(default=None, description="Callgate's own issuer")
    upstreams: tuple[Upstream, ...] = Field(
        default=(), description="the schedulers behind Callgate"
    )
    policy: Policy = Field(description="the location of the policies")
    state: State | None = Field(default=None, description="the location of shared state")
    audit: Audit = Field(description="the location of the journal")
    limits: Limits = Field(default_factory=Limits, description="the limits of one client")
    metrics: Metrics = Field(default_factory=Metrics, description="the Prometheus endpoint")
    log: Log = Field(default_factory=Log, description="the events on standard error")

    _file: Path = PrivateAttr(default=Path("callgate.toml"))

    def model_post_init(self, context: Any, /) -> None:
        """Note the file that the settings come from, of a `proxy.config.values.Context`."""
        if context is not None:
            self._file = context["file"]

    @property
    def file(self) -> Path:
        """The file that the settings come from; no key of it."""
        return self._file
