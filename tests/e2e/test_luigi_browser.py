"""The visualiser in a real Chromium, through the gate: it draws, its buttons obey the policy, and
stored scripts do not run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import CHROMIUM, launched
from tests.support.stage import Gate, Luigid, until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: apt-get install chromium"
)
INDEX = "static/visualiser/index.html"
JQUERY_PROBES = 3
PLANTED = {
    "script": "<script>document.documentElement.dataset.script='yes'</script>",
    "handler": "<img src=x onerror=\"document.documentElement.dataset.handler='yes'\">",
    "nested": "<b>x<script>document.documentElement.dataset.nested='yes'</script></b>",
}
ACTING = "<img src='../../api/pause?'>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser that reaches nothing but this machine."""
    with playwright.sync_playwright() as tools, launched(tools) as browser:
        yield browser


@dataclass
class Tab:
    """A page with what its console and its network said."""

    page: Any
    errors: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def said(self, message: Any) -> None:
        """Keep an error of the console; that there is no icon is none."""
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            self.console.append(message.text)

    def violations(self) -> list[str]:
        """What the content security policy stopped, without jQuery's probe.

        jQuery 1.10 asks old browsers for their abilities by setting three handlers of the one
        letter ``t`` as it loads; that they do not run changes nothing.
        """
        stopped = [line for line in self.console if "Content Security Policy" in line]
        probe = stopped[:JQUERY_PROBES]
        assert all("inline event handler" in line for line in probe)
        assert len(probe) == JQUERY_PROBES
        return stopped[JQUERY_PROBES:]

    def other_errors(self) -> list[str]:
        """Errors of scripts, and in the console but for files of other servers, which no network
        reaches here.
        """
        ignored = ("Content Security Policy", "ERR_NAME_NOT_RESOLVED")
        return self.errors + [
            line for line in self.console if not any(text in line for text in ignored)
        ]


def open_tab(chromium: Any, url: str, token: str | None) -> Tab:
    """Load `url` with the token in a header, as a browser extension sends it."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    context = chromium.new_context(
        ignore_https_errors=True,
        extra_http_headers=headers,
        viewport={"width": 1400, "height": 900},
    )
    context.set_default_timeout(20_000)
    tab = Tab(context.new_page())
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("console", tab.said)
    tab.page.on(
        "response",
        lambda answer: tab.refused.append(answer.url) if answer.status in (401, 403) else None,
    )
    tab.page.goto(url, wait_until="load")
    return tab


@pytest.fixture(scope="module")
def infested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A luigid into which an attacker has put markup, past any gate."""
    luigid = Luigid(tmp_path_factory.mktemp("infested"))
    for number, family in enumerate((*PLANTED.values(), ACTING)):
        luigid.call(
            "add_task", task_id=f"Planted_{number}", family=family, worker="w", status="PENDING"
        )
    yield luigid
    luigid.stop()


@pytest.fixture(scope="module")
def gate(
    tmp_path_factory: pytest.TempPathFactory, guarded: Luigid, infested: Luigid
) -> Iterator[Gate]:
    """A gate with the shipped policies before both."""
    gate = Gate(
        tmp_path_factory.mktemp("gate"), {"/": guarded, "/team-a": guarded, "/infested": infested}
    )
    yield gate
    gate.stop()


@pytest.fixture(scope="module")
def drawn(guarded: Luigid) -> Luigid:
    """A luigid with a task of each kind that the table shows."""
    for number, status in enumerate(("DONE", "FAILED", "PENDING", "RUNNING", "DISABLED")):
        task: dict[str, Any] = {
            "task_id": f"Shown_{number}",
            "family": "Shown",
            "worker": "w",
            "params": {"number": str(number)},
            "expl": "why",
        }
        assert guarded.call("add_task", **task, status=status).status == 200
    return guarded


def rows(tab: Tab) -> str:
    """Wait until the task table is drawn, and give its text."""
    tab.page.wait_for_selector("#taskTable tbody tr td:nth-child(3)")
    tab.page.wait_for_function(
        "!document.querySelector('#taskTable_processing, .dataTables_processing')?.checkVisibility()"
    )
    return str(tab.page.inner_text("#taskTable"))


@pytest.mark.parametrize("prefix", ["/", "/team-a/"], ids=["root", "prefix"])
def test_the_visualiser_draws(
    chromium: Any, gate: Gate, drawn: Luigid, tmp_path: Path, prefix: str
) -> None:
    """From the start page to the drawn table: no script error, nothing refused, and only foreign
    fonts do not load.
    """
    tab = open_tab(chromium, gate.url(prefix), gate.token("viewer"))
    assert tab.page.url == gate.url(prefix) + INDEX
    text = rows(tab)
    for status in ("DONE", "FAILED", "PENDING", "RUNNING", "DISABLED"):
        assert status in text
    tab.page.click("text=Workers")
    tab.page.wait_for_function("document.querySelector('#workerList').innerText.trim() !== ''")
    tab.page.screenshot(path=str(tmp_path / "visualiser.png"))
    assert (tmp_path / "visualiser.png").stat().st_size > 10_000
    assert tab.violations() == []
    assert tab.other_errors() == []
    assert tab.refused == []


