"""Replicas on real processes: warming, answering, falling silent, ending."""

from dataclasses import replace
from datetime import timedelta

from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from tests.integration.scheduler_runner.runner import LIMITS
from tests.integration.scheduler_runner.yard import TENANT, RunnerYard


async def _addresses(yard: RunnerYard, deployment: ShownDeployment) -> list[list[str]]:
    routes = await yard.routes(deployment)
    return [[endpoint.address for endpoint in route.endpoints] for route in routes]


async def test_replica_is_routed_to_once_its_server_answers(yard: RunnerYard) -> None:
    async with yard.running():
        deployment = await yard.a_deployment("ok")
        replica = await yard.replica_becomes(deployment, ReplicaState.READY)

        assert replica.address is not None
        assert replica.address.startswith("127.0.0.1:")
        assert await _addresses(yard, deployment) == [[], [replica.address]]
        assert (await yard.attempt(replica)).state is AttemptState.STARTED

        await yard.delete_deployment(TENANT, deployment.deployment.id)
        await yard.reconcile()
        ended = await yard.replica_becomes(deployment, ReplicaState.ENDED)

    assert (await _addresses(yard, deployment))[-1] == []
    assert (await yard.attempt(ended)).state is AttemptState.EXITED
    assert ended.restart_at is None
    assert await yard.used() == Resources()


async def test_replica_is_taken_out_and_replaced_when_its_server_falls_silent(
    yard: RunnerYard,
) -> None:
    async with yard.running():
        deployment = await yard.a_deployment("ok")
        first = await yard.replica_becomes(deployment, ReplicaState.READY)
        (yard.work_folder(await yard.attempt(first)) / "mute").touch()
        ended = await yard.replica_becomes(deployment, ReplicaState.ENDED)
        assert ended.restart_at is not None
        assert (await _addresses(yard, deployment))[-1] == []

        second = await _restarted(yard, deployment)

    assert second.attempt_number == 2
    assert second.restart_count == 1


async def test_replica_ends_when_its_server_does_not_get_ready_in_time(yard: RunnerYard) -> None:
    soon = replace(LIMITS, ready_wait_max=timedelta(seconds=1))
    yard.runner.loop = replace(yard.runner.loop, drive=replace(yard.runner.drive, limits=soon))
    async with yard.running():
        deployment = await yard.a_deployment("never")
        ended = await yard.replica_becomes(deployment, ReplicaState.ENDED)

    assert ended.restart_at is not None
    assert await _addresses(yard, deployment) == [[]]
    assert await yard.used() == Resources()


async def test_replica_ends_with_its_server_s_exit_code(yard: RunnerYard) -> None:
    async with yard.running():
        deployment = await yard.a_deployment("crash")
        ended = await yard.replica_becomes(deployment, ReplicaState.ENDED)

    assert "exit code 3" in ended.reason
    async with yard.store(TENANT) as tx:
        shown = await tx.deployments.find(deployment.deployment.id)
    assert shown.reason == "no replica answers: exit code 3"
    assert (await yard.attempt(ended)).exit_code == 3


async def test_replica_stays_ready_when_its_runner_is_replaced(yard: RunnerYard) -> None:
    async with yard.running_elsewhere() as runner:
        deployment = await yard.a_deployment("ok")
        before = await yard.replica_becomes(deployment, ReplicaState.READY)
        runner.kill()
        await runner.wait()

    async with yard.running():
        await yard.delete_deployment(TENANT, deployment.deployment.id)
        await yard.reconcile()
        await yard.replica_becomes(deployment, ReplicaState.ENDED)

    assert (await _addresses(yard, deployment))[1] == [before.address]


async def _restarted(yard: RunnerYard, deployment: ShownDeployment) -> Replica:
    async def is_ready_again() -> Replica | None:
        await yard.reconcile()
        await yard.cycle()
        replica = await yard.replica(deployment)
        return replica if replica.state is ReplicaState.READY else None

    return await yard.sees(is_ready_again, what="the replica is ready again")
