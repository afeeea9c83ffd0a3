"""Reading of the kernel whether it killed for memory, on either kind of cgroup."""

from pathlib import Path

import pytest

from services.scheduler.adapters.runtime_docker.cgroups import has_killed_for_memory

ID = "8efb7b80a288"
V1 = f"5:memory:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}\n0::/system.slice/x\n"
V2 = f"0::/system.slice/docker-{ID}.scope\n"


def host(root: Path, cgroup: str, file: str, text: str) -> bool:
    """Return the answer on a machine with these files."""
    (root / "proc" / "7").mkdir(parents=True)
    (root / "proc" / "7" / "cgroup").write_text(cgroup)
    (root / "cgroup" / file).parent.mkdir(parents=True)
    (root / "cgroup" / file).write_text(text)
    return has_killed_for_memory(ID, 7, processes=root / "proc", cgroups=root / "cgroup")


@pytest.mark.parametrize("kill_count", [0, 2])
def test_kills_are_counted_on_v1(tmp_path: Path, kill_count: int) -> None:
    text = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kill_count}\n"

    assert host(tmp_path, V1, f"memory/docker/{ID}/memory.oom_control", text) is (kill_count > 0)


@pytest.mark.parametrize("kill_count", [0, 2])
def test_kills_are_counted_on_v2(tmp_path: Path, kill_count: int) -> None:
    text = f"low 0\nhigh 0\nmax 3\noom 1\noom_kill {kill_count}\n"

    file = f"system.slice/docker-{ID}.scope/memory.events"
    assert host(tmp_path, V2, file, text) is (kill_count > 0)


def test_another_container_s_kills_are_not_ours(tmp_path: Path) -> None:
    """The process has ended, and its number is another one's."""
    assert host(tmp_path, "0::/other\n", "other/memory.events", "oom_kill 2\n") is False


def test_nothing_was_killed_when_the_process_is_gone(tmp_path: Path) -> None:
    assert has_killed_for_memory(ID, 7, processes=tmp_path, cgroups=tmp_path) is False