def test_a_graph_and_an_error_are_shown(chromium: Any, gate: Gate, drawn: Luigid) -> None:
    """The dependency graph is drawn and a traceback opens: d3 and the templates work under the
    policy.
    """
    tab = open_tab(chromium, gate.url() + INDEX + "#tab=graph&taskId=Shown_1", gate.token("viewer"))
    tab.page.wait_for_selector("#graphContainer svg >> text=Shown")
    tab = open_tab(chromium, gate.url(), gate.token("viewer"))
    rows(tab)
    tab.page.click("button.showError >> nth=0")
    tab.page.wait_for_selector("text=Traceback for Shown")
    assert (tab.violations(), tab.other_errors()) == ([], [])


def test_a_viewers_click_on_pause_is_refused(chromium: Any, gate: Gate, drawn: Luigid) -> None:
    """The button sends its call, the gate refuses it, luigid goes on; the journal tells who tried."""
    tab = open_tab(chromium, gate.url(), gate.token("clicker", "viewer"))
    rows(tab)
    with tab.page.expect_response(lambda answer: "/api/pause" in answer.url) as clicked:
        tab.page.click(".toggle:has(#pause)")
    answer = clicked.value
    assert answer.status == 403
    assert "clicker (viewer) may not pause luigi" in answer.json()["error"]["message"]
    assert not drawn.paused
    record = gate.recorded(stage="decided", method="pause")
    assert (record["decision"], record["principal"]["subject"]) == ("deny", "clicker")
    assert tab.errors == []


def test_an_admins_click_on_pause_pauses(chromium: Any, gate: Gate, drawn: Luigid) -> None:
    """The same button, pressed by one who may: so the refusal above is the policy's, and not a
    broken page.
    """
    tab = open_tab(chromium, gate.url(), gate.token("admin"))
    rows(tab)
    with tab.page.expect_response(lambda answer: "/api/pause" in answer.url) as clicked:
        tab.page.click(".toggle:has(#pause)")
    assert clicked.value.status == 200
    assert drawn.paused
    drawn.call("unpause")


def test_without_a_token_nothing_is_shown(chromium: Any, gate: Gate) -> None:
    """A browser without credentials is asked for a password; without one it gets no page and no
    data, as a headless one says.
    """
    with pytest.raises(playwright.Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
        open_tab(chromium, gate.url() + INDEX, None)
    gate.recorded(stage="rejected", reason="no-credential")


def test_scripts_planted_behind_the_gates_back_do_not_run(
    chromium: Any, gate: Gate, infested: Luigid
) -> None:
    """Families with markup, given to luigid directly, run in its own page, and not in the page that
    the gate serves.
    """
    direct = open_tab(chromium, f"http://localhost:{infested.port}/{INDEX}", None)
    for name in PLANTED:
        direct.page.wait_for_function(f"document.documentElement.dataset.{name} === 'yes'")
    infested.call("unpause")
    tab = open_tab(chromium, gate.url("/infested/"), gate.token("admin"))
    assert rows(tab).count("PENDING") == len(PLANTED) + 1
    assert tab.page.evaluate("Object.keys(document.documentElement.dataset)") == []
    assert [line for line in tab.violations() if "inline event handler" in line]
    assert [
        error for error in tab.errors if "Evaluating a string as JavaScript violates" in error
    ], "jQuery runs scripts by eval"


def test_an_image_in_the_page_cannot_act(chromium: Any, gate: Gate, infested: Luigid) -> None:
    """What a policy for images lets through, the gate itself refuses: a planted image of /api/pause
    pauses nothing.
    """
    infested.call("unpause")
    open_tab(chromium, f"http://localhost:{infested.port}/{INDEX}", None)
    until(lambda: infested.paused, "the image in luigid's own page has paused it")
    infested.call("unpause")
    before = len(gate.records())
    tab = open_tab(chromium, gate.url("/infested/"), gate.token("lured", "admin"))
    rows(tab)

    def refused() -> list[dict[str, Any]]:
        return [
            record for record in gate.records()[before:] if record.get("reason") == "cross-site"
        ]

    assert {
        record["principal"]["subject"] for record in until(refused, "the image's call is refused")
    } == {"lured"}
    assert not infested.paused
