"""The fence stands whole or not at all, and goes as far as it can. Its iptables is a stand-in."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.local import fence
from deploy.local.errors import StackError

IPTABLES = f"""#!{sys.executable} -IS
# Keeps the rules of one machine in a file, and refuses what another file names.
import os
import sys
from pathlib import Path

folder = Path(sys.argv[0]).parent
rules = (folder / "rules").read_text().splitlines()
how, rule = sys.argv[2], " ".join(sys.argv[3:])
refused = (folder / "refused").read_text().split()
if [how, sys.argv[3]] == refused:
    sys.exit("no such luck" if how != "-C" else 4)
if how == "-I":
    rules.insert(0, rule)
elif rule not in rules:
    sys.exit(1)
elif how == "-D":
    rules.remove(rule)
(folder / "rules").write_text("".join(line + "\\n" for line in rules))
"""
FOREIGN = "INPUT -i eth0 -j DROP"


class Machine:
    """A machine's firewall."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "rules").write_text(f"{FOREIGN}\n")
        self.refuse()

    def rules(self) -> list[str]:
        return (self._folder / "rules").read_text().splitlines()

    def chains(self) -> list[str]:
        """Return the chains in which there is a rule of ours."""
        return sorted(rule.split()[0] for rule in self.rules() if "modelyard:ours" in rule)

    def refuse(self, what: Sequence[str] = ()) -> None:
        (self._folder / "refused").write_text(" ".join(what))


@pytest.fixture
def bridged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the kernel's switch, which is off."""
    switch = tmp_path / "bridge-nf-call-iptables"
    switch.write_text("0\n")
    monkeypatch.setattr(fence, "_BRIDGED", switch)
    return switch


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bridged: Path) -> Machine:
    program = tmp_path / "iptables"
    program.write_text(IPTABLES)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Machine(tmp_path)


def test_put_up_twice_is_put_up_once_and_goes_without_touching_others(
    machine: Machine, bridged: Path
) -> None:
    fence.put_up("ours")
    fence.put_up("ours")
    fence.put_up("theirs")
    assert machine.chains() == ["FORWARD", "INPUT", "OUTPUT"]
    assert bridged.read_text() == "1"

    fence.take_down("theirs")
    assert machine.chains() == ["FORWARD", "INPUT", "OUTPUT"]

    fence.take_down("ours")
    assert machine.rules() == [FOREIGN]


def test_a_rule_that_can_not_be_put_up_is_named_and_the_others_go(machine: Machine) -> None:
    machine.refuse(("-I", "FORWARD"))

    with pytest.raises(StackError, match=r"-I FORWARD .*modelyard:ours.*no such luck"):
        fence.put_up("ours")

    assert machine.rules() == [FOREIGN]


def test_a_rule_that_stood_before_stays_when_another_can_not_be_put_up(machine: Machine) -> None:
    fence.put_up("ours")
    machine.refuse(("-I", "FORWARD"))
    kept = [rule for rule in machine.rules() if not rule.startswith("FORWARD")]
    (forward,) = set(machine.rules()) - set(kept)
    fence._change("-D", forward.split())

    with pytest.raises(StackError):
        fence.put_up("ours")

    assert machine.rules() == kept


def test_no_rule_stays_when_bridges_can_not_be_filtered(machine: Machine, bridged: Path) -> None:
    bridged.unlink()
    bridged.mkdir()

    with pytest.raises(StackError, match=r"bridge-nf-call-iptables.* can't be set"):
        fence.put_up("ours")

    assert machine.rules() == [FOREIGN]


def test_one_that_can_not_be_taken_away_after_a_failure_is_told_too(
    machine: Machine, bridged: Path
) -> None:
    bridged.unlink()
    bridged.mkdir()
    machine.refuse(("-D", "INPUT"))

    with pytest.raises(StackError, match=r"can't be set: .* `iptables -D INPUT "):
        fence.put_up("ours")

    assert machine.chains() == ["INPUT"]


def test_what_putting_it_up_needs_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(StackError, match=r"iptables, which keeps .* is missing: install it"):
        fence.put_up("ours")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StackError, match="Only root can change the firewall"):
        fence.put_up("ours")

    assert machine.rules() == [FOREIGN]


@pytest.mark.parametrize("missing", [["INPUT"], ["FORWARD"], ["INPUT", "FORWARD"], ["OUTPUT"]])
def test_take_down_removes_what_is_there(machine: Machine, missing: list[str]) -> None:
    fence.put_up("ours")
    for rule in machine.rules():
        if rule.split()[0] in missing and "modelyard" in rule:
            fence._change("-D", rule.split())

    fence.take_down("ours")

    assert machine.rules() == [FOREIGN]


@pytest.mark.parametrize("how", ["-C", "-D"])
def test_a_rule_that_can_not_be_taken_down_is_named_and_keeps_no_other(
    machine: Machine, how: str
) -> None:
    fence.put_up("ours")
    machine.refuse((how, "INPUT"))

    with pytest.raises(StackError, match=f"`iptables {how} INPUT "):
        fence.take_down("ours")

    assert machine.chains() == ["INPUT"]
