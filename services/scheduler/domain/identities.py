"""Names of the scheduler's things, told apart by type.

Owns: the id types. Their text is made by `chassis.ids`; it sorts by creation.
"""

from typing import NewType

JobId = NewType("JobId", str)
AttemptId = NewType("AttemptId", str)
NodeId = NewType("NodeId", str)
DeploymentId = NewType("DeploymentId", str)
ReplicaId = NewType("ReplicaId", str)
