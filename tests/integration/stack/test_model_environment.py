"""The model environment trains a model and serves it over the Open Inference Protocol, v2."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local import environments
from deploy.local.ports import port_of
from deploy.local.state import State
from tests.support.eventually import until

_TRAIN = """
import joblib
from sklearn.linear_model import LogisticRegression
joblib.dump(LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]), "model.joblib")
"""


@contextmanager
def _model_server(environment: Path, folder: Path, ports: dict[str, int]) -> Iterator[str]:
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "steps",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib"},
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [environment / "bin" / "mlserver", "start", "."],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        try:
            yield f"http://127.0.0.1:{ports['http_port']}/v2/models/steps"
        finally:
            server.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_model_environment_serves_what_it_trained(state: State, tmp_path: Path) -> None:
    environment = environments.ensure(state, "sklearn")
    python = environment / "bin" / "python"
    subprocess.run([python, "-c", _TRAIN], cwd=tmp_path, check=True, timeout=60)
    ports = {name: port_of(state, name) for name in ("http_port", "grpc_port", "metrics_port")}
    question = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [0.0, 3.0]}]}

    with _model_server(environment, tmp_path, ports) as url:
        until(lambda: _is_ready(url), what="the model is ready", within_s=60)
        request = urllib.request.Request(
            f"{url}/infer",
            data=json.dumps(question).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            outputs = json.load(answer)["outputs"]

    assert outputs[0]["data"] == [0, 1]
