"""What a real Chromium can be made to send, by an address, another site, or what a worker stored.

Each attack is first shown at a luigid without a gate, which it pauses. Then the same browser has an
admin's password for the gate.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.amount import some
from tests.support.browser import CHROMIUM, AttackerSite, launched
from tests.support.stage import Gate, Luigid, basic, until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: apt-get install chromium"
)
INDEX = "static/visualiser/index.html"
PAUSE = "api/pause?data=%7B%7D"
PLANTED = {
    "link": "<a class='link' href='../../api/pause?'>a</a>",
    "link in a new tab": "<a class='new' target='_blank' href='../../api/pause?'>b</a>",
    "form": "<form method='post' action='../../api/pause'><button class='form'>c</button></form>",
    "image": "<img src='../../api/pause?'>",
    "frame": "<iframe src='../../api/pause?'></iframe>",
    "prefetch": "<link rel='prefetch' href='../../api/pause?'>",
}
"""Markup that a worker stores in the name of a task's family, past any gate."""

CLICKED = {"link": "a.link", "link in a new tab": "a.new", "form": "button.form"}

# Where TARGET stands for the address of a call that acts, without and with its query.
MARKUP = {
    "image": "<img src='TARGET?data={}'>",
    "script": "<script src='TARGET?data={}'></script>",
    "style sheet": "<link rel='stylesheet' href='TARGET?data={}'>",
    "frame": "<iframe src='TARGET?data={}'></iframe>",
    "object": "<object data='TARGET?data={}'></object>",
    "video": "<video src='TARGET?data={}' preload='auto'></video>",
    "prefetch": "<link rel='prefetch' href='TARGET?data={}'>",
    "image that is redirected": "<img src='/redirect'>",
    "refresh": "<meta http-equiv='refresh' content='0;url=TARGET?data={}'>",
    "script's own form": (
        "<form method='post' action='TARGET'><input name='data' value='{}'></form>"
        "<script>document.forms[0].submit()</script>"
    ),
    "form of plain text": (
        "<form method='post' enctype='text/plain' action='TARGET?data={}'></form>"
        "<script>document.forms[0].submit()</script>"
    ),
    "script's fetch": (
        "<script>fetch('TARGET?data={}', {mode: 'no-cors', credentials: 'include'})</script>"
    ),
    "script's post": (
        "<script>fetch('TARGET', {method: 'POST', mode: 'no-cors', credentials: 'include',"
        " body: new URLSearchParams({data: '{}'})})</script>"
    ),
    "script's request": (
        "<script>const r = new XMLHttpRequest(); r.withCredentials = true;"
        " r.open('GET', 'TARGET?data={}'); r.send()</script>"
    ),
    "beacon": (
        "<script>navigator.sendBeacon('TARGET', new URLSearchParams({data: '{}'}))</script>"
    ),
    "events": "<script>new EventSource('TARGET?data={}', {withCredentials: true})</script>",
    "pinging link": (
        "<a href='#' ping='TARGET?data={}'>x</a><script>document.links[0].click()</script>"
    ),
    "window": "<script>location = 'TARGET?data={}'</script>",
}
CLICKS = {
    "link": "<a href='TARGET?data={}'>x</a>",
    "link in a new tab": "<a target='_blank' rel='noreferrer' href='TARGET?data={}'>x</a>",
    "link that is redirected": "<a href='/redirect'>x</a>",
    "form": "<form action='TARGET'><input name='data' value='{}'><button>x</button></form>",
    "posting form": (
        "<form method='post' action='TARGET'><input name='data' value='{}'><button>x</button></form>"
    ),
}


# What Chromium sends without the credential: a redirect drops it, and a script that would read the
# answer asks first.
NO_CREDENTIAL = {"image that is redirected", "script's request", "events"}


