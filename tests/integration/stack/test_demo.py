"""What the demo says of what it does. Its platform is a stand-in of the command line."""

import sys
from pathlib import Path

import pytest
from modelyard.cli.settings import CliSettings

from deploy.local.demo import DEPLOYMENT, Demo

COMMAND = f"""#!{sys.executable} -IS
# Knows whether there is a deployment.
import json
import sys
from pathlib import Path

there = Path(sys.argv[0]).with_name("there")
what = sys.argv[3]
if what == "delete":
    there.unlink()
elif what == "create":
    there.touch()
deployment = {{
    "id": "dep_1",
    "spec": {{"name": "{DEPLOYMENT}"}},
    "state": "SERVING",
    "model_version": 2,
}}
print(json.dumps(([deployment] if there.exists() else []) if what == "list" else deployment))
"""


@pytest.mark.parametrize("is_there", [True, False])
def test_a_deployment_that_the_demo_deletes_is_named(
    *, is_there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = tmp_path / "modelyard"
    command.write_text(COMMAND)
    command.chmod(0o755)
    if is_there:
        (tmp_path / "there").touch()
    demo = Demo(
        cli=command,
        model_python=Path(sys.executable),
        example=tmp_path,
        logs=tmp_path,
        settings=CliSettings(url="http://nowhere"),
    )

    demo._deploy(2)

    said = f"deployment {DEPLOYMENT} of before is deleted first"
    assert (said in capsys.readouterr().out) is is_there
