"""Which service each of the operator's settings goes to."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.local import postgres, services
from deploy.local.errors import StackError
from deploy.local.jaeger import TraceBackend
from deploy.local.own_settings import own_settings, refuse_wrong
from deploy.local.runtimes import Runtime
from deploy.local.services import Surroundings, environment_table
from deploy.local.state import ProcessRecord, State


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


def test_each_service_that_has_a_setting_is_told_it(state: State) -> None:
    state.settings_file.write_text(
        "# mine\n"
        "MODELYARD_OIDC__ISSUER=https://issuer/$realm   # its iss\n"
        "MODELYARD_OIDC__SECOND_FACTOR_METHODS='[\"mfa\"]'\n"
        "MODELYARD_INFERENCE_TIMEOUT=PT5S\n"
        "MODELYARD_RUNTIME__PIDS_MAX=64\n"
        "MODELYARD_SHUTDOWN__STAGE_TIMEOUT=PT3S\n"
    )

    told = own_settings(state)

    everybody = {"SHUTDOWN__STAGE_TIMEOUT": "PT3S"}
    assert told == {
        "api_gateway": {
            "OIDC__ISSUER": "https://issuer/$realm",
            "OIDC__SECOND_FACTOR_METHODS": '["mfa"]',
            "INFERENCE_TIMEOUT": "PT5S",
            **everybody,
        },
        "scheduler": {"RUNTIME__PIDS_MAX": "64", **everybody},
        "model_registry": everybody,
        "log_collector": everybody,
    }


def test_the_environment_goes_before_the_file(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.settings_file.write_text("MODELYARD_LIMITS__BURST=1/second\n")
    monkeypatch.setenv("MODELYARD_LIMITS__BURST", "2/second")
    monkeypatch.setenv("MODELYARD_URL", "http://the-command-lines")

    assert own_settings(state) == {"api_gateway": {"LIMITS__BURST": "2/second"}}


def test_nothing_is_told_where_nothing_is_written(state: State) -> None:
    assert own_settings(state) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MODELYARD_LIMITS__BRUST", "MODELYARD_LIMITS__BURST is one"),
        ("LIMITS__BURST", "MODELYARD_LIMITS__BURST is one"),
        ("MODELYARD_INFERENCE_TIME_OUT", "MODELYARD_INFERENCE_TIMEOUT is one"),
        ("ANYTHING", ""),
    ],
)
def test_a_name_that_no_service_knows_is_refused_with_where_it_stands(
    state: State, name: str, meant: str
) -> None:
    state.settings_file.write_text(f"{name}=1\n")

    with pytest.raises(StackError, match=f"{name}, in .*settings.env, is no setting") as refused:
        own_settings(state)
    assert meant in str(refused.value)


def test_a_name_in_the_environment_that_no_service_knows_is_refused(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_LIMITS__BRUST", "1/second")

    with pytest.raises(StackError, match="in the environment"):
        own_settings(state)


@pytest.mark.parametrize("line", ["MODELYARD_LIMITS__BURST", "100 requests please"])
def test_a_line_that_is_none_is_refused_with_its_number(state: State, line: str) -> None:
    state.settings_file.write_text(f"# mine\nMODELYARD_LIMITS__BURST=1/second\n{line}\n")

    with pytest.raises(StackError, match=r"^Line 3 of .*settings.env is no NAME=VALUE"):
        own_settings(state)


def test_clean_leaves_the_operators_settings(tmp_path: Path) -> None:
    state = State(tmp_path / "own")
    (state.folder("logs") / "kafka.log").touch()
    state.settings_file.touch()

    state.clean()
    assert [entry.name for entry in state.root.iterdir()] == ["settings.env"]

    state.settings_file.unlink()
    state.clean()
    assert not state.root.exists()


@pytest.fixture
def _database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "service_url", lambda *_: "postgresql://nowhere")


def a_table(state: State, **wished: str) -> Mapping[str, Mapping[str, str]]:
    """Return what the services of a stack are told whose operator wishes for this of one."""
    return environment_table(surroundings(state, {"scheduler": wished}))


def surroundings(state: State, wished: Mapping[str, Mapping[str, str]]) -> Surroundings:
    settings = {
        "RUNTIME__KIND": "process",
        "RUNTIME__CONTAINERS_ROOT": str(state.root),
        "RUNTIME__IMAGES": "{}",
    }
    return Surroundings(
        state=state,
        kafka="kafka:9092",
        redis="redis://redis",
        traces=TraceBackend(otlp_endpoint="http://otlp", query_url="http://query"),
        runtime=Runtime(settings=settings, logs_root=state.root, summary=""),
        more=wished,
    )


@pytest.mark.usefixtures("_database")
def test_what_the_stack_leaves_open_and_some_of_what_it_says_may_be_chosen(state: State) -> None:
    told = a_table(state, ADMISSION__QUEUED_JOBS_MAX="5", RUNNER__CPU_MILLICORES="2000")[
        "scheduler"
    ]

    assert (told["ADMISSION__QUEUED_JOBS_MAX"], told["RUNNER__CPU_MILLICORES"]) == ("5", "2000")


@pytest.mark.usefixtures("_database")
@pytest.mark.parametrize(
    ("service", "name", "value", "said"),
    [
        ("api_gateway", "LIMITS__TENANT_REQUESTS_MAX", "lots", "must be a whole number, such as 3"),
        ("api_gateway", "LIMITS__TENANT_REQUESTS_MAX", "0", "must be more than 0"),
        ("api_gateway", "LIMITS__TENANT_REQUESTS_MAX", "", "must be a whole number, such as 3"),
        ("api_gateway", "LIMITS__BURST", "lots", "must be a number per time, such as 500/second"),
        ("api_gateway", "FOLLOW_TIMEOUT", "soon", "must be an ISO 8601 duration, such as PT5M"),
        ("api_gateway", "OIDC__SECOND_FACTOR_METHODS", "mfa", "must be JSON"),
        ("scheduler", "RUNTIME__ALLOW_MIXED_TENANTS", "perhaps", "must be true or false"),
        ("log_collector", "TELEMETRY__LOG_LEVEL", "loud", "must be 'TRACE', 'DEBUG', "),
    ],
)
def test_a_value_that_a_service_cannot_read_is_refused_before_anything_is_stopped(
    *,
    state: State,
    service: str,
    name: str,
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "stop", lambda *_: pytest.fail("a service is stopped"))

    with pytest.raises(StackError) as refused:
        services.start(surroundings(state, {service: {name: value}}))
    where = f"MODELYARD_{name}, in {state.settings_file}: {said}"
    assert str(refused.value).startswith(where)


def test_a_service_is_left_alone_where_only_the_callers_shell_differs(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {"PATH": "/bin", "TZ": "UTC", "MODELYARD_LIMITS__BURST": "1/second"}
    record = ProcessRecord(1, 0, boot_id="", address="", log="", stop_signal=15, stop_grace_s=1)
    monkeypatch.setattr(services, "running", lambda *_: record)
    monkeypatch.setattr(services, "environment_of", lambda _: begun)
    elsewhere = {"PATH": "/usr/bin", "HOME": "/", "MODELYARD_LIMITS__BURST": "1/second"}
    assert services.runs_with(state, "api_gateway", elsewhere)
    others = elsewhere | {"MODELYARD_LIMITS__BURST": "2/second"}
    assert not services.runs_with(state, "api_gateway", others)


@pytest.mark.usefixtures("_database")
def test_values_that_are_wrong_together_are_refused(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "stop", lambda *_: pytest.fail("a service is stopped"))

    with pytest.raises(StackError, match=r"must be shorter than scheduling\.node_lost_after"):
        services.start(surroundings(state, {"scheduler": {"SCHEDULING__NODE_LOST_AFTER": "PT1S"}}))


@pytest.mark.usefixtures("_database")
def test_what_services_can_read_is_no_problem(state: State) -> None:
    wished = {
        "api_gateway": {"LIMITS__BURST": "1/second"},
        "scheduler": {"PURGE__ROWS_PER_PASS_MAX": "9"},
    }
    around = surroundings(state, wished)

    refuse_wrong(state, wished, environment_table(around))


@pytest.mark.usefixtures("_database")
@pytest.mark.parametrize(
    "name", ["GRPC__PORT", "POSTGRES__URL", "RUNNER__NODE_ID", "STATE_ROOT", "RUNTIME__KIND"]
)
def test_what_holds_the_parts_together_is_refused(state: State, name: str) -> None:
    with pytest.raises(StackError, match=f"MODELYARD_{name} of scheduler is the local stack's own"):
        a_table(state, **{name: "x"})
