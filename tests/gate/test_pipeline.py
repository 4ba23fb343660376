"""The pipeline's laws, with real tokens, real policies and a real journal; only the upstream's
socket is a double.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from proxy.audit.reading.reader import read_all
from proxy.audit.reading.records import members_of
from proxy.audit.writing.disk import Disk
from proxy.audit.writing.journal import Journal
from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Catalog
from proxy.common.memory_budget import Reservation
from proxy.edge.server.request_ids import new_request_id_source
from proxy.errors import Rejected, Unavailable
from proxy.gate.pipeline import Gate
from proxy.gate.ports import Decider, Upstream
from proxy.gate.routing import make_route
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.identity.local_issuer import LocalIssuer
from proxy.identity.verifier import Verifier
from proxy.model import (
    Call,
    Decision,
    Peer,
    Principal,
    Reason,
    Receipt,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.policy.engine import PolicySet
from proxy.policy.load import load_policies
from proxy.protocol.codec_table import CodecOptions
from proxy.protocol.xmlrpc.codec import decode_response, encode_call
from proxy.telemetry.metrics import Metrics
from tests.support.paths import ROOT

POLICIES = ROOT / "policies"
NOW = 1_800_000_000.0
FORM = b"application/x-www-form-urlencoded"
next_id = new_request_id_source()


class ScriptedUpstream:
    """A double for the upstream: notes what it was sent, and whether the call's record was on disk
    by then.
    """

    def __init__(self, journal_directory: Path) -> None:
        self.journal_directory = journal_directory
        self.sent: list[UpstreamRequest] = []
        self.recorded: list[bool] = []
        self.answer: UpstreamResponse | Unavailable | Exception = UpstreamResponse(
            200, {b"content-type": b"application/json"}, b'{"response": null}'
        )

    async def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> UpstreamResponse:
        self.sent.append(outbound)
        self.recorded.append(
            any(
                r.get("id") == receipt.call_id and r["stage"] == "decided"
                for r in read_records(self.journal_directory)
            )
        )
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class SilentLog:
    """Keeps the lines instead of writing them."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def denied(self, ref: str, principal: str, upstream: str, method: str, reason: str) -> None:
        self.lines.append(("denied", {"ref": ref, "principal": principal, "method": method}))

    def internal_error(self, ref: str, error: str, at: Sequence[str]) -> None:
        self.lines.append(("internal error", {"ref": ref, "error": error, "at": at}))

    def rejected(self, ref: str, address: str, reason: str) -> None:
        self.lines.append(("rejected", {"ref": ref, "address": address, "reason": reason}))

    def upstream_failed(self, ref: str, upstream: str, method: str, reason: str) -> None:
        self.lines.append(
            (
                "upstream failed",
                {"ref": ref, "upstream": upstream, "method": method, "reason": reason},
            )
        )


def read_records(directory: Path) -> list[dict[str, Any]]:
    """Every record of every segment, in order."""
    return [members_of(item.raw) for item in read_all(directory)]


def calls_of(directory: Path) -> list[dict[str, Any]]:
    """The records about requests, without the log's own."""
    return [
        r for r in read_records(directory) if r["stage"] in ("decided", "completed", "rejected")
    ]


@cache
def shipped() -> tuple[Catalog, Catalog, PolicySet]:
    """Return the shipped catalogs and policies, loaded once."""
    catalog = load_catalog(POLICIES / "catalogs" / "luigi.toml")
    supervisor = load_catalog(POLICIES / "catalogs" / "supervisor.toml")
    return catalog, supervisor, load_policies(POLICIES, {"luigi": catalog, "processes": supervisor})


