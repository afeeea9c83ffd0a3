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


def _ask(url: str, **tensor: object) -> tuple[int, bytes]:
    question = {"inputs": [{"name": "x", "datatype": "FP64", **tensor}]}
    request = urllib.request.Request(
        f"{url}/infer",
        data=json.dumps(question).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_model_environment_serves_what_it_trained(state: State, tmp_path: Path) -> None:
    environment = environments.ensure(state, "sklearn")
    python = environment / "bin" / "python"
    subprocess.run([python, "-c", _TRAIN], cwd=tmp_path, check=True, timeout=60)
    ports = {name: port_of(state, name) for name in ("http_port", "grpc_port", "metrics_port")}

    with _model_server(environment, tmp_path, ports) as url:
        until(lambda: _is_ready(url), what="the model is ready", within_s=60)
        status, body = _ask(url, shape=[2, 1], data=[0.0, 3.0])
        wrong_shape = _ask(url, shape=[1, 2], data=[0.0, 3.0])
        wrong_type, refusal = _ask(url, shape=[1, 1], datatype="FP65", data=[0.0])

    assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [0, 1])
    # What the gateway's tests say of it (tests/unit/api_gateway/test_replica_answers.py).
    assert wrong_shape == (500, b"Internal Server Error")
    assert wrong_type == 422
    assert json.loads(refusal)["detail"][0]["loc"] == ["body", "inputs", 0, "datatype"]
