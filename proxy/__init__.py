"""Callgate: an identity-aware reverse proxy in front of workflow schedulers.

A call's way, and the nouns of `model` that travel along it::

    bytes      edge/server     reads a request within limits            Request
      |        gate/pipeline   takes a request through ten numbered steps
      |        identity        who is calling?                          Principal
      |        protocol        what do they ask?                        Call, Batch
      |        policy          may they?                                Decision
      |        audit/writing   is it on disk?                           Receipt
      |        edge/upstream   sends a fresh encoding; needs a Receipt  UpstreamRequest
      v        protocol        reads the answer                         UpstreamResponse
    bytes      edge/server     writes it, and the outcome is recorded   Response

Only the package in a noun's line makes it. So no code path can forward a call that was not
identified, decoded, decided and durably recorded first.

Higher imports lower, never sideways (`tests/test_layers.py`)::

    cli > clients > runtime > web > edge | telemetry > gate
        > identity | protocol | policy | audit > state > catalog | config > common > errors > model

=========  ========================================================================================
cli        one module a verb; `cli/audit` reads logs, `cli/demo` is the demo
runtime    `wiring` makes the parts of a process, `process` is its life, `supervisor` runs several;
           `event_loop` keeps it free: large calls have processes of their own
edge       sockets: `server` faces clients, `upstream` schedulers; `pool` and its `wait_queue`
           decide which call gets a connection, `fair_semaphore` shares reads among callers
telemetry  the operator's log, and metrics
gate       the pipeline, and in `ports` what it needs of the other packages
identity   tokens, keys, issuers; `access_token` checks every claim
protocol   codecs: `luigi`, `xmlrpc`; may import `catalog`, `common`, `errors` and `model`
policy     Cedar: load, decide, remember
audit      `format` is shared by `writing` and `checking`, which never meet; `reading`, `reporting`;
           `writing/writer` flushes a batch to disk, the pipeline awaits it before it forwards
catalog    the methods of an upstream, their permissions and arguments
config     callgate.toml
common     what every layer may use; no knowledge of Callgate
errors     every refusal reason with its status, summary and hint; `Reason` itself is in `model`
=========  ========================================================================================

`web` (pages for people), `state` (what outlives a process) and `clients` (verbs that call other
services) have their place in the rule, and come later.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("callgate")
except PackageNotFoundError:  # a checkout on the path that is not installed
    __version__ = "0+checkout"
