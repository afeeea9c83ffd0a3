"""What two tenants have, and what a matrix finds when it is looked at cell by cell."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.e2e.platform import CPU_MILLICORES

DONE: Final = frozenset({200, 201, 202, 204})
BIG: Final = {"cpu_millicores": CPU_MILLICORES}
PROPERTY: Final = "authorization"
"""Under which a matrix' report bears how large it was: what passing tests print is not shown."""
MEMBER: Final = {"subject": "auth0|12", "issuer": "https://issuer.test"}
"""By which a request names a member, beside its path."""
KEY_NAMES: Final = frozenset({"cell", "made", "used up"})
"""What the keys are called that the matrix makes."""

Parameters = Mapping[str, str]


@dataclass
class Findings:
    """Cells that were looked at, and those that were not as they must be."""

    cell_count: int = 0
    violations: list[str] = field(default_factory=list)

    def expect(self, cell: str, told: int | str, among: frozenset[int] | frozenset[str]) -> None:
        """Count a cell; its answer's status must be one of these."""
        self.cell_count += 1
        if told not in among:
            self.violations.append(f"{cell}: {told}, not {', '.join(map(str, among))}")

    def expect_alike(self, cell: str, one: object, other: object) -> None:
        """Two answers of a cell must be the same."""
        if one != other:
            self.violations.append(f"{cell}: {one} is not {other}")


@dataclass(frozen=True)
class Things:
    """What one tenant has, made by its administrator."""

    http: httpx.Client
    name: str
    tenant: str
    job_id: str
    digest: str
    size_bytes: int

    @staticmethod
    def made(http: httpx.Client, name: str, *, job_id: str | None = None) -> "Things":
        """Make one of everything; all that would run waits in line."""
        body = f"the artifact of {name}".encode()
        digest = made(http.post("/v1/artifacts", content=body))["digest"]
        made(http.post("/v1/models", json={"name": name}))
        file = {"path": "m", "size_bytes": len(body), "digest": digest}
        made(http.post(f"/v1/models/{name}/versions", json={"files": [file]}))
        spec = {"name": name, "model": f"models:/{name}/1", "resources": BIG}
        made(http.post("/v1/deployments", json=spec))
        job_id = job_id or made(http.post("/v1/jobs", json=a_job()))["id"]
        tenant = made(http.get("/v1/whoami"))["tenant"]
        things = Things(http, name, tenant, job_id, digest, len(body))
        things.alias()
        return things

    def alias(self) -> Parameters:
        """Let an alias be there, and name it."""
        path = f"/v1/models/{self.name}/aliases/champion"
        made(self.http.put(path, json={"version": 1}))
        return {"name": self.name, "alias": "champion"}

    def key(self) -> Parameters:
        """Make a key, and name it."""
        body = {"name": "used up", "role": "viewer"}
        return {"key_id": made(self.http.post("/v1/api-keys", json=body))["key"]["id"]}

    def member(self) -> Parameters:
        """Let the tenant have a member, and name it."""
        path = f"/v1/tenants/{self.tenant}/members"
        made(self.http.put(path, params=MEMBER, json={"roles": ["viewer"]}))
        return {"tenant_id": self.tenant}

    def job(self) -> Parameters:
        """Submit a job, and name it."""
        return {"job_id": made(self.http.post("/v1/jobs", json=a_job()))["id"]}

    def clear(self) -> None:
        """End what is in line, and the keys that were made: a tenant has a bounded number."""
        self.http.delete(f"/v1/deployments/{self.name}")
        for job in self.http.get("/v1/jobs", params={"state": "QUEUED", "page_size": 200}).json()[
            "jobs"
        ]:
            self.http.post(f"/v1/jobs/{job['id']}/cancel", json={})
        for key in self.http.get("/v1/api-keys").json()["keys"]:
            if key["name"] in KEY_NAMES and key["revoked_at"] is None:
                self.http.delete(f"/v1/api-keys/{key['id']}")


def made(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in DONE, answer.text
    return dict(answer.json())


def a_job() -> dict[str, object]:
    return {"name": "n", "image": "modelyard/base", "command": ["true"], "resources": BIG}


_numbers = itertools.count()


def fresh(prefix: str) -> str:
    return f"{prefix}-{next(_numbers)}"


def unlike(identity: str) -> str:
    """Return an id of the same form that nobody has."""
    return identity[:-4] + "0000"


def without(text: str, parameters: Parameters) -> str:
    """Return an answer without the ids that were asked for."""
    for value in parameters.values():
        text = text.replace(value, "…")
    return text