class Bench:
    """A gate with everything real but the upstream, and a way to send it requests."""

    def __init__(self, tmp_path: Path, journal: Journal) -> None:
        self.audit = tmp_path / "audit"
        self.journal = journal
        self.issuer = LocalIssuer(tmp_path / "issuer")
        self.issuer.prepare(NOW)
        catalog, supervisor, policy = shipped()
        profile = TokenProfile(self.issuer.issuer, (self.issuer.audience,))
        self.verifier = Verifier(
            [Issuer("local", profile, JwksFile(self.issuer.key_set))], policy.roles.of
        )
        self.upstream = ScriptedUpstream(self.audit)
        self.log = SilentLog()
        self.policy = policy
        self.options = [
            CodecOptions("luigi", catalog, max_batch_calls=10, body_bytes=1 << 20, prefix="/"),
            CodecOptions(
                "processes",
                supervisor,
                max_batch_calls=10,
                body_bytes=1 << 20,
                prefix="/processes",
            ),
        ]
        self.use(self.upstream)

    def use(self, upstream: Upstream, max_in_flight: int = 8) -> None:
        """Make the gate anew, with `upstream` in every route."""
        self.gate = Gate(
            [make_route(options, upstream) for options in self.options],
            self.verifier,
            self.policy,
            self.journal,
            Metrics(),
            self.log,
            max_in_flight=max_in_flight,
            clock=lambda: NOW,
        )

    def token(self, role: str) -> bytes:
        return b"Bearer " + self.issuer.issue(f"{role}-1", [role], 3600, NOW).encode()

    async def ask(
        self,
        path: str,
        role: str | None,
        body: bytes = b"",
        kind: bytes = FORM,
        verb: str = "POST",
        **headers: bytes,
    ) -> Response:
        sent = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        sent[b"host"] = b"localhost"
        if body:
            sent[b"content-type"] = kind
        if role is not None:
            sent[b"authorization"] = self.token(role)
        path, _, query = path.partition("?")
        request = Request(
            next_id(),
            verb,
            path,
            query or None,
            sent,
            body,
            Peer("127.0.0.1", 4711, "TLSv1.3", "test"),
        )

        async def no_more(memory: Reservation | None = None) -> bytes:
            raise AssertionError("the body was whole")

        return await self.gate.handle(request, no_more)

    async def xmlrpc(self, path: str, role: str | None, method: str, *params: Any) -> Response:
        return await self.ask(path, role, encode_call(method, params), b"text/xml")


