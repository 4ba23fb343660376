"""What goes wrong during the soak, one after the other. Each fault tells in a few words what it
saw, and returns when it is mended.
"""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

from tests.soak.world import PROCESSES, World
from tests.support.stage import Client, until

Fault = Callable[[World], str]
GONE_SECONDS = 15.0
FULL_SECONDS = 8.0
_WAIT_SECONDS = 60.0
# calls on connections of their own: the kernel draws lots, and one look of many may not miss a
# process by chance
_SURELY_ALL = range(40)


class SkippedFaultError(Exception):
    """The fault cannot be brought about here; the text says why."""


def _is_replaced(world: World, pid: int) -> bool:
    return pid not in world.serving() and len(world.serving()) == PROCESSES


def _client(world: World) -> Client:
    return Client(world.port, world.context)


def _until_served(world: World) -> None:
    """Wait until luigid answers through the gate, whichever process one comes to."""
    token = world.local.issue("tester", ["viewer"], 600, time.time())
    until(
        lambda: all(_client(world).call("is_paused", token).status == 200 for _ in _SURELY_ALL),
        "calls go through",
        _WAIT_SECONDS,
    )


def provider_gone(world: World) -> str:
    """The provider is gone while tokens go on being used; then it is back with a new key."""
    world.provider.stop()
    unknown = (
        _client(world)
        .call("is_paused", world.provider.token("nobody", "viewer", 60, unknown=True))
        .status
    )
    end = time.monotonic() + GONE_SECONDS
    good = 0
    while time.monotonic() < end:
        assert (
            _client(world).call("is_paused", world.provider.token("tester", "viewer", 60)).status
            == 200
        ), "last good keys"
        good += 1
        time.sleep(0.5)
    world.provider.rotate()
    world.provider.start()
    token = world.provider.token("tester", "viewer", 600, newest=True)
    # Every process has to have looked again, and each may do so only so often.
    until(
        lambda: all(_client(world).call("is_paused", token).status == 200 for _ in _SURELY_ALL),
        "the new key is known",
        _WAIT_SECONDS,
    )
    world.provider.switch()
    return f"{good} fresh tokens verified by the last good keys, an unknown key refused ({unknown}); its new key is in use"


def luigid_restarted(world: World) -> str:
    """luigid is stopped and started again a second later."""
    world.luigid.process.stop()
    time.sleep(1.0)
    world.luigid.start()
    began = time.monotonic()
    _until_served(world)
    return (
        f"calls go through again {time.monotonic() - began:.1f} s after it is back, its state kept"
    )


def policy_reloaded(world: World) -> str:
    """A policy is added, and the gate reloaded."""
    number = len(list(world.policies.glob("soak-*.cedar")))
    text = f'@id("soak-{number}")\nforbid (principal == User::"idp|nobody-{number}", action, resource);\n'
    (world.policies / f"soak-{number}.cedar").write_text(text)
    done = world.callgate("reload", "--config", str(world.settings))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def broken_policy_refused(world: World) -> str:
    """A policy that names no action there is; reload has to refuse it."""
    # The processes of the reload before may be draining still.
    until(lambda: len(world.serving()) == PROCESSES, "one generation serves", _WAIT_SECONDS)
    before = set(world.serving())
    broken = world.policies / "broken.cedar"
    broken.write_text('@id("broken") permit (principal, action == Action::"no_such", resource);\n')
    try:
        done = world.callgate("reload", "--config", str(world.settings))
    finally:
        broken.unlink()
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert before <= set(world.serving()), "the old processes serve on"
    return "refused with 1, the old processes serve on"


def key_rotated(world: World) -> str:
    """The local issuer signs with a new key; tokens signed before stay good."""
    old = world.local.issue("tester", ["viewer"], 600, time.time())
    done = world.callgate("token", "rotate", "--config", str(world.settings))
    assert done.returncode == 0, done.stderr
    new = world.local.issue("tester", ["viewer"], 600, time.time())
    assert {_client(world).call("is_paused", token).status for token in (old, new) * 4} == {200}
    return "old and new tokens good"


def processes_killed(world: World) -> str:
    """Each serving process is killed with -9, one after the other."""
    killed = world.serving()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
        until(
            partial(_is_replaced, world, pid),
            "it is replaced",
            _WAIT_SECONDS,
        )
        time.sleep(2.0)
    return f"{len(killed)} killed with -9 and replaced"


def gate_restarted(world: World) -> str:
    """SIGTERM, and a new start once it has ended."""
    began = time.monotonic()
    code = world.gate.stop()
    stopped = time.monotonic()
    assert code == 0, code
    world.start_gate()
    return f"ended with 0 after {stopped - began:.1f} s, ready again {time.monotonic() - stopped:.1f} s later"


def disk_filled(world: World) -> str:
    """The journal's disk is full for a while; nothing may be forwarded, and it goes on by itself."""
    if world.disk:
        raise SkippedFaultError(world.disk)
    ballast = world.audit / "ballast"
    stop = threading.Event()

    def fill() -> None:
        """Take what is free, and what becomes free."""
        with ballast.open("wb", buffering=0) as file:
            while not stop.is_set():
                for size in (1 << 20, 4096, 1):
                    try:
                        while not stop.is_set():
                            file.write(bytes(size))
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
                stop.wait(0.05)

    filling = threading.Thread(target=fill)
    filling.start()
    try:
        token = world.local.issue("tester", ["viewer"], 600, time.time())
        until(
            lambda: all(_client(world).call("is_paused", token).status == 503 for _ in range(8)),
            "calls are refused",
            _WAIT_SECONDS,
        )
        time.sleep(FULL_SECONDS)
        statuses = {_client(world).call("is_paused", token).status for _ in range(8)}
        reload = world.callgate("reload", "--config", str(world.settings))
        # what is left in a file's last block may do to start with
        assert reload.returncode in (0, 1), reload.stderr
    finally:
        stop.set()
        filling.join()
        ballast.unlink()
    began = time.monotonic()
    _until_served(world)
    answers = ", ".join(map(str, sorted(statuses)))
    reloaded = "refused" if reload.returncode else "taken"
    return f"answered {answers} while full, a reload {reloaded}, served again {time.monotonic() - began:.1f} s after"


FAULTS: dict[str, Fault] = {
    "identity provider gone": provider_gone,
    "luigid restarted": luigid_restarted,
    "policy reloaded": policy_reloaded,
    "broken policy reloaded": broken_policy_refused,
    "signing key rotated": key_rotated,
    "processes killed": processes_killed,
    "disk filled": disk_filled,
    "gate restarted": gate_restarted,
}
