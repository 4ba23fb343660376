import re
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.cli.init.texts import UNIT
from tests.support.paths import ROOT

SHIPPED = (ROOT / "deploy" / "callgate.service").read_text(encoding="utf-8")
# What depends on where the files are, in either unit.
PLACES = (
    "User", "Group", "ExecStartPre", "ExecStart", "ReadWritePaths", "StateDirectory", "StateDirectoryMode",
    "ConfigurationDirectory", "ProtectHome", "PrivateTmp",
)  # fmt: skip


def entries(text: str) -> list[str]:
    """The entries of a unit, without those about places."""
    lines = re.findall(r"(?m)^\w+=.*$", text)
    return [line for line in lines if line.partition("=")[0] not in PLACES]


@pytest.mark.interpreted
def test_the_unit_is_as_closed_as_the_shipped_one() -> None:
    """Both have the same entries but for places; one that changes has to change in both."""
    assert entries(UNIT) == entries(SHIPPED)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    """No entry is unknown, and no quote is lost."""
    unit = tmp_path / "callgate.service"
    unit.write_text(
        UNIT.format(
            unit=unit, user="root", group="root", program='"/bin/true"', config='"/etc/a b.toml"',
            directory='"/var/lib"', home="yes", private_tmp="yes",
        )
    )  # fmt: skip
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    # A comment in the unit says so of systemd before 253.
    known = "Failed to parse service type, ignoring: notify-reload"
    said = [line for line in done.stderr.splitlines() if str(unit) in line and known not in line]
    assert said == []
