"""The configuration files and the pipeline that the demo writes, as format strings."""

SETTINGS = """\
# The demo's settings, written anew at each start. deploy/callgate.toml shows every key.
[[listeners]]
address = "127.0.0.1"
port = {port}
certificate = "tls.crt"
key = {{ file = "tls.key" }}

[local_issuer]
directory = "issuer"

[[upstreams]]
name = "luigi"
protocol = "luigi"
url = "http://127.0.0.1:{luigid}"

[[upstreams]]
name = "processes"
protocol = "xmlrpc"
url = {socket}
path_prefix = "/processes"
catalog = "supervisor"

[policy]
directory = "policies"

[audit]
directory = "audit"
name = "demo"

[metrics]
port = {metrics}
"""

LUIGID = """\
# luigid's own configuration, written anew at each start. It runs in this directory.
[scheduler]
state_path = luigi-state.pickle
record_task_history = true

[task_history]
db_connection = sqlite:///luigi-history.db
"""

LUIGI = """\
# For workers: LUIGI_CONFIG_PATH names this file, NETRC the token, REQUESTS_CA_BUNDLE ca.pem.
[core]
scheduler_url = https://localhost:{port}/
"""

SUPERVISORD = """\
; supervisord's own configuration, written anew at each start. It runs in this directory.
[unix_http_server]
file = {socket}
chmod = 0700

[supervisord]
logfile = supervisord.log
pidfile = supervisord.pid

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

PROGRAM = """
[program:{name}]
command = {command}
stdout_logfile = {name}.log
redirect_stderr = true
stopasgroup = true
killasgroup = true
"""

TASKS = '''\
"""A pipeline to run through the proxy: a report over four extracts.

Each run has a number, so that it can be run again.
"""

from pathlib import Path

import luigi

OUTPUT = Path(__file__).parent / "output"


class Extract(luigi.Task):
    """Write one number."""

    run_number = luigi.Parameter()
    part = luigi.IntParameter()

    def output(self):
        return luigi.LocalTarget(OUTPUT / self.run_number / f"{self.part}.txt")

    def run(self):
        with self.output().open("w") as out:
            out.write(f"{self.part * self.part}\\n")


class Report(luigi.Task):
    """Add the numbers up."""

    run_number = luigi.Parameter()

    def requires(self):
        return [Extract(run_number=self.run_number, part=part) for part in range(1, 5)]

    def output(self):
        return luigi.LocalTarget(OUTPUT / self.run_number / "report.txt")

    def run(self):
        total = 0
        for part in self.input():
            with part.open() as lines:
                total += int(lines.read())
        with self.output().open("w") as out:
            out.write(f"{total}\\n")
'''
