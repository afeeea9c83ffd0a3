"""The model registry's own names of metrics.

Owns: what is counted. Labels are bounded: names and tenants go on spans and logs.
"""

from typing import Final

from services.chassis.telemetry.metrics import counter

CHANGES: Final = counter(
    "modelyard_model_registry_changes",
    help="Committed changes of models that were published, by kind.",
    labels=("change",),
)
BYTES_STORED: Final = counter(
    "modelyard_model_registry_stored", unit="bytes", help="Bytes of artifacts that were stored."
)
BYTES_READ: Final = counter(
    "modelyard_model_registry_read", unit="bytes", help="Bytes of artifacts that were read."
)
UPLOADS_ABANDONED: Final = counter(
    "modelyard_model_registry_uploads_abandoned",
    help="Uploads that ended before they were stored: refused, broken off, or out of disk.",
)
