"""The `modelyard` command for programs: exit codes, and JSON on standard output."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bench import Bench
from tests.e2e.platform import COMMAND, CPU_MILLICORES, Platform
from tests.support.eventually import until

NOBODY_LISTENS = "http://127.0.0.1:9"
BASE = ("--image", "modelyard/base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return source to send."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.py").write_text(
        "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    return source


@pytest.mark.parametrize("code", [0, 7])
def test_run_follows_the_output_and_ends_with_the_programs_code(
    platform: Platform, folder: Path, code: int
) -> None:
    done = platform.cli("run", str(folder), *BASE, "--", "python", "main.py", str(code))

    assert done.returncode == code
    assert done.stdout == "to stdout\n"
    assert "to stderr" in done.stderr.splitlines()


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (["run"], {}, 2, "Missing argument"),
        (["job", "show", "job_unknown"], {}, 3, "NOT_FOUND"),
        (["job", "list"], {"MODELYARD_API_KEY": "wrong"}, 3, "UNAUTHENTICATED"),
        (["deploy", "create", "x", "models:/unknown/1"], {}, 3, "NOT_FOUND"),
        (["status"], {"MODELYARD_URL": NOBODY_LISTENS}, 4, "can't reach"),
    ],
    ids=["wrong usage", "unknown job", "wrong key", "unknown model", "nobody there"],
)
def test_failure_has_its_exit_code_and_a_sentence_on_standard_error(
    platform: Platform, arguments: list[str], environment: dict[str, str], code: int, says: str
) -> None:
    done = platform.cli(*arguments, **environment)

    assert done.returncode == code
    assert says in done.stderr
    assert done.stdout == ""


def test_json_is_all_that_standard_output_has(platform: Platform, bench: Bench) -> None:
    job = bench.submit(bench.spec("print('line')"))
    bench.ended(job)

    def answer(*arguments: str) -> Any:
        done = platform.cli("--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert answer("status")["ready"] is True
    assert answer("job", "show", job.id)["state"] == "SUCCEEDED"
    assert job.id in [found["id"] for found in answer("job", "list")]
    assert answer("job", "logs", "-f", job.id)["text"] == "line"
    issued = answer("key", "create", "program", "--scope", "jobs:read")
    assert issued["text"].startswith("myk_")
    assert platform.cli("key", "revoke", issued["key"]["id"]).returncode == 0
    keys = bench.client.keys()
    assert issued["key"]["id"] in [key.id for key in keys if key.revoked_at]


def test_job_file_is_submitted_once_under_its_key(platform: Platform, bench: Bench) -> None:
    spec = bench.spec("pass", name="from a file").model_dump_json()

    twice = [
        platform.cli("--json", "job", "submit", "-", "--idempotency-key", "file", stdin=spec)
        for _ in range(2)
    ]

    [job_id] = {json.loads(done.stdout)["id"] for done in twice}
    assert bench.ended(bench.client.job(job_id)).state == "SUCCEEDED"


def test_the_job_file_of_the_help_succeeds(platform: Platform, bench: Bench) -> None:
    shown = platform.cli("job", "submit", "--help").stdout
    sample = shown[shown.index("{") : shown.rindex("}") + 1]

    done = platform.cli("--json", "job", "submit", "-", stdin=sample)

    assert done.returncode == 0, done.stderr
    assert bench.ended(bench.client.job(json.loads(done.stdout)["id"])).state == "SUCCEEDED"


def test_a_job_is_run_again_found_by_its_label_and_told_by_its_time_line(
    platform: Platform, folder: Path
) -> None:
    sent = platform.cli(
        "--json", "run", str(folder), *BASE, "--detach", "--label", "of=again", "--", "false"
    )
    assert sent.returncode == 0, sent.stderr
    before = json.loads(sent.stdout)["id"]

    again = platform.cli("job", "again", before, "--label", "run=2", "--", "python", "main.py", "7")
    assert again.returncode == 7, again.stderr
    assert again.stdout == "to stdout\n"

    def answer(*arguments: str) -> Any:
        return json.loads(platform.cli("--json", *arguments).stdout)

    [after] = answer("job", "list", "--label", "of=again", "--label", "run=2")
    both = answer("job", "list", "--label", "of=again")
    assert [each["id"] for each in both[:2]] == [after["id"], before]
    events = answer("job", "timeline", after["id"])
    assert [each["event"] for each in events] == [
        *("queued", "admitted", "started", "ended", "failed"),
    ]
    assert events[3]["exit_code"] == 7
    assert events[3]["ending"] == {"reason": "exit_code", "message": "exit code 7"}
    stats = answer("stats", "--window", "1h")
    assert sum(group["waited"]["job_count"] for group in stats["waits"]) >= 2
    assert [group["ran"]["job_count"] >= 2 for group in stats["ends"] if group["state"] == "FAILED"]


def test_an_array_runs_for_each_index_and_is_read_element_by_element(
    platform: Platform, folder: Path
) -> None:
    program = "from os import environ as of\nprint(*(of[f'MODELYARD_ARRAY_{name}'] for name in"
    (folder / "element.py").write_text(f"{program} ('INDEX', 'SIZE', 'ID')))\n")
    options = (*BASE, "--cpu", "100", "--array", "5")

    done = platform.cli("run", str(folder), *options, "--", "python", "element.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    [array_id] = re.findall(r"^job (\S+)$", done.stderr, re.MULTILINE)

    def answer(*arguments: str) -> Any:
        return json.loads(platform.cli("--json", *arguments).stdout)

    elements = answer("job", "list", "--array", array_id)
    assert sorted(each["element"]["index"] for each in elements) == list(range(5))
    assert {each["state"] for each in elements} == {"SUCCEEDED"}
    assert answer("job", "show", array_id)["array"] == {"elements": {"SUCCEEDED": 5}}
    listed = {each["id"] for each in answer("job", "list", "--limit", "200")}
    assert listed & {array_id, *(each["id"] for each in elements)} == {array_id}
    for index in range(5):
        told = platform.cli("job", "logs", "-f", array_id, "--element", str(index))
        assert told.stdout == f"{index} 5 {array_id}\n"
    assert platform.cli("job", "logs", array_id, "--element", "5").returncode == 3


def test_an_array_fails_with_an_element_that_fails_and_is_run_again_whole(
    platform: Platform, folder: Path
) -> None:
    program = "import os, sys\nsys.exit(int(os.environ['MODELYARD_ARRAY_INDEX']))\n"
    (folder / "element.py").write_text(program)
    command = ("--cpu", "100", "--array", "2", "--", "python", "element.py")

    done = platform.cli("run", str(folder), *BASE, *command)
    assert done.returncode == 1, done.stderr
    assert "FAILED: 1 SUCCEEDED, 1 FAILED" in done.stderr
    [array_id] = re.findall(r"^job (\S+)$", done.stderr, re.MULTILINE)

    shown = platform.cli("--json", "job", "list", "--array", array_id, "--index", "1")
    [failed] = json.loads(shown.stdout)
    assert failed["failure"]["exit_code"] == 1
    refused = platform.cli("job", "again", failed["id"])
    assert (refused.returncode, f"job again {array_id}" in refused.stderr) == (2, True)
    assert platform.cli("job", "again", array_id).returncode == 1


def test_an_element_that_waits_for_its_retry_stands_in_line_by_itself(
    platform: Platform, folder: Path
) -> None:
    program = "import os, sys\nsys.exit(75 * int(os.environ['MODELYARD_ARRAY_INDEX']))\n"
    (folder / "element.py").write_text(program)
    options = ("--cpu", "100", "--array", "2", "--retry-exit-code", "75", "--detach")

    def answer(*arguments: str) -> Any:
        return json.loads(platform.cli("--json", *arguments).stdout)

    array = answer("run", str(folder), *BASE, *options, "--", "python", "element.py")

    def waiting() -> Any:
        of = [(each, each["element"]) for each in answer("queue")["waiting"] if each["element"]]
        return [each for each, element in of if element["array_id"] == array["id"]]

    [found] = until(waiting, what="the element is back in line")
    assert (found["element"]["index"], found["hold"]) == (1, "BACK_OFF")
    assert "exit code 75" in found["because"]
    assert platform.cli("job", "cancel", array["id"]).returncode == 0


def test_a_job_of_a_paused_queue_waits_until_that_is_resumed(
    platform: Platform, bench: Bench, folder: Path
) -> None:
    def answer(*arguments: str) -> Any:
        told = platform.cli("--json", *arguments)
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    answer("queue", "pause", "nightly", "--reason", "it is day")
    try:
        command = ("--", "python", "main.py", "0")
        sent = answer(
            "run", str(folder), *BASE, "--cpu", "100", "--detach", "--queue", "nightly", *command
        )
        told = answer("job", "explain", sent["id"])
        [listed] = answer("job", "list", "--queue", "nightly", "--state", "QUEUED")
        [queue] = [each for each in answer("queue", "list") if each["name"] == "nightly"]
    finally:
        answer("queue", "resume", "nightly")

    assert told["hold"] == "PAUSED"
    assert listed["reason"] == told["because"]
    assert listed["reason"].endswith(": it is day")
    assert (queue["paused_reason"], queue["queued_count"]) == ("it is day", 1)
    assert bench.ended(bench.client.job(sent["id"])).state == "SUCCEEDED"


def test_the_line_is_watched_on_a_terminal_and_told_once_elsewhere(
    platform: Platform, bench: Bench
) -> None:
    first, second = (
        bench.submit(bench.spec(program, cpu_millicores=CPU_MILLICORES))
        for program in ("wait()", "pass")
    )
    bench.process_of(first)

    told = json.loads(platform.cli("--json", "queue").stdout)
    assert first.id in {job["job_id"] for job in told["placed"]}
    [waiting] = [job for job in told["waiting"] if job["job_id"] == second.id]
    assert (waiting["hold"], waiting["place"] >= 1) == ("RESOURCES", True)
    assert second.id in platform.cli("queue").stdout

    ours, theirs = os.openpty()
    # Whoever runs the tests in the background has Ctrl-C ignored, which programs inherit.
    heeds = (
        "import os, signal as s, sys; s.signal(2, s.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    watcher = subprocess.Popen(
        [sys.executable, "-c", heeds, COMMAND, "queue"],
        env=platform.cli_environment(),
        stdout=theirs,
        stderr=theirs,
    )
    shown = bytearray()

    def is_shown_twice() -> bool:
        shown.extend(os.read(ours, 4096))
        return shown.count(b"in line:") >= 2

    try:
        until(is_shown_twice, what="a second look")
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(timeout=20) == 130
    finally:
        watcher.kill()
        watcher.wait()
        for end in (ours, theirs):
            os.close(end)
        bench.open_gate()
