"""What MLServer is told."""

import json

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.adapters.model_server_mlserver import MlServerSklearn
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.files import FileEntry
from tests.unit.scheduler_runner.builders import DIGEST, MODEL


def test_setup_serves_the_model_under_the_deployments_name() -> None:
    setup = MlServerSklearn().setup(name="digits-prod", model=MODEL)
    served = json.loads(setup.texts["model-settings.json"])
    server = json.loads(setup.texts["settings.json"])

    assert served == {
        "name": "digits-prod",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "3"},
    }
    assert server["parallel_workers"] == 0
    assert len({server["http_port"], server["grpc_port"], server["metrics_port"]}) == 3
    assert setup.address == f"127.0.0.1:{server['http_port']}"
    assert setup.ready_url == f"http://{setup.address}/v2/models/digits-prod/ready"
    assert setup.model_files == {"model.joblib": DIGEST}


@pytest.mark.parametrize("paths", [[], ["readme.md"], ["a.joblib", "b.pkl"]])
def test_setup_is_refused_without_exactly_one_model_file(paths: list[str]) -> None:
    model = ModelPin("digits", 1, tuple(FileEntry(path, 1, DIGEST) for path in paths))

    with pytest.raises(InvalidArgument):
        MlServerSklearn().setup(name="digits", model=model)