def held_up(bench: Bench, *kinds: str, max_in_flight: int = 8) -> asyncio.Event:
    """Make the upstream hold its responses (to these kinds of calls, or all) until the event is
    set.
    """
    release = asyncio.Event()
    upstream = bench.upstream

    class SlowUpstream(ScriptedUpstream):
        async def forward(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
            if not kinds or request.kind in kinds:
                await release.wait()
            return await upstream.forward(receipt, request)

    bench.use(SlowUpstream(bench.audit), max_in_flight)
    return release


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A gate over a fresh journal."""
    journal = Journal.open(tmp_path / "audit", name="gate")
    bench = Bench(tmp_path, journal)
    await bench.verifier.start()
    yield bench
    await bench.verifier.close()
    await journal.close()


async def test_record_is_on_disk_before_the_call_leaves(bench: Bench) -> None:
    """Law 2: when the upstream is sent a call, its `decided` record can already be read from the
    file.
    """
    reply = await bench.ask("/api/pause", "admin")
    assert reply.status == 200
    assert bench.upstream.recorded == [True]
    await bench.journal.close()
    decided, completed = calls_of(bench.audit)
    assert (decided["stage"], decided["method"], decided["decision"]) == (
        "decided",
        "pause",
        "allow",
    )
    assert (completed["stage"], completed["outcome"], completed["id"]) == (
        "completed",
        "ok",
        decided["id"],
    )


async def test_denied_call_is_recorded_and_not_forwarded(bench: Bench) -> None:
    """Law 3: a viewer may not pause; the reply's line, the log and the record give the same reason
    and reference.
    """
    reply = await bench.ask("/api/pause", "viewer")
    assert reply.status == 403
    assert reply.phrase.startswith(
        b"callgate: viewer-1 (viewer) may not pause luigi [no-policy-allows, ref "
    )
    assert bench.upstream.sent == []
    await bench.journal.close()
    [decided] = calls_of(bench.audit)
    assert (decided["decision"], decided["reason"]) == ("deny", "no-policy-allows")
    assert decided["id"].encode() in reply.phrase
    assert ("denied", decided["id"]) in [
        (event, fields.get("ref")) for event, fields in bench.log.lines
    ]


class OwnedUpstream(ScriptedUpstream):
    """A luigid in which every task runs on the worker of another identity."""

    async def forward(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        answer = await super().forward(receipt, request)
        if request.kind != "question":
            return answer
        task = {"A_1": {"status": "RUNNING", "worker_running": "w [local:other]"}}
        return replace(answer, body=json.dumps({"response": task}).encode())


async def test_a_question_is_on_disk_before_it_leaves_too(bench: Bench) -> None:
    """What the gate asks on its own account has a record; what is another's to say is not sent."""
    upstream = OwnedUpstream(bench.audit)
    bench.use(upstream)
    report = b'data={"worker":"w","task_id":"A_1","status":"DONE","new_deps":["B_1"]}'
    message = b'data={"task_id":"A_1","status_message":"x"}'
    for path, body in (("/api/add_task", report), ("/api/set_task_status_message", message)):
        answer = await bench.ask(path, "worker", body)
        assert (answer.status, answer.body) == (200, b'{"response": null}')
    assert [o.path for o in upstream.sent] == [
        b"/api/dep_graph",
        b"/api/add_task",
        b"/api/dep_graph",
    ]
    assert b"new_deps" not in upstream.sent[1].body
    assert all(upstream.recorded)
    await bench.journal.close()
    records = calls_of(bench.audit)
    decided = [(r["method"], r["id"].partition(".")[2]) for r in records if r["stage"] == "decided"]
    assert decided == [
        ("add_task", ""),
        ("dep_graph", "q0"),
        ("set_task_status_message", ""),
        ("dep_graph", "q0"),
    ]
    ends = {r["id"]: r.get("reason", r["outcome"]) for r in records if r["stage"] == "completed"}
    assert sorted(ends.values()) == ["not-your-worker", "not-your-worker", "ok", "ok"]
    denied = [fields for event, fields in bench.log.lines if event == "denied"]
    assert [fields["method"] for fields in denied] == ["add_task", "set_task_status_message"]


async def test_a_question_without_an_answer_fails_the_report(bench: Bench) -> None:
    """Nothing is sent that could be another's to say."""
    bench.upstream.answer = Unavailable(Reason.UPSTREAM_TIMEOUT, sent=True)
    message = b'data={"task_id":"A_1","status_message":"x"}'
    answer = await bench.ask("/api/set_task_status_message", "worker", message)
    assert answer.status == 504
    assert [o.path for o in bench.upstream.sent] == [b"/api/dep_graph"]
    await bench.journal.close()
    ends = [r.get("reason") for r in calls_of(bench.audit) if r["stage"] == "completed"]
    assert ends == ["upstream-timeout", "upstream-timeout"]


async def test_denied_get_work_is_the_disabled_answer(bench: Bench) -> None:
    """Law 7: a worker that may not work is told so in luigid's own words, which it does not retry."""
    reply = await bench.ask("/api/get_work", "viewer", b'data={"worker":"w","host":"h"}')
    assert reply.status == 200
    assert json.loads(reply.body)["response"]["worker_state"] == "disabled"
    assert bench.upstream.sent == []


async def test_draining_gate_answers_get_work_disabled(bench: Bench) -> None:
    """A gate that shuts down lets workers end in order: no new work, everything else goes on."""
    bench.gate.draining = True
    work = await bench.ask("/api/get_work", "worker", b'data={"worker":"w","host":"h"}')
    assert json.loads(work.body)["response"]["worker_state"] == "disabled"
    ping = await bench.ask("/api/ping", "worker", b'data={"worker":"w"}')
    assert ping.status == 200
    assert [o.path for o in bench.upstream.sent] == [b"/api/ping"]


@pytest.mark.parametrize(
    ("role", "status", "reason"),
    [(None, 401, "no-credential"), ("stranger", 403, "no-role")],
)
async def test_no_token_and_no_role(
    bench: Bench, role: str | None, status: int, reason: str
) -> None:
    """Without a token 401, without a role 403, and nothing is forwarded either way."""
    reply = await bench.ask("/api/task_list", role)
    assert reply.status == status
    assert json.loads(reply.body)["error"]["reason"] == reason
    assert bench.upstream.sent == []


async def test_client_headers_and_credentials_stay_here(bench: Bench) -> None:
    """Law 4: what goes upstream is ours alone; the token is in no outbound part and in no record."""
    token = bench.token("admin")
    await bench.ask("/api/pause", "admin", x_forwarded_user=b"root", if_none_match=b"x")
    [outbound] = bench.upstream.sent
    assert (outbound.http_method, outbound.path, outbound.body) == (
        "POST",
        b"/api/pause",
        b"data={}",
    )
    await bench.journal.close()
    written = [item.raw for item in read_all(bench.audit)]
    assert written
    assert token.removeprefix(b"Bearer ") not in b"\n".join(written)


async def test_worker_id_is_marked_upstream_and_unmarked_in_the_answer(bench: Bench) -> None:
    """The worker id is bound to the identity, and a worker still recognises itself in the answer to
    get_work.
    """
    bench.upstream.answer = UpstreamResponse(
        200,
        {b"content-type": b"application/json"},
        json.dumps(
            {
                "response": {
                    "running_tasks": [
                        {"worker": "w [local:worker-1]"},
                        {"worker": "v [local:other]"},
                    ]
                }
            }
        ).encode(),
    )
    reply = await bench.ask("/api/get_work", "worker", b'data={"worker":"w","host":"h"}')
    assert b'"w+[local:worker-1]"' in bench.upstream.sent[0].body
    assert [task["worker"] for task in json.loads(reply.body)["response"]["running_tasks"]] == [
        "w",
        "v [local:other]",
    ]


async def test_forged_mark_is_refused(bench: Bench) -> None:
    """A worker id that carries somebody's mark is refused, also one's own."""
    for mark in ("local:victim", "local:worker-1"):
        reply = await bench.ask("/api/ping", "worker", f'data={{"worker":"w+[{mark}]"}}'.encode())
        assert (reply.status, json.loads(reply.body)["error"]["reason"]) == (403, "not-your-worker")
    assert bench.upstream.sent == []


@pytest.mark.parametrize(
    "reason", [Reason.UPSTREAM_UNREACHABLE, Reason.UPSTREAM_TIMEOUT, Reason.UPSTREAM_CLOSED]
)
async def test_upstream_failure_is_one_refusal_and_a_closed_record(
    bench: Bench, reason: Reason
) -> None:
    """A call that could not be served is answered once, and its record says what became of it."""
    bench.upstream.answer = Unavailable(reason, retry_after=5)
    reply = await bench.ask("/api/pause", "admin")
    assert reply.status in (502, 504)
    assert (b"retry-after", b"5") in reply.headers
    assert len(bench.upstream.sent) == 1
    failed = [fields for event, fields in bench.log.lines if event == "upstream failed"]
    assert [(line["upstream"], line["method"], line["reason"]) for line in failed] == [
        ("luigi", "pause", reason.value)
    ]
    await bench.journal.close()
    assert [(r["stage"], r.get("outcome"), r["reason"]) for r in calls_of(bench.audit)] == [
        ("decided", None, "allowed"),
        ("completed", "failed", reason.value),
    ]


async def test_a_path_of_an_upstream_where_nobody_answers_is_recorded_under_it(
    bench: Bench,
) -> None:
    """What leads to an upstream and there to nothing is refused like any path, and its record names
    the upstream.
    """
    reply = await bench.ask("/processes/elsewhere", "viewer")
    assert reply.status == 404
    await bench.journal.close()
    assert [(r["stage"], r["reason"], r["upstream"]) for r in calls_of(bench.audit)] == [
        ("rejected", "not-found", "processes")
    ]


@pytest.mark.parametrize(
    ("path", "kind", "status", "media", "line"),
    [
        ("/apii/ping", FORM, 404, b"application/json", b"did you mean /api/ping? [not-found"),
        ("/processes/rpc", b"text/xml", 200, b"text/xml", b"did you mean /processes/RPC2? [not-f"),
        ("/RPC3", b"text/xml", 200, b"text/xml", b"did you mean /RPC2? [not-found"),
        ("/api/ping", b"text/xml", 200, b"text/xml", b"did you mean /RPC2? [not-found"),
        ("/", b"text/xml", 200, b"text/xml", b"did you mean /RPC2? [not-found"),
    ],
)
async def test_a_wrong_path_is_refused_in_the_callers_protocol(
    bench: Bench, path: str, kind: bytes, status: int, media: bytes, line: bytes
) -> None:
    """404 as JSON for what luigi sends, as a fault for XML, and it names the nearest right path."""
    reply = await bench.ask(path, "worker", b"x", kind)
    assert (reply.status, reply.content_type) == (status, media)
    assert line in reply.body
    assert b"404" in reply.body or status == 404
    await bench.journal.close()
    assert [(r["stage"], r["reason"]) for r in calls_of(bench.audit)] == [("rejected", "not-found")]


@pytest.mark.parametrize("role", [None, "stranger"])
async def test_a_caller_without_a_role_learns_no_path(bench: Bench, role: str | None) -> None:
    """The paths of the settings are for those who may use one."""
    reply = await bench.ask("/processes/rpc", role)
    assert reply.status == 404
    assert b"did you mean" not in reply.body


async def test_a_browser_on_a_wrong_path_gets_a_page(bench: Bench) -> None:
    """What a browser opens is HTML, whatever else would serve the path."""
    reply = await bench.ask("/metric", "viewer", verb="GET", sec_fetch_mode=b"navigate")
    assert (reply.status, reply.content_type) == (404, b"text/html; charset=utf-8")


async def test_unexpected_failure_is_an_internal_error_without_its_text(bench: Bench) -> None:
    """Whatever goes wrong inside, the caller gets a reference and not a traceback, and the record
    is closed.
    """
    bench.upstream.answer = RuntimeError("hunter2")
    reply = await bench.ask("/api/pause", "admin")
    assert reply.status == 500
    assert b"hunter2" not in reply.body
    assert "hunter2" not in repr(bench.log.lines)
    await bench.journal.close()
    assert [(r["stage"], r["reason"]) for r in calls_of(bench.audit)] == [
        ("decided", "allowed"),
        ("completed", "internal-error"),
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (UpstreamResponse(500, {b"content-type": b"text/html"}, b"<html>"), "upstream-error"),
        (UpstreamResponse(200, {b"content-type": b"text/html"}, b"<html>"), "upstream-invalid"),
        (UpstreamResponse(404, {b"content-type": b"text/html"}, b"<html>"), "upstream-invalid"),
    ],
)
async def test_answers_that_are_none_do_not_reach_the_caller(
    bench: Bench, answer: UpstreamResponse, reason: str
) -> None:
    """HTML where JSON is due becomes a refusal in JSON: a worker would die of it without a hint."""
    bench.upstream.answer = answer
    reply = await bench.ask("/api/task_list", "viewer")
    assert reply.status == 502
    assert json.loads(reply.body)["error"]["reason"] == reason
    assert b"<html>" not in reply.body