class Browser:
    """One profile of the browser."""

    def __init__(self, context: Any) -> None:
        context.set_default_timeout(20_000)
        self.context = context

    def open(self, url: str) -> Any:
        """Open `url` in a new tab; an answer that is no page is no failure."""
        page = self.context.new_page()
        try:
            page.goto(url, wait_until="commit")
        except playwright.Error as error:
            assert "ERR_ABORTED" in str(error) or "interrupted" in str(error), error
        return page

    def visit(self, site: AttackerSite, kind: str, server: str) -> None:
        """Open the attacker's page, and click what there is to click."""
        target = server + "api/pause"
        html = (MARKUP | CLICKS)[kind].replace("TARGET", target)
        site.location = target + "?data=%7B%7D"
        site.html = f"<!DOCTYPE html><body>{html}</body>"
        page = self.open(site.url)
        if kind in CLICKS:
            page.click("a, button", no_wait_after=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser that reaches nothing but this machine."""
    with playwright.sync_playwright() as tools, launched(tools) as browser:
        yield browser


@contextmanager
def profile(chromium: Any, **options: Any) -> Iterator[Browser]:
    """Open a profile that knows nothing of earlier ones."""
    context = chromium.new_context(ignore_https_errors=True, **options)
    yield Browser(context)
    context.close()


@pytest.fixture(scope="module")
def infested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A luigid with a link, a form and the like in the names of families."""
    luigid = Luigid(tmp_path_factory.mktemp("infested"))
    for number, family in enumerate(PLANTED.values()):
        luigid.call(
            "add_task", task_id=f"Planted_{number}", family=family, worker="w", status="PENDING"
        )
    yield luigid
    luigid.stop()


@pytest.fixture(scope="module")
def gate(
    tmp_path_factory: pytest.TempPathFactory, guarded: Luigid, infested: Luigid
) -> Iterator[Gate]:
    """A gate with the shipped policies before both, and a record of each refusal."""
    gate = Gate(
        tmp_path_factory.mktemp("gate"),
        {"/": guarded, "/infested": infested},
        settings="denials_per_minute = 100000\n",
    )
    yield gate
    gate.stop()


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A luigid without a gate."""
    luigid = Luigid(tmp_path_factory.mktemp("unguarded"))
    yield luigid
    luigid.stop()


@pytest.fixture(scope="module", params=["cross-site", "same-site"])
def attacker(request: pytest.FixtureRequest, gate: Gate) -> Iterator[AttackerSite]:
    """A site of another origin, also one on the same host."""
    files = gate.directory / "tls.crt", gate.directory / "tls.key"
    site = AttackerSite(files if request.param == "same-site" else None)
    yield site
    site.stop()


@pytest.fixture
def asked(chromium: Any, gate: Gate) -> Iterator[Browser]:
    """A browser that has asked for the gate's password, and remembers what an admin typed.

    It was asked at the root: Chromium sends a password unasked below the directory of its prompt
    (RFC 7617 section 2.2), and a script's 401 has no challenge.
    """
    password = {"username": "jwt", "password": gate.token("lured", "admin")}
    with profile(chromium, http_credentials=password) as browser:
        browser.open(gate.url()).wait_for_selector("#taskTable")
        yield browser


@pytest.fixture
def carrying(chromium: Any, gate: Gate) -> Iterator[Browser]:
    """A browser that adds the password also where Chromium does not: to what other sites embed."""
    password = {"Authorization": basic(gate.token("lured", "admin"))}
    with profile(chromium, extra_http_headers=password) as browser:
        yield browser


def pauses(luigid: Luigid, attack: Callable[[str], None]) -> None:
    """Assert that the attack pauses a luigid without a gate."""
    attack(f"http://localhost:{luigid.port}/")
    until(lambda: luigid.paused, "the attack pauses a luigid without a gate")
    luigid.call("unpause")


def is_refused(gate: Gate, attack: Callable[[str], None], prefix: str = "/") -> None:
    """Assert that the gate got the call with the admin's password, and refused each like it."""
    before = len(gate.records())
    attack(gate.url(prefix))

    def refused() -> list[dict[str, Any]]:
        return [r for r in gate.records()[before:] if r.get("reason") == "cross-site"]

    found = until(refused, "the call is refused")
    assert {record["principal"]["subject"] for record in found} == {"lured"}
    assert not [r for r in gate.records()[before:] if r.get("method") == "pause"]


@pytest.mark.parametrize("kind", some([*MARKUP]))
def test_another_sites_page_makes_the_browser_do_nothing(
    chromium: Any,
    carrying: Browser,
    gate: Gate,
    guarded: Luigid,
    unguarded: Luigid,
    attacker: AttackerSite,
    kind: str,
) -> None:
    """An image, a frame, a form, a script of another origin, also of the same host."""
    with profile(chromium) as plain:
        pauses(unguarded, lambda server: plain.visit(attacker, kind, server))
    if kind not in NO_CREDENTIAL:
        is_refused(gate, lambda server: carrying.visit(attacker, kind, server))
        return
    carrying.visit(attacker, kind, gate.url())
    gate.recorded(stage="rejected", reason="no-credential")
    assert not guarded.paused


@pytest.mark.parametrize("kind", CLICKS)
def test_a_click_on_another_sites_page_does_nothing(
    asked: Browser,
    gate: Gate,
    guarded: Luigid,
    unguarded: Luigid,
    attacker: AttackerSite,
    kind: str,
) -> None:
    """A link, one that is redirected, and a form, with the password that Chromium remembers."""
    pauses(unguarded, lambda server: asked.visit(attacker, kind, server))
    is_refused(gate, lambda server: asked.visit(attacker, kind, server))


@pytest.mark.parametrize("way", ["address", "redirect"])
def test_a_link_opened_from_outside_does_nothing(
    asked: Browser,
    gate: Gate,
    guarded: Luigid,
    unguarded: Luigid,
    attacker: AttackerSite,
    way: str,
) -> None:
    """An address from a mail or a bookmark, and one that another site redirects: Chromium says
    ``Sec-Fetch-Site: none`` to both.
    """

    def attack(server: str) -> None:
        attacker.location = server + PAUSE
        asked.open(attacker.location if way == "address" else attacker.url + "redirect")

    pauses(unguarded, attack)
    is_refused(gate, attack)


@pytest.mark.parametrize("kind", PLANTED)
def test_what_a_worker_stored_does_nothing_in_our_own_page(
    chromium: Any, asked: Browser, gate: Gate, infested: Luigid, kind: str
) -> None:
    """A link, a form and an image in a task's name, in the page that the gate serves. What the
    content security policy stops is not even sent.
    """

    def attack(browser: Browser, server: str) -> None:
        page = browser.open(server + INDEX)
        page.wait_for_selector("#taskTable tbody tr td:nth-child(3) >> nth=0")
        if kind in CLICKED:
            page.click(f"{CLICKED[kind]} >> nth=0", no_wait_after=True)
        else:
            page.wait_for_load_state("networkidle")

    infested.call("unpause")
    with profile(chromium) as plain:
        attack(plain, f"http://localhost:{infested.port}/")
        until(lambda: infested.paused, "the markup pauses it in luigid's own page")
    infested.call("unpause")
    is_refused(gate, lambda server: attack(asked, server), "/infested/")


def test_a_form_with_xml_is_no_call(
    carrying: Browser, gate: Gate, guarded: Luigid, attacker: AttackerSite
) -> None:
    """A form of plain text can spell a ``methodCall``."""
    call = "<?xml version='1.0'?><methodCall><methodName>pause</methodName></methodCall><!--"
    attacker.html = (
        f"<form method=post enctype=text/plain action='{gate.url()}RPC2'>"
        f'<input name="{call}" value="-->"></form><script>document.forms[0].submit()</script>'
    )
    is_refused(gate, lambda _server: carrying.open(attacker.url))


def test_views_are_opened_from_anywhere(asked: Browser, gate: Gate, attacker: AttackerSite) -> None:
    """By address and by a link on another site; a frame of that site shows nothing."""
    view = (
        gate.url()
        + "api/task_list?data="
        + "%7B%22status%22%3A%22%22%2C%22upstream_status%22%3A%22%22%7D"
    )
    assert '"response"' in asked.open(view).content()
    attacker.html = f"<a href='{view}'>x</a>"
    page = asked.open(attacker.url)
    with page.expect_response(view) as opened:
        page.click("a")
    assert opened.value.status == 200
    attacker.html = f"<iframe src='{view}'></iframe>"
    page = asked.context.new_page()
    with page.expect_response(view) as framed:
        page.goto(attacker.url)
    assert framed.value.status in (401, 403)


def test_our_own_page_acts_and_its_scripts_do_not_prompt(
    asked: Browser, gate: Gate, guarded: Luigid
) -> None:
    """The visualiser's button pauses with the password of the prompt. A script without it gets a
    401 that names Bearer alone.
    """
    page = asked.open(gate.url() + INDEX)
    page.wait_for_selector("#pause", state="attached")
    with page.expect_response(lambda answer: "/api/pause" in answer.url) as clicked:
        page.click(".toggle:has(#pause)")
    assert clicked.value.status == 200
    assert guarded.paused
    guarded.call("unpause")
    script = """fetch("../../api/task_list", {credentials: "omit"})
        .then(answer => [answer.status, answer.headers.get("www-authenticate")])"""
    assert page.evaluate(script) == [401, 'Bearer realm="callgate"']
    assert urlsplit(page.url).path == f"/{INDEX}"


def test_a_script_of_our_own_page_is_not_one_of_another_origin(
    asked: Browser, gate: Gate, guarded: Luigid, attacker: AttackerSite
) -> None:
    """The same call, word for word, from a page of another origin: neither sent nor read."""
    call = f"""fetch("{gate.url()}api/pause?data=%7B%7D", {{credentials: "include"}})
        .then(answer => answer.status, () => "unreadable")"""
    attacker.html = "<p>x</p>"
    assert asked.open(attacker.url).evaluate(call) == "unreadable"
    assert not guarded.paused
    assert asked.open(gate.url() + INDEX).evaluate(call) == 200
    assert guarded.paused
    guarded.call("unpause")
