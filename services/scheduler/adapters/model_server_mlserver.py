"""Seldon's MLServer with its scikit-learn runtime: `ModelServer`.

Owns: how it is told what to serve. Settings as of MLServer 1.7,
https://mlserver.readthedocs.io/en/latest/reference/settings.html
"""

import json
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.use_cases.attempts.ports import ServerSetup

_HOST: Final = "127.0.0.1"
_MODEL_SUFFIXES: Final = (".joblib", ".pickle", ".pkl")


@dataclass(frozen=True, slots=True)
class MlServerSklearn:
    """Serves the one joblib or pickle file of a model, on ports that were free a moment ago.

    If somebody takes one of them first the server ends, and the replica is tried again.
    """

    implementation: str = "mlserver_sklearn.SKLearnModel"

    def setup(self, *, name: str, model: ModelPin) -> ServerSetup:
        """Return how it serves a model under a name; raises InvalidArgument without such a file."""
        uri = _model_file(model)
        http_port, grpc_port, metrics_port = _free_ports(3)
        server = {
            "host": _HOST,
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
        address = f"{_HOST}:{http_port}"
        return ServerSetup(
            command=("mlserver", "start", "."),
            texts={"settings.json": json.dumps(server), "model-settings.json": json.dumps(served)},
            model_files={file.path: file.digest for file in model.files},
            address=address,
            ready_url=f"http://{address}/v2/models/{name}/ready",
        )


def _model_file(model: ModelPin) -> str:
    paths = [file.path for file in model.files if file.path.endswith(_MODEL_SUFFIXES)]
    if len(paths) != 1:
        raise InvalidArgument(
            "model", f"must hold one file of {', '.join(_MODEL_SUFFIXES)}, not {len(paths)}"
        )
    return paths[0]


def _free_ports(count: int) -> Sequence[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return [each.getsockname()[1] for each in sockets]
