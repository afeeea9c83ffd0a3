"""Where the tests' Docker engine can't be had, they say what is missing and how to go without."""

import os

import pytest

from deploy.local import own_engine
from deploy.local.errors import StackError
from tests.support import docker_engine


def test_without_root_it_is_said_that_root_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(StackError, match=r"only root .* MODELYARD_TEST_RUNTIMES=process make test"):
        docker_engine.prepare()


def test_what_has_to_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(own_engine, "missing", lambda: ["docker.io", "iptables"])
    monkeypatch.setattr(own_engine, "install", lambda: None)

    said = (
        r"install docker\.io iptables\. Without Docker: MODELYARD_TEST_RUNTIMES=process make test"
    )
    with pytest.raises(StackError, match=said):
        docker_engine.prepare()
