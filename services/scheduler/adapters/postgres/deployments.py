"""Deployments and their replicas in PostgreSQL.

Always holds: a replica is locked after its deployment, so that whoever publishes a routing entry
sees all replicas as they will be at the commit.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db.errors import unique_violation
from services.chassis.db.statements import is_one_of, take_turn
from services.chassis.errors import AlreadyExists, NotFound
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.postgres.fleet import IS_OPEN_ON_DRAINED
from services.scheduler.adapters.postgres.rows import (
    VersionedRows,
    from_document,
    from_resources,
    to_document,
    versioned_update,
)
from services.scheduler.adapters.postgres.tables import (
    ATTEMPTS,
    DEPLOYMENTS,
    QUEUE_SEQ,
    REPLICAS,
)
from services.scheduler.domain.deployments.deployment import (
    Deployment,
    DeploymentSpec,
    DeploymentState,
    RoutingEntry,
)
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.deployments.replica import Replica, ReplicaState
from services.scheduler.domain.identities import DeploymentId, ReplicaId

_UPDATE_DEPLOYMENT: Final = versioned_update(DEPLOYMENTS)
_UPDATE_REPLICA: Final = versioned_update(REPLICAS)
_NEXT_IN_LINE: Final = sa.select(QUEUE_SEQ.next_value())
_LIVING: Final = DEPLOYMENTS.c.state != DeploymentState.DELETED


class PostgresDeployments:
    """All tenants' deployments; implements `ports.Deployments`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._rows = VersionedRows(connection, _UPDATE_DEPLOYMENT, kind="deployment")

    async def get(self, deployment_id: DeploymentId) -> Deployment:
        """Return a deployment, locked."""
        query = sa.select(DEPLOYMENTS).where(DEPLOYMENTS.c.id == deployment_id).with_for_update()
        return await self.one(query, deployment_id)

    async def save(self, deployment: Deployment) -> None:
        """Store a deployment that this transaction has read."""
        await self._rows.write(deployment.id, from_deployment(deployment))

    async def due(
        self, *, at: datetime, suspended: Sequence[TenantId], limit: int
    ) -> Sequence[DeploymentId]:
        """Return deployments with restarts due, or whose replicas are to end."""

        def has_replica(*states: ReplicaState) -> sa.ColumnElement[bool]:
            return sa.exists().where(
                REPLICAS.c.deployment_id == DEPLOYMENTS.c.id, REPLICAS.c.state.in_(states)
            )

        S = ReplicaState  # noqa: N806 (short for its members)
        restarts = sa.select(REPLICAS.c.deployment_id).where(REPLICAS.c.restart_at <= at)
        deletions = sa.select(DEPLOYMENTS.c.id).where(
            DEPLOYMENTS.c.state == DeploymentState.DELETING,
            has_replica(S.QUEUED, S.WARMING, S.READY) | ~has_replica(S.STOPPING),
        )
        leaving = sa.select(REPLICAS.c.deployment_id).where(
            REPLICAS.c.leaving_at.is_not(None), REPLICAS.c.state == S.WARMING
        )
        runs = REPLICAS.c.state.in_((S.WARMING, S.READY))
        drained = sa.select(REPLICAS.c.deployment_id).where(
            runs, ATTEMPTS.c.owner_id == REPLICAS.c.id, IS_OPEN_ON_DRAINED
        )
        due = [restarts, deletions, leaving, drained]
        if suspended:
            theirs = is_one_of(REPLICAS.c.tenant, suspended)
            due.append(sa.select(REPLICAS.c.deployment_id).where(theirs, runs))
        found = await self._connection.scalars(sa.union(*due).limit(limit))
        return [DeploymentId(deployment_id) for deployment_id in found]

    async def routing_entries(
        self, *, after: DeploymentId | None, deleted_since: datetime, limit: int
    ) -> Sequence[RoutingEntry]:
        """Return a page of current routing entries."""
        recent = sa.or_(_LIVING, DEPLOYMENTS.c.deleted_at >= deleted_since)
        query = sa.select(DEPLOYMENTS).where(recent).order_by(DEPLOYMENTS.c.id).limit(limit)
        if after is not None:
            query = query.where(DEPLOYMENTS.c.id > after)
        # Locked: an older generation published again after a newer one would survive compaction.
        rows = (await self._connection.execute(query.with_for_update(read=True))).mappings()
        deployments = [to_deployment(row) for row in rows]
        ids = [each.id for each in deployments]
        replicas = await replicas_of(self._connection, REPLICAS.c.deployment_id.in_(ids))
        return [each.routing_entry(replicas.get(each.id, ())) for each in deployments]

    async def one(self, query: sa.Select[Any], id_or_name: str) -> Deployment:
        """Return the deployment that a query finds."""
        row = (await self._connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound("deployment", id_or_name)
        self._rows.read(row)
        return to_deployment(row)


class PostgresReplicas:
    """All tenants' replicas; implements `ports.Replicas`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._rows = VersionedRows(connection, _UPDATE_REPLICA, kind="replica")

    async def get(self, replica_id: ReplicaId) -> Replica:
        """Return a replica, locked after its deployment."""
        is_it = REPLICAS.c.id == replica_id
        found = await self._locked(is_it)
        if not found:
            raise NotFound("replica", replica_id)
        return found[0]

    async def queued(self, replica_ids: Sequence[ReplicaId]) -> Sequence[Replica]:
        """Return those that still stand in line, locked after their deployments."""
        found = await self._locked(REPLICAS.c.id.in_(replica_ids))
        return [replica for replica in found if replica.state is ReplicaState.QUEUED]

    async def of_deployment(self, deployment_id: DeploymentId) -> Sequence[Replica]:
        """Return a deployment's replicas by place, locked after it."""
        found = await self._locked(REPLICAS.c.deployment_id == deployment_id)
        return sorted(found, key=lambda replica: replica.ordinal)

    async def save(self, replica: Replica) -> None:
        """Store a replica that this transaction has read; back in line, it is the last."""
        values = from_replica(replica)
        if replica.state is ReplicaState.QUEUED:
            values["queue_seq"] = await self._connection.scalar(_NEXT_IN_LINE)
        await self._rows.write(replica.id, values)

    async def _locked(self, which: sa.ColumnElement[bool]) -> list[Replica]:
        theirs = sa.select(REPLICAS.c.deployment_id).where(which)
        await self._connection.execute(
            sa.select(DEPLOYMENTS.c.id)
            .where(DEPLOYMENTS.c.id.in_(theirs))
            .order_by(DEPLOYMENTS.c.id)
            .with_for_update()
        )
        found = await self._connection.execute(
            sa.select(REPLICAS).where(which).order_by(REPLICAS.c.id).with_for_update()
        )
        replicas = []
        for row in found.mappings():
            self._rows.read(row)
            replicas.append(to_replica(row))
        return replicas


class PostgresTenantDeployments:
    """One tenant's deployments; implements `ports.TenantDeployments`."""

    def __init__(self, connection: AsyncConnection, tenant: TenantId) -> None:
        self._connection = connection
        self._tenant = tenant
        self._deployments = PostgresDeployments(connection)

    async def add(self, deployment: Deployment, replicas: Sequence[Replica]) -> None:
        """Store a new deployment and its replicas."""
        assert deployment.tenant == self._tenant, "added in its own tenant's unit of work"
        try:
            await self._connection.execute(
                sa.insert(DEPLOYMENTS).values(
                    id=deployment.id,
                    tenant=deployment.tenant,
                    name=deployment.spec.name,
                    spec=to_document(deployment.spec),
                    model=to_document(deployment.model),
                    traceparent=deployment.traceparent,
                    created_at=deployment.created_at,
                    **from_resources(deployment.spec.resources),
                    **from_deployment(deployment),
                )
            )
        except IntegrityError as error:
            if unique_violation(error) == "uq_deployment_name":
                raise AlreadyExists("deployment", deployment.spec.name) from error
            raise
        for replica in replicas:
            await self._connection.execute(
                sa.insert(REPLICAS).values(
                    id=replica.id,
                    tenant=replica.tenant,
                    deployment_id=replica.deployment_id,
                    ordinal=replica.ordinal,
                    **from_replica(replica),
                )
            )

    async def find(self, id_or_name: str) -> Deployment:
        """Return a deployment of this tenant."""
        return await self._deployments.one(self._named(id_or_name), id_or_name)

    async def find_for_update(self, id_or_name: str) -> Deployment:
        """Return a deployment of this tenant, locked."""
        query = self._named(id_or_name).with_for_update()
        return await self._deployments.one(query, id_or_name)

    async def save(self, deployment: Deployment) -> None:
        """Store a deployment that this transaction has read."""
        await self._deployments.save(deployment)

    async def version_of_name(self, name: str) -> int:
        """Return the version of the newest row of a name, which nobody changes meanwhile."""
        found = await self._connection.scalar(
            sa.select(DEPLOYMENTS.c.version)
            .where(DEPLOYMENTS.c.tenant == self._tenant, DEPLOYMENTS.c.name == name)
            .order_by(DEPLOYMENTS.c.id.desc())
            .limit(1)
            .with_for_update(read=True)
        )
        return found or 0

    async def newest(self, *, before: DeploymentId | None, limit: int) -> Sequence[Deployment]:
        """Return a page of this tenant's living deployments."""
        query = (
            sa.select(DEPLOYMENTS)
            .where(DEPLOYMENTS.c.tenant == self._tenant, _LIVING)
            .order_by(DEPLOYMENTS.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(DEPLOYMENTS.c.id < before)
        return [to_deployment(row) for row in (await self._connection.execute(query)).mappings()]

    async def replicas(
        self, deployment_ids: Sequence[DeploymentId]
    ) -> dict[DeploymentId, list[Replica]]:
        """Return the replicas of these deployments, by place."""
        theirs = REPLICAS.c.deployment_id.in_(deployment_ids)
        return await replicas_of(self._connection, REPLICAS.c.tenant == self._tenant, theirs)

    async def first_in_line(self, deployment_id: DeploymentId) -> ReplicaId | None:
        """Return which of its replicas stands first in line."""
        found: str | None = await self._connection.scalar(
            sa.select(REPLICAS.c.id)
            .where(
                REPLICAS.c.tenant == self._tenant,
                REPLICAS.c.deployment_id == deployment_id,
                REPLICAS.c.state == ReplicaState.QUEUED,
            )
            .order_by(REPLICAS.c.queue_seq)
            .limit(1)
        )
        return None if found is None else ReplicaId(found)

    async def wanted_replica_count(self) -> int:
        """Count replicas, alone: the bound is exact, however many create at once."""
        await take_turn(self._connection, f"replicas of {self._tenant}")
        count = await self._connection.scalar(
            sa.select(sa.func.count())
            .select_from(REPLICAS)
            .join(DEPLOYMENTS, DEPLOYMENTS.c.id == REPLICAS.c.deployment_id)
            .where(DEPLOYMENTS.c.tenant == self._tenant, _LIVING)
        )
        return count or 0

    def _named(self, id_or_name: str) -> sa.Select[Any]:
        """An id has an underscore, a name never; a deleted one has given its name away."""
        is_it = DEPLOYMENTS.c.id == id_or_name
        if "_" not in id_or_name:
            is_it = sa.and_(DEPLOYMENTS.c.name == id_or_name, _LIVING)
        return sa.select(DEPLOYMENTS).where(DEPLOYMENTS.c.tenant == self._tenant, is_it)


async def replicas_of(
    connection: AsyncConnection, *which: sa.ColumnElement[bool]
) -> dict[DeploymentId, list[Replica]]:
    """Return deployments' replicas, by place."""
    found = await connection.execute(
        sa.select(REPLICAS).where(*which).order_by(REPLICAS.c.deployment_id, REPLICAS.c.ordinal)
    )
    replicas: dict[DeploymentId, list[Replica]] = {}
    for row in found.mappings():
        replicas.setdefault(row["deployment_id"], []).append(to_replica(row))
    return replicas


def from_deployment(deployment: Deployment) -> dict[str, Any]:
    """Return the columns that a deployment's moves change."""
    return {
        "state": deployment.state,
        "reason": deployment.reason,
        "version": deployment.version,
        "generation": deployment.generation,
        "deleting_at": deployment.deleting_at,
        "deleted_at": deployment.deleted_at,
    }


def to_deployment(row: sa.RowMapping) -> Deployment:
    """Return the deployment in a row."""
    return Deployment(
        id=row["id"],
        tenant=row["tenant"],
        spec=from_document(DeploymentSpec, row["spec"]),
        model=from_document(ModelPin, row["model"]),
        state=DeploymentState(row["state"]),
        reason=row["reason"],
        version=row["version"],
        generation=row["generation"],
        created_at=row["created_at"],
        traceparent=row["traceparent"],
        deleting_at=row["deleting_at"],
        deleted_at=row["deleted_at"],
    )


def from_replica(replica: Replica) -> dict[str, Any]:
    """Return the columns that a replica's moves change."""
    return {
        "state": replica.state,
        "reason": replica.reason,
        "version": replica.version,
        "attempt_number": replica.attempt_number,
        "attempt_id": replica.attempt_id,
        "node_id": replica.node_id,
        "address": replica.address,
        "ready_at": replica.ready_at,
        "stop_requested_at": replica.stop_requested_at,
        "restart_count": replica.restart_count,
        "failure_count": replica.failure_count,
        "restart_at": replica.restart_at,
        "leaving_at": replica.leaving_at,
    }


def to_replica(row: sa.RowMapping) -> Replica:
    """Return the replica in a row."""
    return Replica(
        id=row["id"],
        tenant=row["tenant"],
        deployment_id=row["deployment_id"],
        ordinal=row["ordinal"],
        state=ReplicaState(row["state"]),
        reason=row["reason"],
        version=row["version"],
        attempt_number=row["attempt_number"],
        attempt_id=row["attempt_id"],
        node_id=row["node_id"],
        address=row["address"],
        ready_at=row["ready_at"],
        stop_requested_at=row["stop_requested_at"],
        restart_count=row["restart_count"],
        failure_count=row["failure_count"],
        restart_at=row["restart_at"],
        leaving_at=row["leaving_at"],
    )