async def test_too_many_requests_in_hand_are_turned_away_at_once(bench: Bench) -> None:
    """Beyond the limit of requests in hand the answer is 503 with Retry-After, before anything else
    is done.
    """
    bench.gate.in_flight = 8
    reply = await bench.ask("/api/task_list", "viewer")
    assert (reply.status, json.loads(reply.body)["error"]["reason"]) == (503, "overloaded")
    assert (b"retry-after", b"1") in reply.headers


async def test_views_leave_room_for_work(bench: Bench) -> None:
    """Whoever asks for many views at once is turned away; others still look, and workers work."""
    release = held_up(bench, "read")
    first = [asyncio.ensure_future(bench.ask("/api/task_list", "viewer")) for _ in range(4)]
    others = asyncio.ensure_future(bench.ask("/api/task_list", "operator"))
    assert (await bench.ask("/api/ping", "worker", b'data={"worker":"w"}')).status == 200
    release.set()
    replies = [reply.status for reply in await asyncio.gather(*first)]
    assert sorted(replies) == [200, 503, 503, 503]
    assert (await others).status == 200


async def test_a_long_view_counts_until_its_reader_has_all_of_it(bench: Bench) -> None:
    """Whoever does not read keeps no place but their own: it is given back at the end of the
    stream, not when it begins.
    """
    held = []
    for _ in range(2):
        bench.upstream.answer = UpstreamResponse(
            200, {b"content-type": b"application/json"}, stream=Parts([b"ab"], None)
        )
        held.append(await bench.ask("/api/task_list", "viewer"))
    assert [reply.status for reply in held] == [200, 503]
    bench.upstream.answer = UpstreamResponse(
        200, {b"content-type": b"application/json"}, b'{"response": null}'
    )
    assert (await bench.ask("/api/task_list", "operator")).status == 200
    assert (await bench.ask("/api/pause", "admin")).status == 200
    assert held[0].stream is not None
    assert [part async for part in held[0].stream] == [b"ab"]
    assert (await bench.ask("/api/task_list", "viewer")).status == 200
    assert bench.gate.reads.in_use == 0


