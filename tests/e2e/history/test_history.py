"""Clients ask while services are killed, frozen and replaced: what they were told fits together.

In `make soak` for ten thousand questions and twenty kills at least; otherwise for a minute.
"""

import asyncio
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest
from modelyard.client import Client
from modelyard.scheduler.v1 import job_pb2

from services.scheduler.domain.jobs.job import JobState
from tests.e2e.history.clients import MODEL, Clients
from tests.e2e.history.table import PROPERTY, Run, told
from tests.e2e.history.trouble import trouble_for
from tests.e2e.platform import Platform
from tests.e2e.soak import IS_SOAK
from tests.e2e.told import told_by
from tests.support.eventually import is_within, until
from tests.support.history import Answered, Asked, Event, History, anomalies_in

CALLS_WANTED: Final = 10_000 if IS_SOAK else 1_500
KILLS_WANTED: Final = 20 if IS_SOAK else 5
ASKING_S_MAX: Final = 1_500.0 if IS_SOAK else 90.0
PAUSE_S: Final = 4.0 if IS_SOAK else 2.0
QUIET_S_MAX: Final = 150.0
_TOLD_MAX: Final = 10


@pytest.mark.timeout(ASKING_S_MAX + 600)
def test_what_clients_are_told_fits_together_whatever_befalls_the_services(
    own_platform: Platform, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("MODELYARD_HISTORY_SEED", secrets.randbelow(1 << 32)))
    clients = Clients(own_platform, tmp_path, seed)
    with trouble_for(own_platform, Random(seed), pause_s=PAUSE_S) as trouble, clients.asking():
        is_within(
            lambda: len(clients.calls) >= CALLS_WANTED and trouble.kill_count >= KILLS_WANTED,
            within_s=ASKING_S_MAX,
        )

    with own_platform.client(tries_max=30) as client:
        clients.settle(client)
        until(lambda: clients.is_quiet(client), what="all jobs have ended", within_s=QUIET_S_MAX)
        history = recorded(own_platform, clients, client)

    anomalies = anomalies_in(history)
    record_property(
        PROPERTY,
        told(
            Run(
                seed=seed,
                calls=dict(Counter(f"{call.asked} {call.answered}" for call in clients.calls)),
                jobs=len(set(clients.job_ids)),
                events=len(history.events),
                strikes=dict(trouble.strikes),
                anomalies=[f"{anomaly.rule}: {anomaly.what}" for anomaly in anomalies],
            )
        ),
    )
    assert anomalies[:_TOLD_MAX] == []
    assert clients.mistakes == []
    assert trouble.strikes
    # A history of nothing has no anomaly.
    answered = {call.asked for call in clients.calls if call.answered is Answered.DONE}
    assert {Asked.SUBMIT, Asked.SHOW} <= answered
    assert history.events
    assert history.starts
    if IS_SOAK:  # elsewhere the time is up on a slow machine
        assert len(clients.calls) >= CALLS_WANTED
        assert trouble.kill_count >= KILLS_WANTED


def recorded(platform: Platform, clients: Clients, client: Client) -> History:
    """Put what happened beside what clients were told."""
    due = {
        seen.job_id: frozenset(output.name for output in clients.made[call.key].outputs)
        for call in clients.calls
        if call.key
        for seen in call.seen
    }

    def effects() -> dict[str, dict[str, int]]:
        found = defaultdict[str, Counter[str]](Counter)
        if MODEL in {model.name for model in client.models()}:
            for version in client.model_versions(MODEL):
                if version.job_id in due:
                    found[version.job_id][version.output_name] += 1
        return {job_id: dict(outputs) for job_id, outputs in found.items()}

    ends = {job_id: client.job(job_id).state for job_id in due}
    wanted = sum(len(due[job_id]) for job_id, end in ends.items() if end == "SUCCEEDED")
    is_within(lambda: len(effects()) >= wanted, within_s=QUIET_S_MAX)
    return History(
        calls=clients.calls,
        events=asyncio.run(events_of(platform, clients)),
        starts={
            file.name: [int(attempt) for attempt in file.read_text().split()]
            for file in clients.starts.iterdir()
        },
        effects=effects(),
        due_effects=due,
    )


async def events_of(platform: Platform, clients: Clients) -> list[Event]:
    """Return what was told of the clients' jobs."""
    topic = await told_by(platform, "modelyard.job.lifecycle.v1")
    return [
        Event(
            each.event_id,
            job_id,
            each.fact.name,
            each.version,
            JobState(job_pb2.JobState.Name(each.fact.state).removeprefix("JOB_STATE_")),
        )
        for job_id, records in topic.items()
        for each in records
        if each.fact.name in clients.made
    ]
