"""The fence: this machine's firewall keeps containers from it, from each other and from outside.

Owns: three static rules on the bridges of tenants' networks, whose names begin alike. Containers of
a network have no route out anyway (it is internal); what is left to close is their own bridge: this
machine at one end, of which the platform's account alone may call them, other containers beside
them.

Always holds: the fence stands whole or not at all; a rule bears the name of who needs it and goes
with it; nobody else's is touched.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.local.errors import StackError
from deploy.local.processes import run_tool

INTERFACES: Final = "myd-+"
"""The bridges of tenants' networks: `INTERFACE_PREFIX` of the scheduler's Docker runtime."""

_BRIDGED: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_NEEDED_FOR: Final = "which keeps containers from this machine"
_NOT_OURS: Final = ("-m", "owner", "!", "--uid-owner", "0")
"""Who puts the fence up is root, and so are the services of its stack."""
_CALL_MAX_S: Final = 30.0
_NO_SUCH_RULE: Final = 1

Rule = Sequence[str]


def put_up(owner: str) -> None:
    """Install the rules, once however often it is called; replies to this machine still pass.

    If one of them can't be installed, those that this call has installed go again.
    """
    if os.geteuid() != 0:
        raise StackError(f"Only root can change the firewall, {_NEEDED_FOR}.")
    if shutil.which("iptables") is None:
        raise StackError(f"iptables, {_NEEDED_FOR}, is missing: install it.")
    installed: list[Rule] = []
    try:
        for rule in _rules(owner):
            if not _is_there(rule):
                _change("-I", rule)
                installed.append(rule)
        _filter_bridges()
    except StackError as error:
        if left := _removed(installed):
            raise StackError(f"{error} {left}") from error
        raise


def take_down(owner: str) -> None:
    """Remove the owner's rules, those that are there: one that can't be removed keeps no other."""
    if shutil.which("iptables") is None:
        return
    if left := _removed(_rules(owner)):
        raise StackError(left)


def _rules(owner: str) -> Sequence[Rule]:
    name = ("-m", "comment", "--comment", f"modelyard:{owner}")
    new = ("-m", "conntrack", "--ctstate", "NEW")
    return (
        # What this machine asked a container comes back; no container asks first.
        ("INPUT", "-i", INTERFACES, *new, *name, "-j", "REJECT"),
        ("FORWARD", "-i", INTERFACES, *name, "-j", "DROP"),
        ("OUTPUT", "-o", INTERFACES, *new, *_NOT_OURS, *name, "-j", "REJECT"),
    )


def _removed(rules: Sequence[Rule]) -> str:
    """Remove what is there of these rules; return a sentence on each that could not be removed."""
    failures = []
    for rule in rules:
        try:
            while _is_there(rule):
                _change("-D", rule)
        except StackError as error:
            failures.append(str(error))
    return " ".join(failures)


def _filter_bridges() -> None:
    """Have the rules see what goes from one port of a bridge to another.

    It is the module's default, engines rely on it too: whoever turned it off gets it turned on for
    good.
    """
    if not _BRIDGED.exists():
        run_tool(["modprobe", "br_netfilter"], needed_for=_NEEDED_FOR, within_s=_CALL_MAX_S)
    try:
        if _BRIDGED.read_text().strip() != "1":
            _BRIDGED.write_text("1")
    except OSError as error:
        raise StackError(f"{_BRIDGED}, {_NEEDED_FOR}, can't be set: {error}.") from error


def _is_there(rule: Rule) -> bool:
    try:
        asked = subprocess.run(
            ["iptables", "--wait", "-C", *rule],
            capture_output=True,
            check=False,
            timeout=_CALL_MAX_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{_shown('-C', rule)} can't be run: {error}.") from error
    if asked.returncode not in {0, _NO_SUCH_RULE}:
        told = " | ".join(asked.stderr.decode(errors="replace").strip().splitlines()[-4:])
        raise StackError(f"{_shown('-C', rule)} failed ({asked.returncode}): {told}.")
    return asked.returncode == 0


def _change(how: str, rule: Rule) -> None:
    try:
        run_tool(["iptables", "--wait", how, *rule], needed_for=_NEEDED_FOR, within_s=_CALL_MAX_S)
    except StackError as error:
        raise StackError(f"{_shown(how, rule)}: {error}") from error


def _shown(how: str, rule: Rule) -> str:
    return f"`{' '.join(('iptables', how, *rule))}`"
