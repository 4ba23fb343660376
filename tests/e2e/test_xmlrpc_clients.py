"""Stock XML-RPC clients of other languages, with their defaults, through the gate to supervisord.

Each reads the state of a process, has a refusal shown to it, and brings a Basic credential: the
token as the password. aXMLRPC breaks a long one into lines, and brings a Bearer header instead. A client that is not installed is skipped, with the Debian package to install.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.test_supervisor import Supervisord
from tests.support.stack import Gate, only
from tests.support.stage import DEADLINE_SECONDS


@dataclass(frozen=True)
class Client:
    """A client: its program, the package that has it, and a script with @URL@, @HOST@ and @TOKEN@.

    The script calls supervisor.getProcessInfo("sleeper") and prints the state's name, then calls
    supervisor.shutdown and prints the fault.
    """

    command: tuple[str, ...]
    module: str
    package: str
    script: str


CLIENTS = {
    "Perl, RPC::XML": Client(
        ("perl",),
        "/usr/share/perl5/RPC/XML.pm",
        "librpc-xml-perl",
        """
use RPC::XML::Client;
my $client = RPC::XML::Client->new('@URL@');
$client->credentials('callgate', 'jwt', '@TOKEN@');
my $answer = $client->send_request('supervisor.getProcessInfo', 'sleeper');
die $answer unless ref $answer;
print $answer->value->{statename}, "\\n";
print $client->send_request('supervisor.shutdown')->string, "\\n";
""",
    ),
    "Perl, Frontier": Client(
        ("perl",),
        "/usr/share/perl5/Frontier/Client.pm",
        "libfrontier-rpc-perl",
        """
use Frontier::Client;
my $url = '@URL@';
$url =~ s{http://}{http://jwt:@TOKEN@\\@};
my $client = Frontier::Client->new(url => $url, encoding => 'ISO-8859-1');
print $client->call('supervisor.getProcessInfo', 'sleeper')->{statename}, "\\n";
eval { $client->call('supervisor.shutdown') };
print $@;
""",
    ),
    "Perl, XMLRPC::Lite": Client(
        ("perl",),
        "/usr/share/perl5/XMLRPC/Lite.pm",
        "libxmlrpc-lite-perl",
        """
use XMLRPC::Lite;
sub SOAP::Transport::HTTP::Client::get_basic_credentials { return ('jwt', '@TOKEN@') }
my $client = XMLRPC::Lite->proxy('@URL@');
print $client->call('supervisor.getProcessInfo', 'sleeper')->result->{statename}, "\\n";
print $client->call('supervisor.shutdown')->faultstring, "\\n";
""",
    ),
    "PHP": Client(
        ("php",),
        "/usr/share/doc/php8.2-xmlrpc",
        "php-cli php-xmlrpc",
        """<?php
function call($method, $params) {
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => ['Content-Type: text/xml',
                     'Authorization: Basic ' . base64_encode('jwt:@TOKEN@')],
        'content' => xmlrpc_encode_request($method, $params),
    ]]);
    return xmlrpc_decode(file_get_contents('@URL@', false, $context));
}
print call('supervisor.getProcessInfo', ['sleeper'])['statename'] . "\\n";
print call('supervisor.shutdown', [])['faultString'] . "\\n";
""",
    ),
    "Ruby": Client(
        ("ruby",),
        "/usr/share/doc/ruby-xmlrpc",
        "ruby-xmlrpc",
        """
require 'xmlrpc/client'
client = XMLRPC::Client.new3(host: 'localhost', port: @PORT@, path: '/RPC2',
                             user: 'jwt', password: '@TOKEN@')
puts client.call('supervisor.getProcessInfo', 'sleeper')['statename']
begin
  client.call('supervisor.shutdown')
rescue XMLRPC::FaultException => fault
  puts fault.faultString
end
""",
    ),
    "Lua": Client(
        ("lua5.1",),
        "/usr/share/lua/5.1/xmlrpc/http.lua",
        "lua5.1 lua-xmlrpc",
        """
local http = require "xmlrpc.http"
local url = "http://jwt:@TOKEN@@localhost:@PORT@/RPC2"
local ok, answer = http.call(url, "supervisor.getProcessInfo", "sleeper")
print(answer.statename)
local ok, fault = http.call(url, "supervisor.shutdown")
print(fault)
""",
    ),
    "Java, aXMLRPC": Client(
        ("java", "-cp", "/usr/share/java/axmlrpc.jar"),
        "/usr/share/java/axmlrpc.jar",
        "libaxmlrpc-java default-jdk-headless",
        """
import de.timroes.axmlrpc.*;
import java.net.URL;
import java.util.Map;
public class Script {
    public static void main(String[] args) throws Exception {
        XMLRPCClient client = new XMLRPCClient(new URL("@URL@"));
        client.setCustomHttpHeader("Authorization", "Bearer @TOKEN@");
        Map answer = (Map) client.call("supervisor.getProcessInfo", "sleeper");
        System.out.println(answer.get("statename"));
        try {
            client.call("supervisor.shutdown");
        } catch (XMLRPCServerException fault) {
            System.out.println(fault.getMessage());
        }
    }
}
""",
    ),
}


@pytest.fixture(scope="module")
def supervisord(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisord]:
    """One supervisord for all clients."""
    running = Supervisord(tmp_path_factory.mktemp("s"))
    yield running
    assert running.process.stop() == 0


@pytest.fixture(scope="module")
def gate(supervisord: Supervisord, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate on plain HTTP, since the trust stores of seven languages are not the subject."""
    upstream = {
        "name": "processes",
        "protocol": "xmlrpc",
        "catalog": "supervisor",
        "url": f"unix:{supervisord.directory}/s.sock",
    }
    running = Gate(tmp_path_factory.mktemp("gate"), [upstream], tls=False).start()
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize("name", CLIENTS)
def test_a_stock_client_is_answered_and_refused(name: str, gate: Gate, tmp_path: Path) -> None:
    """With its own markup, encoding, headers and way to send a credential."""
    client = CLIENTS[name]
    if shutil.which(client.command[0]) is None or not Path(client.module).exists():
        pytest.skip(f"install {client.package} to run this client")
    script = tmp_path / "Script.java"
    script.write_text(
        client.script.replace("@URL@", f"http://localhost:{gate.port}/RPC2")
        .replace("@PORT@", str(gate.port))
        .replace("@TOKEN@", gate.token("viewer"))
    )
    since = gate.mark()
    run = subprocess.run(
        [*client.command, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_SECONDS,
        check=False,
    )
    assert "RUNNING" in run.stdout.splitlines(), run
    assert "callgate: viewer-1 (viewer) may not supervisor.shutdown processes" in run.stdout
    records = gate.calls(since)
    assert only(records, method="supervisor.getProcessInfo")["decision"] == "allow"
    assert only(records, method="supervisor.shutdown")["decision"] == "deny"
