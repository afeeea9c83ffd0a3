"""House rules that a machine can check.

A place that must break one says so, with a reason: `# tidy: allow <rule> because …` on the line.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("api_gateway", "model_registry", "scheduler", "log_collector")
FIXED_PACKAGES = (
    "grpcio",
    "grpcio-tools",
    "confluent-kafka",
    "fastapi",
    "sqlalchemy",
    "redis",
    "pybreaker",
    "slowapi",
    "opentelemetry-sdk",
    "loguru",
    "pydantic-settings",
)
BUSINESS_NOUNS = re.compile(r"\b(job|deployment|replica|alias)s?\b|model_?(server|version)")


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name:
                yield path


def offences(pattern: str, rule: str, *folders: str, but: str = "$^") -> list[str]:
    """Return the lines that match, but for excused ones and files whose path matches `but`."""
    found = []
    for path in python_files(*folders):
        relative = str(path.relative_to(ROOT))
        if re.search(but, relative):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(pattern, line) and f"tidy: allow {rule}" not in line:
                found.append(f"{relative}:{number}: {line.strip()}")
    return found


def test_every_module_says_what_it_owns() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files("services", "deploy", "tests", "examples")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_only_the_unit_of_work_commits() -> None:
    assert offences(r"\b(session|connection|tx)\.(commit|flush)\(", "commit", "services") == []


def test_the_chassis_knows_no_noun_of_the_business() -> None:
    found = []
    for path in python_files("services/chassis"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "name", None) or getattr(node, "id", None)
            if isinstance(name, str) and BUSINESS_NOUNS.search(name.lower()):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert found == []


def test_the_namespace_of_contracts_and_sdk_stays_open() -> None:
    for folder in ("protos/modelyard", "services/api_gateway/sdk/modelyard"):
        assert not (ROOT / folder / "__init__.py").exists(), folder


def test_tests_wait_in_one_place_only() -> None:
    assert [sleep for path in python_files("tests") for sleep in sleeps(path)] == []


def sleeps(path: Path) -> Iterator[str]:
    """Yield the calls in which a test waits by the clock; zero, or simulated time, is no wait."""
    relative = str(path.relative_to(ROOT))
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep"}
            and ast.unparse(node.args[0]) != "0"
            and "tidy: allow sleep" not in lines[node.lineno - 1]
            and not relative.startswith(("tests/support/", "tests/bench/", "tests/simulation/"))
        ):
            yield f"{relative}:{node.lineno}: {lines[node.lineno - 1].strip()}"


def test_nothing_is_left_unfinished() -> None:
    pattern = r"TODO(?!\(#\d+\))|FIXME|XXX|raise NotImplementedError"
    assert offences(pattern, "unfinished", "services", "deploy", "examples") == []


def test_the_environment_is_read_in_settings_only() -> None:
    allowed = r"sdk/modelyard/cli/tracing|chassis/settings"
    assert offences(r"os\.(environ|getenv)", "environment", "services", but=allowed) == []


@pytest.mark.parametrize("package", FIXED_PACKAGES)
def test_each_fixed_package_is_used(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    assert any(re.match(rf"{package}\b", entry) for entry in named)
    module = {
        "grpcio": r"import grpc\b|from grpc\b",
        "grpcio-tools": "grpc_tools",
        "opentelemetry-sdk": r"from opentelemetry\.sdk",
    }.get(package, rf"(import|from) {package.replace('-', '_')}\b")
    texts = [path.read_text() for path in python_files("services")]
    texts.append((ROOT / "protos" / "generate.sh").read_text())
    assert any(re.search(module, text) for text in texts)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_face(service: str) -> None:
    folder = ROOT / "services" / service
    for name in ("__main__.py", "bootstrap.py", "settings.py", "telemetry.py", "README.md"):
        assert (folder / name).exists(), f"{service} lacks {name}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_ready_only_when_its_rpcs_are_answered(service: str) -> None:
    bootstrap = (ROOT / "services" / service / "bootstrap.py").read_text()
    assert ('supervisor.add("grpc"' in bootstrap) == ('readiness.add("grpc"' in bootstrap)


def test_decisions_are_listed() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()
    for record in sorted(folder.glob("[0-9]*.md")):
        assert record.name in index, f"{record.name} is not in the index"
        text = record.read_text()
        assert "# " in text.splitlines()[0]


def test_the_readme_links_every_how_to() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in sorted((ROOT / "docs" / "how-to").glob("*.md")):
        assert f"(docs/how-to/{page.name})" in readme, f"README.md does not link {page.name}"
