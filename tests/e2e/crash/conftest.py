"""Fixtures: the platform on which services die, in a hurry wherever one would wait for minutes."""

from collections.abc import Mapping
from typing import Final

import pytest

from deploy.local.runtimes import Kind, Wish

HASTY: Final[Mapping[str, Mapping[str, str]]] = {
    "scheduler": {
        "RUNTIME__ALLOW_MIXED_TENANTS": "true",
        "SCHEDULING__PREEMPTION_ENABLED": "true",
        "SCHEDULING__PRIORITY_AGING": "PT10S",
        # A node whose scheduler is dead is given up after some 14 s; a busy runner is in time.
        "RUNNER__LEASE_TTL": "PT4S",
        "RUNNER__ISOLATION_STOP_AFTER": "PT7S",
        "RUNNER__ISOLATION_STOP_GRACE": "PT1S",
        "SCHEDULING__NODE_LOST_AFTER": "PT9S",
        "SCHEDULING__LOST_NODES_INTERVAL": "PT1S",
        "SCHEDULING__LOST_LOOKS_MIN": "2",
        "RUNNER__UNKNOWN_KEPT": "PT5S",
        "RUNNER__STRAY_GRACE": "PT2S",
        "RUNNER__CLEAN_UP_INTERVAL": "PT5S",
        "RETENTION__INTERVAL": "PT2S",
        "PURGE__INTERVAL": "PT5S",
        # Jobs are tried again for as long as services die.
        "ADMISSION__RETRIED_JOBS_MAX": "100000",
        "DEPLOYMENTS__REPUBLISH_INTERVAL": "PT20S",
    },
    "model_registry": {"PURGE__INTERVAL": "PT5S"},
    "log_collector": {"PURGE__INTERVAL": "PT5S"},
    "api_gateway": {
        "TENANTS__REPUBLISH_INTERVAL": "PT20S",
        # It is killed long before the minute that it would wait else.
        "KEYS__USES_INTERVAL": "PT2S",
    },
}


@pytest.fixture(scope="module")
def own_wish() -> Wish:
    """Say that nothing is waited for that a setting can shorten."""
    return Wish(Kind.PROCESS, settings=HASTY)