async def test_one_principal_has_views_for_a_few_dashboards_at_once(bench: Bench) -> None:
    """However much the gate carries: 128, so that the rest of what it keeps for views is for
    others.
    """
    release = held_up(bench, max_in_flight=2048)
    crowd = [asyncio.ensure_future(bench.ask("/api/task_list", "viewer")) for _ in range(136)]
    other = asyncio.ensure_future(bench.ask("/api/task_list", "operator"))
    refused = await asyncio.wait_for(asyncio.gather(*crowd[128:]), 20)
    assert [(reply.status, (b"retry-after", b"1") in reply.headers) for reply in refused] == [
        (503, True)
    ] * 8
    release.set()
    assert [(await call).status for call in crowd[:128]] == [200] * 128
    assert (await other).status == 200


async def test_the_leg_is_told_who_looks(bench: Bench) -> None:
    """Places for views are shared out between principals; a call that acts or says that a worker
    lives has none to wait for.
    """
    await bench.ask("/api/task_list", "viewer")
    await bench.ask("/api/pause", "admin")
    await bench.ask("/api/ping", "worker", b'data={"worker":"w"}')
    assert [(outbound.kind, outbound.fairness_key) for outbound in bench.upstream.sent] == [
        ("read", "local|viewer-1"),
        ("write", ""),
        ("heartbeat", ""),
    ]
    assert not any(b"viewer-1" in outbound.body + outbound.path for outbound in bench.upstream.sent)


