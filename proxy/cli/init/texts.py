"""The settings and the systemd unit that ``callgate init`` writes, as format strings."""

SETTINGS = """\
# Written by callgate init. Every key that is not here has its default; paths start at this file.
[[listeners]]
address = {address}
port = {port}
certificate = {certificate}
key = {{ file = {key} }}

{issuer}
[[upstreams]]
name = {name}
protocol = {protocol}
url = {url}
{more}catalog = {catalog}

[policy]
directory = "policies"

[audit]
directory = "audit"
"""

LOCAL_ISSUER = """\
[local_issuer]
directory = "issuer"
"""

ISSUER = """\
[[issuers]]
name = "idp"
issuer = {issuer}
audiences = [{audience}]
"""

UNIT = """\
# systemd unit, written by callgate init. To install it: systemctl enable --now {unit}
[Unit]
Description=Callgate, an identity-aware reverse proxy for workflow schedulers
After=network-online.target
Wants=network-online.target

[Service]
User={user}
Group={group}
# The unit is active once calls are accepted. systemd before 253 does not know this type: use
# Type=notify there, and ExecReload= with callgate reload.
Type=notify-reload
ExecStartPre={program} check --config {config}
ExecStart={program} serve --config {config}
Restart=on-failure
RestartSec=1
# Longer than limits.drain_seconds, so that calls in progress are finished and recorded.
TimeoutStopSec=30
LimitNOFILE=65536
UMask=0077
ReadWritePaths={directory}

# Callgate needs the network, its settings and its state, and nothing else.
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome={home}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
PrivateTmp={private_tmp}
PrivateDevices=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# Fail these calls instead of killing the process: the compressor asks for a lower priority, and
# works without.
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

NEXT = """\
{directory}: settings for {url}, with {catalog}. Next:

  {callgate} check --config {config}
  {callgate} serve --config {config}
  {token}

Clients use {client}{trust}. The unit for systemd is
{unit}.
"""
