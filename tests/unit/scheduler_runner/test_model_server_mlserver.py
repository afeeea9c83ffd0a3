"""What MLServer is told."""

import json

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.adapters.model_server_mlserver import MlServerSklearn
from services.scheduler.domain.attempts.runtime import Listening
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.files import FileEntry
from tests.unit.scheduler_runner.builders import DIGEST, MODEL

LISTENING = Listening("0.0.0.0", (8080, 8081, 8082))


def test_setup_serves_the_model_under_the_deployments_name() -> None:
    setup = MlServerSklearn().setup(name="digits-prod", model=MODEL, listening=LISTENING)
    served = json.loads(setup.texts["model-settings.json"])
    server = json.loads(setup.texts["settings.json"])

    assert served == {
        "name": "digits-prod",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "3"},
    }
    assert server["parallel_workers"] == 0
    assert (server["host"], server["http_port"]) == ("0.0.0.0", 8080)
    assert (server["grpc_port"], server["metrics_port"]) == (8081, 8082)
    assert (setup.port, setup.ready_path) == (8080, "/v2/models/digits-prod/ready")
    assert setup.model_files == {"model.joblib": DIGEST}


@pytest.mark.parametrize("paths", [[], ["readme.md"], ["a.joblib", "b.pkl"]])
def test_setup_is_refused_without_exactly_one_model_file(paths: list[str]) -> None:
    model = ModelPin("digits", 1, tuple(FileEntry(path, 1, DIGEST) for path in paths))

    with pytest.raises(InvalidArgument):
        MlServerSklearn().setup(name="digits", model=model, listening=LISTENING)