async def test_settling_waits_for_calls_whose_callers_left(bench: Bench) -> None:
    """A gate that ends closes its journal only when every call in hand has its end in it."""
    release = held_up(bench)
    call = asyncio.ensure_future(bench.ask("/api/pause", "admin"))
    await asyncio.sleep(0)  # it is begun
    await bench.gate.wait_idle(0.01)
    assert bench.gate.in_flight == 1
    settled = asyncio.ensure_future(bench.gate.wait_idle(30))
    release.set()
    await settled
    assert bench.gate.in_flight == 0
    assert (await call).status == 200


async def test_bundle_of_a_caller_without_a_role_is_one_record(bench: Bench) -> None:
    """A hundred calls that are denied anyway are not worth a hundred records."""
    calls = [{"methodName": "no.such", "params": ["x" * 1000]} for _ in range(10)]
    reply = await bench.xmlrpc("/processes/RPC2", "stranger", "system.multicall", calls)
    assert b"no-role" in reply.body
    await bench.journal.close()
    assert [(r["stage"], r["reason"]) for r in calls_of(bench.audit)] == [("rejected", "no-role")]


async def test_pings_are_the_last_to_be_turned_away(bench: Bench) -> None:
    """When everything else is refused a worker may still say that it lives: its tasks would be
    given up otherwise.
    """
    bench.gate.in_flight = 12
    assert (await bench.ask("/api/task_list", "viewer")).status == 503
    assert (await bench.ask("/api/ping", "worker", b'data={"worker":"w"}')).status == 200
    bench.gate.in_flight = 16
    assert (await bench.ask("/api/ping", "worker", b'data={"worker":"w"}')).status == 503


async def test_bundle_decides_records_and_answers_each_call(bench: Bench) -> None:
    """`system.multicall`: the allowed call runs, the denied one is a fault in its place, each has
    its own record.
    """
    bench.upstream.answer = UpstreamResponse(
        200, {b"content-type": b"text/xml"}, _response(b"<int>7</int>")
    )
    calls = [
        {"methodName": "supervisor.getPID", "params": []},
        {"methodName": "supervisor.shutdown", "params": []},
        {"methodName": "system.multicall", "params": [[]]},
        {"methodName": "system.listMethods", "params": []},
    ]
    reply = await bench.xmlrpc("/processes/RPC2", "viewer", "system.multicall", calls)
    assert [o.body.count(b"supervisor.getPID") for o in bench.upstream.sent] == [1]
    assert b"<int>7</int>" in reply.body
    assert reply.body.count(b"faultCode") == 2
    assert b"may not supervisor.shutdown processes" in reply.body
    assert b"<string>supervisor.getPID</string>" in reply.body
    await bench.journal.close()
    records = calls_of(bench.audit)
    assert [(r["method"], r["decision"]) for r in records if r["stage"] == "decided"] == [
        ("supervisor.getPID", "allow"),
        ("supervisor.shutdown", "deny"),
        ("system.listMethods", "allow"),
    ]
    assert len({r["id"] for r in records if r["stage"] == "decided"}) == 3
    assert [r["reason"] for r in records if r["stage"] == "rejected"] == ["call-too-complex"]


async def test_introspection_is_answered_here_and_filtered(bench: Bench) -> None:
    """`system.listMethods` shows what the caller may call, reaches no upstream, and is recorded
    like any call.
    """
    reply = await bench.xmlrpc("/processes/RPC2", "viewer", "system.listMethods")
    assert b"supervisor.getState" in reply.body
    assert b"supervisor.shutdown" not in reply.body
    stranger = await bench.xmlrpc("/processes/RPC2", "stranger", "system.listMethods")
    assert b"faultCode" in stranger.body
    assert bench.upstream.sent == []


async def test_refusals_speak_the_callers_protocol(bench: Bench) -> None:
    """The same denial is a fault to XML-RPC and a page to a browser; a missing credential is a 401
    to both.
    """
    fault = await bench.xmlrpc("/RPC2", "viewer", "pause")
    assert (fault.status, fault.content_type) == (200, b"text/xml")
    assert b"<int>403</int>" in fault.body
    page = await bench.ask("/history", "stranger", verb="GET")
    assert (page.status, page.content_type) == (403, b"text/html; charset=utf-8")
    anonymous = await bench.xmlrpc("/RPC2", None, "pause")
    assert anonymous.status == 401
    assert dict(anonymous.headers)[b"www-authenticate"] == b'Basic realm="callgate"'
    script = await bench.ask("/RPC2", None, sec_fetch_mode=b"cors")
    assert script.status == 401
    assert dict(script.headers)[b"www-authenticate"] == b'Bearer realm="callgate"'


