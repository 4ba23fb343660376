"""The tables of ``callgate.toml`` as frozen types: every key, its kind, its default, and what it is
for.

The descriptions are read by people: an error about a key repeats its description as the remedy.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from proxy.config.values import (
    Address,
    Directory,
    ExistingDirectory,
    ExistingFile,
    IssuerUrl,
    LoopbackAddress,
    Name,
    Prefix,
    RequestPath,
    SecretValue,
    UpstreamUrl,
)

Seconds = Annotated[float, Field(gt=0, le=86400)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    """A table of the file: frozen, and strict, so that ``port = "8443"`` is an error and not a
    guess.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", arbitrary_types_allowed=True
    )


class Listen(_Section):
    """``[listen]``: where clients connect. Plain HTTP only on a loopback address, and only when
    asked for.
    """

    address: Address = Field(default="127.0.0.1", description="the IP address to listen on")
    port: Port = Field(default=8443, description="the TCP port to listen on")
    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="how many processes share the port"
    )
    plain_http: bool = Field(
        default=False, description="serve without TLS, on a loopback address only"
    )


class Tls(_Section):
    """``[tls]``: the gate's certificate chain and its key, both PEM."""

    certificate: ExistingFile = Field(description="the PEM file with the certificate chain")
    key: SecretValue = Field(
        description='the private key, as { file = "path" } or { env = "NAME" }'
    )


