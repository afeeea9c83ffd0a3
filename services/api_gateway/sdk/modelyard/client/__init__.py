"""Typed client of Modelyard's REST API."""

from modelyard.client.api import Client
from modelyard.client.errors import ApiError, ConnectionFailed
from modelyard.client.values import (
    Deployment,
    DeploymentSpec,
    Job,
    JobOutput,
    JobSpec,
    JobTimeouts,
    LogRecord,
    Model,
    ModelVersion,
    Resources,
)

__all__ = [
    "ApiError",
    "Client",
    "ConnectionFailed",
    "Deployment",
    "DeploymentSpec",
    "Job",
    "JobOutput",
    "JobSpec",
    "JobTimeouts",
    "LogRecord",
    "Model",
    "ModelVersion",
    "Resources",
]