@pytest.mark.parametrize(
    ("ending", "outcome", "sent"),
    [
        (None, "ok", 4),
        (Unavailable(Reason.UPSTREAM_CLOSED), "upstream-closed", 4),
        (GeneratorExit(), "client-gone", 2),
    ],
)
async def test_stream_closes_its_record_however_it_ends(
    bench: Bench, ending: BaseException | None, outcome: str, sent: int
) -> None:
    """A streamed answer is completed when it ends, cut when the upstream breaks off, and left when
    the caller leaves.
    """
    bench.upstream.answer = UpstreamResponse(
        200, {b"content-type": b"application/json"}, stream=Parts([b"ab", b"cd"], ending)
    )
    reply = await bench.ask("/api/task_list", "viewer")
    assert reply.stream is not None
    try:
        async for part in reply.stream:
            if isinstance(ending, GeneratorExit):
                break
            assert part in (b"ab", b"cd")
    except Unavailable as error:
        assert error is ending
    await reply.stream.aclose()
    await bench.journal.close()
    [completed] = [record for record in calls_of(bench.audit) if record["stage"] == "completed"]
    assert (completed.get("reason", "ok"), completed["bytes"]) == (outcome, sent)


class Parts:
    """A stream of given parts and a given end."""

    def __init__(self, parts: list[bytes], ending: BaseException | None) -> None:
        self.parts = parts
        self.ending = ending

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        if self.parts:
            return self.parts.pop(0)
        if isinstance(self.ending, Exception):
            raise self.ending
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.parts = []


def _response(value: bytes) -> bytes:
    return (
        b"<?xml version='1.0'?><methodResponse><params><param><value>"
        + value
        + b"</value></param></params></methodResponse>"
    )


async def test_unwritable_journal_forwards_nothing(tmp_path: Path) -> None:
    """Law 2, the other half: when the disk fails, the caller gets 503 and the upstream gets
    nothing; views as well.
    """

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    broken = False

    def write(fd: int, data: Any) -> int:
        return full(fd, data) if broken else REAL.write(fd, data)

    REAL = Disk()  # noqa: N806  (the real thing, beside its double)
    journal = Journal.open(tmp_path / "audit", name="gate", disk=Disk(write=write))
    bench = Bench(tmp_path, journal)
    await bench.verifier.start()
    broken = True
    for path in ("/api/task_list", "/api/pause"):
        reply = await bench.ask(path, "admin")
        assert reply.status == 503
        assert json.loads(reply.body)["error"]["reason"] == "audit-unwritable"
    assert bench.upstream.sent == []
    broken = False
    await bench.verifier.close()
    await journal.close()


async def test_large_body_waits_for_the_identity(bench: Bench) -> None:
    """Limits before identity: the rest of a large body is not even read for a caller who is not
    known.
    """
    request = Request(
        next_id(),
        "POST",
        "/api/pause",
        None,
        {b"host": b"x"},
        b"",
        Peer("127.0.0.1", 1, None, ""),
        body_complete=False,
    )
    asked = []

    async def read_body(memory: Reservation | None = None) -> bytes:
        asked.append(True)
        raise Rejected(Reason.CLIENT_GONE)

    assert (await bench.gate.handle(request, read_body)).status == 401
    assert asked == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/api/pause", FORM), ("/RPC2", b"text/xml"), ("/processes", b"text/xml")],
)
async def test_a_caller_without_a_role_is_refused_before_its_body_is_decoded(
    bench: Bench, path: str, kind: bytes
) -> None:
    """What is no call at all is no-role, not malformed-call: no parser has seen it. One rejection
    is on record, with the principal and the upstream.
    """
    response = await bench.ask(path, "stranger", b"\xff<not a call", kind)
    assert b"no-role" in response.body
    await bench.journal.close()
    (record,) = calls_of(bench.audit)
    assert (record["stage"], record["reason"]) == ("rejected", "no-role")
    assert record["principal"]["subject"] == "stranger-1"
    assert record["upstream"] in ("luigi", "processes")
    assert bench.upstream.sent == []


async def test_a_worker_without_a_role_is_told_that_it_is_disabled(bench: Bench) -> None:
    """From the path alone: a worker then ends at once instead of trying for minutes."""
    response = await bench.ask("/api/get_work", "stranger", b"\xff")
    assert response.status == 200
    assert b'"n_pending_tasks"' in response.body