class Issuer(_Section):
    """``[[issuers]]``: one whose tokens are accepted. Keys come by OIDC discovery, or from
    `jwks_file` when that is set.
    """

    name: Name = Field(description="a short name; records and policies name its users by it")
    issuer: IssuerUrl = Field(description="the issuer's URL, exactly as in the iss of its tokens")
    audiences: tuple[Text, ...] = Field(
        min_length=1,
        description="the audiences (aud) of Callgate; a token has at least one of them",
    )
    groups_claim: Text = Field(
        default="groups", description="the claim that lists the user's groups"
    )
    token_types: tuple[Text, ...] = Field(
        default=("at+jwt",),
        min_length=1,
        description="the values of a token's typ header to accept",
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


class LocalIssuer(_Section):
    """``[local_issuer]``: the gate's own issuer, for those without an identity provider. Its name
    is ``local``.
    """

    directory: Directory = Field(
        description="the directory with the issuer's keys (made on first use)"
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


class Upstream(_Section):
    """``[[upstreams]]``: a scheduler behind the gate, and the path prefix under which clients find
    it.
    """

    name: Name = Field(description='a short name; policies call it Scheduler::"name"')
    protocol: Literal["luigi", "xmlrpc"] = Field(description='what it speaks, "luigi" or "xmlrpc"')
    url: UpstreamUrl = Field(
        description="http://host:port, https://host:port or unix:/path/of.sock"
    )
    path_prefix: Prefix = Field(
        default="/", description='the path prefix for clients, "/" or such as "/team-a"'
    )
    catalog: Name = Field(
        default="",
        validate_default=False,
        description="the catalog of its methods: policies/catalogs/<name>.toml",
    )
    upstream_path: RequestPath = Field(
        default="",
        description='the path on the upstream: of XML-RPC "/RPC2", of luigi a base path or nothing',
    )
    ca_file: ExistingFile | None = Field(
        default=None, description="a PEM file with the CA of an https upstream"
    )
    client_certificate: ExistingFile | None = Field(
        default=None, description="a PEM file with the gate's client certificate"
    )
    client_key: SecretValue | None = Field(
        default=None, description="the key of the client certificate"
    )
    basic_auth: SecretValue | None = Field(
        default=None, description="user:password that the upstream itself asks for (HTTP Basic)"
    )
    connect_timeout_seconds: Seconds = Field(default=5.0, description="the time to connect in")
    response_timeout_seconds: Seconds = Field(
        default=60.0, description="the time the first byte of an answer may take"
    )
    read_timeout_seconds: Seconds = Field(
        default=30.0, description="the longest pause within an answer"
    )
    max_connections: Count = Field(
        default=64, description="how many connections to hold to it at most"
    )

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket of a ``unix:`` URL, or None."""
        return Path(self.url.removeprefix("unix:")) if self.url.startswith("unix:") else None


class Policy(_Section):
    """``[policy]``: the directory with the Cedar policies, roles.toml and catalogs/."""

    directory: ExistingDirectory = Field(
        description="the directory with *.cedar, roles.toml and catalogs/"
    )


class Audit(_Section):
    """``[audit]``: where the journal goes. There is no way to go without one."""

    directory: Directory = Field(description="the directory of the journal")
    name: Name = Field(default="gate", description="the name of this gate in its journal")
    origin_prefix: Name = Field(
        default="callgate",
        description="the name before it in the log's origin, site/name; a log keeps the one it began with",
    )
    signing_key: SecretValue | None = Field(
        default=None,
        description="the Ed25519 key (PEM) that signs checkpoints, else one beside the log",
    )
    redact_arguments: tuple[Text, ...] = Field(
        default=(),
        description="names of arguments to withhold, beside those that look like secrets",
    )
    max_text_bytes: Annotated[int, Field(ge=64, le=16384)] = Field(
        default=1024, description="longer texts are recorded as length and hash"
    )
    segment_bytes: Annotated[int, Field(ge=65536, le=1 << 32)] = Field(
        default=64 << 20, description="the size at which a segment is sealed"
    )


class Limits(_Section):
    """``[limits]``: what one client may use before and after the gate knows who it is."""

    header_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = Field(
        default=65536, description="request line and headers, in bytes"
    )
    body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=16 << 20, description="a request body, in bytes"
    )
    header_seconds: Seconds = Field(
        default=10.0, description="the time for the request line and headers to arrive"
    )
    body_seconds: Seconds = Field(default=30.0, description="the time for the body to arrive")
    write_seconds: Seconds = Field(
        default=30.0, description="the time in which a client has to take 64 KiB of an answer"
    )
    idle_seconds: Seconds = Field(
        default=75.0, description="how long a kept-alive connection may rest between requests"
    )
    handshake_seconds: Seconds = Field(default=10.0, description="the time for a TLS handshake")
    max_connections: Count = Field(default=10000, description="open connections at once")
    connections_per_address: Count = Field(
        default=512, description="open connections at once from one address"
    )
    max_in_flight: Count = Field(default=1024, description="requests being worked on at once")
    max_batch_calls: Count = Field(default=100, description="calls in one system.multicall")
    drain_seconds: Seconds = Field(
        default=20.0, description="how long to wait for running calls when shutting down"
    )


class Metrics(_Section):
    """``[metrics]``: the Prometheus listener, on loopback only; port 0 turns it off."""

    address: LoopbackAddress = Field(default="127.0.0.1", description="a loopback address")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=9464, description="the port, or 0 for no metrics"
    )


class Log(_Section):
    """``[log]``: what goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least level to write"
    )
    format: Literal["json", "console"] = Field(
        default="json", description='"json" for machines, "console" for people'
    )


class Settings(_Section):
    """All settings of one gate. `file` is where they came from."""

    file: Path = Field(default=Path("callgate.toml"), exclude=True)
    listen: Listen = Field(default_factory=Listen, description="where clients connect")
    tls: Tls | None = Field(default=None, description="the gate's certificate and key")
    issuers: tuple[Issuer, ...] = Field(default=(), description="whose tokens are accepted")
    local_issuer: LocalIssuer | None = Field(default=None, description="the gate's own issuer")
    upstreams: tuple[Upstream, ...] = Field(
        default=(), description="the schedulers behind the gate"
    )
    policy: Policy = Field(description="where the policies are")
    audit: Audit = Field(description="where the journal goes")
    limits: Limits = Field(default_factory=Limits, description="what one client may use")
    metrics: Metrics = Field(default_factory=Metrics, description="the Prometheus listener")
    log: Log = Field(default_factory=Log, description="what goes to standard error")
