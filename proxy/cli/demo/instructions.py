"""The instructions that the demo prints: commands to paste into another shell in this directory."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from proxy.cli.demo.files import DemoFiles


def what_to_try(files: DemoFiles, shown: Path) -> str:
    """Return the text; `shown` is the demo's directory as given on the command line."""
    here = shlex.quote(str(shown))
    url = f"https://localhost:{files.port}"
    python = program("python")
    callgate = program("callgate") or f"{python} -m proxy"

    def curl(who: str, rest: str) -> str:
        bearer = f'-H "Authorization: Bearer $(cat {here}/tokens/{who}.jwt)"'
        return f"curl -sS --cacert {here}/ca.pem {bearer} {rest}"

    worker = (
        f"PYTHONPATH={here} LUIGI_CONFIG_PATH={here}/luigi.cfg NETRC={here}/netrc"
        f" REQUESTS_CA_BUNDLE={here}/ca.pem"
    )
    xmlrpc = (
        "import ssl, xmlrpc.client as x; "
        f't = open("{shown}/tokens/viewer.jwt").read().strip(); '
        f's = x.ServerProxy("{url}/processes", headers=[("Authorization", "Bearer " + t)], '
        f'context=ssl.create_default_context(cafile="{shown}/ca.pem")); '
        "print(s.supervisor.getState(), s.system.listMethods())"
    )
    form = "-d 'data={}'"
    task = """-d 'data={"task_id":"Report"}'"""
    rows = [
        ("A viewer may look:", curl("viewer", f"{url}/api/task_list {form}")),
        (
            "A viewer may not pause (403, with the reason in the status line):",
            curl("viewer", f"-i {url}/api/pause {form}"),
        ),
        (
            "An agent may not have work done again (403):",
            curl("agent", f"-i {url}/api/forgive_failures {task}"),
        ),
        (
            "A stranger has a valid token and no role (403):",
            curl("stranger", f"-i {url}/api/task_list {form}"),
        ),
        ("No token (401):", f"curl -sS --cacert {here}/ca.pem -i {url}/api/task_list"),
        (
            "Run an unmodified luigi worker:",
            f"{worker} {python} -m luigi --module demo_tasks Report --run-number $(date +%s)",
        ),
        (
            "Load the dashboard's page:",
            curl("viewer", f"{url}/static/visualiser/index.html | head -5"),
        ),
        ("Ask supervisord over XML-RPC:", f"{python} -c {shlex.quote(xmlrpc)}"),
        ("Read the audit log:", f"{callgate} audit tail --dir {here}/audit"),
    ]
    lines = [
        f"Callgate on {url}, files in {shown}/, its log in {shown}/gate.log. In another shell:",
        "",
    ]
    for about, line in rows:
        lines += [f"  # {about}", f"  {line}", ""]
    return "\n".join(
        [*lines, f"Edit {shown}/policies, start again, and see what changes. Ctrl-C ends it."]
    )


def program(name: str) -> str:
    """Return the shortest command for a program of this installation, or an empty string."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        return ""
    found = shutil.which(name)
    if found and Path(found).parent.samefile(path.parent):
        return name
    relative = os.path.relpath(path)
    return shlex.quote(relative if not relative.startswith("..") else str(path))