class ObligedDecider:
    """A decider whose allowed decisions have an obligation; everything else is the real one's."""

    def __init__(self, decider: Decider, obligation: str) -> None:
        self.decider = decider
        self.obligation = obligation

    def decide(self, principal: Principal, call: Call) -> Decision:
        decision = self.decider.decide(principal, call)
        return replace(decision, obligations=(self.obligation,))

    def decide_introspection(self, principal: Principal) -> Decision:
        return self.decider.decide_introspection(principal)

    def may_call(self, principal: Principal, upstream: str, method: str) -> bool:
        return self.decider.may_call(principal, upstream, method)

    def deny(self, reason: Reason) -> Decision:
        return self.decider.deny(reason)


@pytest.mark.parametrize(("obligation", "status"), [("stamp", 200), ("unknown", 403)])
async def test_an_obligation_is_fulfilled_or_the_call_is_denied(
    bench: Bench, obligation: str, status: int
) -> None:
    """The seam of response redaction: a fulfiller changes the response; without one of that name
    the call does not leave.
    """

    def stamp(call: Call, response: Response) -> Response:
        return replace(response, body=b'{"response": "stamped"}')

    bench.gate = Gate(
        [make_route(options, bench.upstream) for options in bench.options],
        bench.verifier,
        ObligedDecider(bench.policy, obligation),
        bench.journal,
        Metrics(),
        bench.log,
        max_in_flight=8,
        fulfillers={"stamp": stamp},
        clock=lambda: NOW,
    )
    response = await bench.ask("/api/task_list", "viewer")
    assert response.status == status
    assert (b"stamped" in response.body, len(bench.upstream.sent)) == (
        status == 200,
        int(status == 200),
    )


async def test_a_misspelt_method_names_the_nearest_that_may_be_called(bench: Bench) -> None:
    """A method that the caller may not call is not revealed, nor is one named for a wild name."""
    assert b"task_list" in (await bench.ask("/api/task_lst", "viewer")).body
    assert b"add_task" not in (await bench.ask("/api/add_tsk", "viewer")).body
    assert b"did you mean" not in (await bench.ask(f"/api/{'x' * 64}", "viewer")).body
    misspelt = encode_call("system.listMethod", [])
    assert (
        b"did you mean system.listMethods?"
        in (await bench.ask("/processes/RPC2", "viewer", misspelt, b"text/xml")).body
    )
    short = encode_call("getState", [])
    assert (
        b"did you mean supervisor.getState?"
        in (await bench.ask("/processes/RPC2", "viewer", short, b"text/xml")).body
    )


async def test_a_batch_has_one_answer_for_each_entry(bench: Bench) -> None:
    """An allowed call, a denied one, and an entry that is no call; and an answer that is no value
    of XML-RPC is a fault in its place, while its stream is closed.
    """
    entries: list[Value] = [
        {"methodName": "task_list", "params": []},
        {"methodName": "pause", "params": []},
        {"methodName": "x y", "params": []},
        {"methodName": "graph", "params": []},
    ]
    broken = Parts([b'{"response": ', b"broken"], None)
    bench.upstream.answer = UpstreamResponse(
        200, {b"content-type": b"application/json"}, stream=broken
    )
    body = encode_call("system.multicall", [entries])
    response = await bench.ask("/RPC2", "viewer", body, b"text/xml")
    answers = decode_response(response.body)
    assert isinstance(answers, list)
    assert len(answers) == 4
    assert all(isinstance(answer, dict) for answer in answers[1:3])
    await bench.journal.close()
    stages = [
        (r["stage"], r.get("method"), r["reason"]) for r in calls_of(bench.audit) if "reason" in r
    ]
    assert ("rejected", None, "malformed-call") in stages
    assert ("decided", "pause", "no-policy-allows") in stages


async def test_a_batch_of_entries_that_are_all_rejected_is_answered(bench: Bench) -> None:
    """Nothing is decided then, so there is no commit to wait for; each entry has its fault and its
    record, and the slot of a read is free again.
    """
    entries = [7, {"methodName": "supervisor.startProcess", "params": []}]
    response = await asyncio.wait_for(
        bench.xmlrpc("/processes/RPC2", "viewer", "system.multicall", entries), 10
    )
    assert response.body.count(b"faultCode") == 2
    assert bench.gate.in_flight == bench.gate.reads.in_use == 0
    await bench.journal.close()
    assert [(r["stage"], r["reason"]) for r in calls_of(bench.audit)] == [
        ("rejected", "malformed-call"),
        ("rejected", "bad-arguments"),
    ]
