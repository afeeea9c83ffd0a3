"""What services have told on Kafka, as a reader from the first record on sees it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelyard.registry.v1 import model_events_pb2
from modelyard.scheduler.v1 import deployment_events_pb2, job_events_pb2

from deploy.local import kafka
from services.chassis.events.envelope import from_record
from services.chassis.events.kafka_consumer import open_reader
from services.chassis.settings import KafkaSettings
from tests.e2e.platform import Platform
from tests.support.eventually import eventually

VERSIONS: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "modelyard.job.lifecycle.v1": job_events_pb2.JobTransitioned.FromString,
    "modelyard.attempt.lifecycle.v1": job_events_pb2.AttemptTransitioned.FromString,
    "modelyard.deployment.lifecycle.v1": deployment_events_pb2.DeploymentChanged.FromString,
    "modelyard.model.lifecycle.v1": model_events_pb2.ModelChanged.FromString,
}
"""Topics whose facts bear their aggregate's version, and how they are read."""
_READ_S_MAX: Final = 90.0


@dataclass(frozen=True, slots=True)
class Told:
    """One record; a relay that dies before its mark sends it again, with the same id."""

    event_id: str
    version: int
    fact: Any


async def told_by(platform: Platform, topic: str) -> Mapping[str, Sequence[Told]]:
    """Return a topic's records by key, in their order, repetitions and all."""
    parse, found = VERSIONS[topic], defaultdict[str, list[Told]](list)
    settings = KafkaSettings(bootstrap_servers=platform.address_of(kafka.PART))
    async with open_reader(settings, topic, client_id="e2e") as reader:

        async def all_read() -> bool:
            for record in await reader.poll(records_max=500, wait_s=0.2):
                event = from_record(record)
                fact = parse(event.data)
                version = fact.revision if hasattr(fact, "revision") else fact.version
                found[event.key].append(Told(event.id, version, fact))
            return reader.is_caught_up()

        await eventually(all_read, what=f"{topic} is read", within_s=_READ_S_MAX)
    return found


def disorder_in(told: Sequence[Told], *, whose: str) -> list[str]:
    """Say what is wrong with one key's records: 1..n without a gap, each fact told once.

    A record that is sent again may come after its successors: readers know its id.
    """
    first: dict[str, int] = {}
    for each in told:
        first.setdefault(each.event_id, each.version)
    versions = list(first.values())
    if versions == list(range(1, len(versions) + 1)):
        return []
    return [f"{whose}: versions {versions}"]
