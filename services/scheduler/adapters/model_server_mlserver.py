"""Seldon's MLServer with its scikit-learn runtime: `ModelServer`.

Owns: how it is told what to serve. Settings as of MLServer 1.7,
https://mlserver.readthedocs.io/en/latest/reference/settings.html
"""

import json
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.attempts.runtime import Listening
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.use_cases.attempts.ports import ServerSetup

_MODEL_SUFFIXES: Final = (".joblib", ".pickle", ".pkl")


@dataclass(frozen=True, slots=True)
class MlServerSklearn:
    """Serves the one joblib or pickle file of a model.

    If somebody takes one of its ports first the server ends, and the replica is tried again.
    """

    implementation: str = "mlserver_sklearn.SKLearnModel"
    port_count: int = 3

    def setup(self, *, name: str, model: ModelPin, listening: Listening) -> ServerSetup:
        """Return how it serves a model under a name; raises InvalidArgument without such a file."""
        uri = _model_file(model)
        http_port, grpc_port, metrics_port = listening.ports
        server = {
            "host": listening.host,
            "http_port": http_port,
            "grpc_port": grpc_port,
            "metrics_port": metrics_port,
            "parallel_workers": 0,
            "debug": False,
        }
        served = {
            "name": name,
            "implementation": self.implementation,
            "parameters": {"uri": f"./{uri}", "version": str(model.version)},
        }
        return ServerSetup(
            command=("mlserver", "start", "."),
            texts={"settings.json": json.dumps(server), "model-settings.json": json.dumps(served)},
            model_files={file.path: file.digest for file in model.files},
            port=http_port,
            ready_path=f"/v2/models/{name}/ready",
        )


def _model_file(model: ModelPin) -> str:
    paths = [file.path for file in model.files if file.path.endswith(_MODEL_SUFFIXES)]
    if len(paths) != 1:
        raise InvalidArgument(
            "model", f"must hold one file of {', '.join(_MODEL_SUFFIXES)}, not {len(paths)}"
        )
    return paths[0]
