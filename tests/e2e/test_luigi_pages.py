"""The stock pages through the gate, as a browser without scripts sees them: every page and every
file that they name.
"""

import re
from collections.abc import Iterator
from posixpath import dirname, join, normpath
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.stage import Client, Gate, Luigid

INDEX = "/static/visualiser/index.html"
SECURITY = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@pytest.fixture(scope="module", autouse=True)
def _history(guarded: Luigid) -> None:
    """Two runs of one family, so that the history pages have something to show."""
    for number in range(2):
        for status in ("PENDING", "RUNNING", "DONE"):
            task: dict[str, Any] = {
                "task_id": f"ns.Family_{number}_0123456789",
                "family": "ns.Family",
                "worker": "w",
                "params": {"number": str(number)},
            }
            assert guarded.call("add_task", **task, status=status).status == 200


@pytest.fixture(params=["", "/team-a"], ids=["root", "prefix"])
def door(gate: Gate, request: pytest.FixtureRequest) -> Client:
    """The gate's upstream without a prefix, and under one."""
    return gate.under(request.param)


def references(page: str, text: str) -> Iterator[str]:
    """The paths that a page loads from its own server, as a browser would resolve them."""
    for link in re.findall(r'<(?:script|link|img)\b[^>]*?(?:src|href)="([^"]+)"', text):
        target = urlsplit(link)
        if not target.netloc and target.path:
            yield normpath(join(dirname(page), target.path))


def test_the_visualiser_and_every_file_it_names(door: Client, gate: Gate, guarded: Luigid) -> None:
    """Page, scripts, styles, and the fonts and images that the styles name are luigid's own, byte
    for byte.
    """
    viewer = gate.token("viewer")
    start = door.get("/", viewer)
    assert (start.status, start.headers["location"]) == (302, "static/visualiser/index.html")
    page = door.get(INDEX, viewer)
    assert page.body == guarded.get(INDEX).body
    files = set(references(INDEX, page.body.decode()))
    assert len(files) > 20
    fonts = 0
    for file in sorted(files):
        answer = door.get(file, viewer, {"Accept-Encoding": "identity"})
        direct = guarded.get(file)
        assert (answer.status, answer.headers["content-type"]) == (
            200,
            direct.headers["content-type"],
        ), file
        assert answer.body == direct.body, file
        assert SECURITY.items() <= answer.headers.items()
        if file.endswith(".css"):
            named = {
                normpath(join(dirname(file), urlsplit(link).path))
                for link in re.findall(r"url\(['\"]?([^'\")]+)", answer.body.decode())
            }
            for font in sorted(
                path
                for path in named
                if path.startswith("/static/") and guarded.get(path).status == 200
            ):
                assert door.get(font, viewer).body == guarded.get(font).body, font
                fonts += 1
    assert fonts > 5


def test_the_visualisers_page_names_its_one_script(door: Client, gate: Gate) -> None:
    """The content security policy allows files of the gate and the one inline script of the page."""
    answer = door.get(INDEX, gate.token("viewer"))
    assert SECURITY.items() <= answer.headers.items()
    rules = dict(
        rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";")
    )
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
    assert (rules["default-src"], rules["connect-src"], rules["frame-ancestors"]) == (
        "'none'",
        "'self'",
        "'none'",
    )
    assert "server" not in answer.headers
    assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("path", "shows"),
    [
        ("/history", b"ns.Family"),
        ("/history/by_name/ns.Family", b"ns.Family"),
        ("/history/by_id/1", b"ns.Family"),
        ("/history/by_task_id/ns.Family_1_0123456789", b"ns.Family"),
        ("/history/by_params/ns.Family?data=%7B%22number%22%3A%221%22%7D", b"/history/by_id/2"),
        ("/tasklist", b"/tasklist/ns.Family"),
        ("/tasklist/ns.Family", b"ns.Family History"),
    ],
)
def test_the_history_and_every_file_it_names(
    door: Client, gate: Gate, path: str, shows: bytes
) -> None:
    """History, durations and searches; their links, absolute in luigi's templates, lead back
    through the gate.
    """
    viewer = gate.token("viewer")
    answer = door.get(path, viewer)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=UTF-8")
    assert shows in answer.body
    assert (
        "cdnjs.cloudflare.com/ajax/libs/d3/3.5.5/d3.min.js"
        in answer.headers["content-security-policy"]
    )
    text = answer.body.decode()
    links = [*references(path, text), *re.findall(r'<a [^>]*href="(/[^"]+)"', text)]
    assert links
    for link in links:
        assert link.startswith(door.prefix + "/")
        assert gate.get(link, viewer).status == 200, link


def test_a_search_that_finds_nothing_shows_nothing(gate: Gate) -> None:
    """The search's parameters arrive at luigid: another value finds no run."""
    path = "/history/by_params/ns.Family?data=%7B%22number%22%3A%227%22%7D"
    assert b"/history/by_id/" not in gate.get(path, gate.token("viewer")).body


def test_metrics_for_a_monitoring_system(door: Client, gate: Gate) -> None:
    """A scraper with a Bearer token gets luigid's metrics; luigid has no HEAD of them, and the gate
    invents none.
    """
    assert door.get("/metrics", gate.token("viewer")).status == 200
    assert door.send("HEAD", "/metrics", token=gate.token("viewer")).status == 405


def test_a_page_is_recorded_like_a_call(gate: Gate) -> None:
    """Who looked at which page, and what came of it."""
    gate.get("/history/by_name/ns.%46amily", gate.token("curious", "viewer"))
    decided = gate.recorded(stage="decided", method="page.history")
    assert (decided["principal"]["subject"], decided["permission"], decided["args"]) == (
        "curious",
        "view",
        {"path": "/history/by_name/ns.Family", "verb": "GET"},
    )
    completed = gate.record(decided["id"], "completed")
    assert (completed["outcome"], completed["status"]) == ("ok", 200)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        INDEX,
        "/history",
        "/tasklist",
        "/metrics",
        "/api/task_list",
        "/static/visualiser/js/luigi.js",
    ],
)
def test_who_may_look(door: Client, gate: Gate, path: str) -> None:
    """A viewer yes; a worker (for pages) and a stranger no; without a token nobody, and neither
    with half of one.
    """
    viewer = gate.token("viewer")
    assert door.get(path, viewer).status in (200, 302)
    assert door.get(path, gate.token("agent")).status in (200, 302)
    assert door.get(path, gate.token("worker")).status == 403
    assert door.get(path, gate.token("stranger", "nothing")).status == 403
    for answer in (door.get(path), door.get(path, viewer[:-10]), door.send("HEAD", path)):
        assert answer.status == 401
        assert answer.headers["www-authenticate"]
        assert "location" not in answer.headers


def test_a_prefix_without_its_slash_leads_to_the_visualiser_too(gate: Gate) -> None:
    """What a user types, https://gate/team-a, is relative to the level above."""
    answer = gate.get("/team-a", gate.token("viewer"))
    assert (answer.status, answer.headers["location"]) == (
        302,
        "team-a/static/visualiser/index.html",
    )


def test_what_luigid_does_not_serve_is_not_found(gate: Gate) -> None:
    """Neither the gate nor luigid answers for paths outside the pages."""
    for path in (
        "/static/visualiser/nothing.js",
        "/static/..%2f..%2fserver.py",
        "/robots.txt",
        "/team-b/",
        "/team-a.evil/",
    ):
        assert gate.get(path, gate.token("viewer")).status == 404
