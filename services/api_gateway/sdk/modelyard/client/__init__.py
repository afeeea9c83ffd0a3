"""Typed client of Modelyard's REST API."""

from modelyard.client.api import Client
from modelyard.client.errors import ApiError, ConnectionFailed
from modelyard.client.values import (
    ApiKey,
    Deployment,
    DeploymentSpec,
    Identity,
    Job,
    JobInput,
    JobOutput,
    JobSpec,
    JobTimeouts,
    LogRecord,
    Member,
    Model,
    ModelVersion,
    Node,
    Plan,
    Resources,
    Tenant,
)

__all__ = [
    "ApiError",
    "ApiKey",
    "Client",
    "ConnectionFailed",
    "Deployment",
    "DeploymentSpec",
    "Identity",
    "Job",
    "JobInput",
    "JobOutput",
    "JobSpec",
    "JobTimeouts",
    "LogRecord",
    "Member",
    "Model",
    "ModelVersion",
    "Node",
    "Plan",
    "Resources",
    "Tenant",
]
