"""Every method of the REST API, with every role, on own, foreign and missing things.

The methods and the scopes that they need come from `/openapi.json`; how to call each is a row here.
A method without a row fails the test. A foreign thing must read exactly as one that nobody has. A
suspended tenant reads as before, and is refused all else before its rights are looked at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import httpx
import pytest

from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from tests.e2e.authorization.things import (
    BIG,
    DONE,
    MEMBER,
    PROPERTY,
    Findings,
    Parameters,
    Things,
    a_job,
    fresh,
    made,
    unlike,
    without,
)
from tests.e2e.bench import Bench
from tests.e2e.platform import CPU_MILLICORES, Platform
from tests.support.eventually import until

EVERYTHING: Final = SCOPES_BY_ROLE[Role.PLATFORM_ADMIN]
UNKNOWN: Final = frozenset({401})
REFUSED: Final = frozenset({403})
ABSENT: Final = frozenset({404})
NOT_SERVED_YET: Final = DONE | {404, 503}
"""The own deployment waits in line: asking it is allowed, and in vain."""
UNLIMITED: Final = "1000000"


@dataclass(frozen=True)
class Row:
    """How one method is called: on a fresh own thing, on a foreign one, on one that nobody has."""

    own: Callable[[], Parameters] = dict
    foreign: Parameters | None = None
    missing: Parameters | None = None
    json: Callable[[], object] = lambda: None
    content: bytes | None = None
    query: Parameters = field(default_factory=dict)
    allowed: frozenset[int] = DONE
    for_every_tenant: frozenset[str] | None = None
    """About tenants themselves: with these scopes, too, a caller reaches foreign ones."""

    def expected(self, kind: str, *, needs: frozenset[str], has: frozenset[str]) -> frozenset[int]:
        """Return what a caller in good standing is told, by the kind of thing asked for."""
        if not needs <= has:
            return REFUSED
        is_every = self.for_every_tenant is not None and self.for_every_tenant <= has
        is_reached = kind == "own" or (kind == "foreign" and is_every)
        return self.allowed if is_reached else ABSENT

    def others(self) -> list[tuple[str, Parameters]]:
        """Return the things that the caller has not, by what they are."""
        found = (("foreign", self.foreign), ("missing", self.missing))
        return [(kind, parameters) for kind, parameters in found if parameters is not None]


def rows(own: Things, foreign: Things, spare_tenants: tuple[str, str]) -> dict[str, Row]:
    """Return how each method is called; both spare tenants are others than the caller's."""

    def of_model(**rest: str) -> dict[str, Any]:
        return {
            "own": lambda: {"name": own.name, **rest},
            "foreign": {"name": foreign.name, **rest},
            "missing": {"name": "nothing", **rest},
        }

    def of_deployment(parameter: str, **rest: str) -> dict[str, Any]:
        return {
            "own": lambda: {parameter: own.name, **rest},
            "foreign": {parameter: foreign.name, **rest},
            "missing": {parameter: "nothing", **rest},
        }

    def of_job(parameter: str) -> dict[str, Any]:
        return {
            "own": lambda: {parameter: own.job_id},
            "foreign": {parameter: foreign.job_id},
            "missing": {parameter: unlike(foreign.job_id)},
        }

    def of_key() -> dict[str, Any]:
        theirs = foreign.key()["key_id"]
        return {
            "own": own.key,
            "foreign": {"key_id": theirs},
            "missing": {"key_id": unlike(theirs)},
        }

    def of_tenant(body: object = None) -> Row:
        return Row(
            own=lambda: {"tenant_id": spare_tenants[0]},
            foreign={"tenant_id": spare_tenants[1]},
            missing={"tenant_id": "nobody"},
            json=lambda: body,
            for_every_tenant=frozenset(),
        )

    def of_member(query: Parameters = MEMBER, **more: Any) -> Row:
        return Row(
            own=own.member,
            foreign=foreign.member(),
            missing={"tenant_id": "nobody"},
            query=query,
            for_every_tenant=frozenset({"tenants:read", "tenants:write"}),
            **more,
        )

    file = {"path": "m", "size_bytes": own.size_bytes, "digest": own.digest}
    infer: dict[str, object] = {"inputs": []}
    return {
        "post /v1/jobs": Row(json=a_job),
        "post /v1/jobs/check": Row(json=a_job),
        "get /v1/jobs": Row(),
        "get /v1/jobs/{job_id}": Row(**of_job("job_id")),
        "get /v1/jobs/{job_id}/explain": Row(**of_job("job_id")),
        "get /v1/jobs/{job_id}/attempts": Row(**of_job("job_id")),
        "get /v1/stats": Row(),
        "post /v1/jobs/{job_id}/cancel": Row(**of_job("job_id") | {"own": own.job}, json=dict),
        "get /v1/jobs/{owner_id}/logs": Row(**of_job("owner_id")),
        "get /v1/deployments/{owner_id}/logs": Row(
            **of_deployment("owner_id"), allowed=NOT_SERVED_YET
        ),
        "post /v1/models": Row(json=lambda: {"name": fresh("model")}),
        "get /v1/models": Row(),
        "get /v1/models/{name}": Row(**of_model()),
        "put /v1/models/{name}/tags": Row(**of_model(), json=lambda: {"tags": {}}),
        "post /v1/models/{name}/versions": Row(**of_model(), json=lambda: {"files": [file]}),
        "get /v1/models/{name}/versions": Row(**of_model()),
        "get /v1/models/{name}/versions/{version}": Row(**of_model(version="1")),
        "get /v1/models/{name}/aliases/{alias}": Row(
            **of_model(alias="champion") | {"own": own.alias}
        ),
        "put /v1/models/{name}/aliases/{alias}": Row(
            **of_model(alias="champion"), json=lambda: {"version": 1}
        ),
        "delete /v1/models/{name}/aliases/{alias}": Row(
            **of_model(alias="champion") | {"own": own.alias}
        ),
        "post /v1/artifacts": Row(content=b"bytes"),
        "get /v1/artifacts/{digest}": Row(
            own=lambda: {"digest": own.digest},
            foreign={"digest": foreign.digest},
            missing={"digest": "sha256:" + "0" * 64},
        ),
        "post /v1/deployments": Row(
            json=lambda: {"name": own.name, "model": f"models:/{own.name}/1", "resources": BIG},
            allowed=DONE | {409},
        ),
        "get /v1/deployments": Row(),
        "get /v1/deployments/{deployment}": Row(**of_deployment("deployment")),
        "get /v1/deployments/{deployment}/explain": Row(**of_deployment("deployment")),
        # Called last: see `methods_of`.
        "delete /v1/deployments/{deployment}": Row(
            **of_deployment("deployment"), allowed=DONE | {404}
        ),
        **{
            f"{method} /v2/models/{{model}}{path}": Row(
                **of_deployment("model", **rest),
                json=lambda: infer,
                allowed=NOT_SERVED_YET,
            )
            for method, verb in (("get", "/ready"), ("get", ""), ("post", "/infer"))
            for path, rest in (
                (verb, {}),
                (f"/versions/{{version}}{verb}", {"version": "1"}),
            )
        },
        "get /v1/nodes": Row(),
        **{
            # Nodes are no tenant's; the platform's own must stay open for other tests.
            f"post /v1/nodes/{{node_id}}/{how}": Row(
                own=lambda: {"node_id": "nowhere"}, allowed=ABSENT
            )
            for how in ("cordon", "drain", "uncordon")
        },
        "get /v1/queues": Row(),
        # No job is of it: another one's would wait.
        "post /v1/queues/{queue}/pause": Row(
            own=lambda: {"queue": "idle"}, json=lambda: {"reason": "a test"}
        ),
        "post /v1/queues/{queue}/resume": Row(own=lambda: {"queue": "idle"}),
        "get /v1/api-keys": Row(),
        "post /v1/api-keys": Row(json=lambda: {"name": "made", "role": "viewer"}),
        "post /v1/api-keys/{key_id}/rotate": Row(**of_key(), json=dict),
        "delete /v1/api-keys/{key_id}": Row(**of_key()),
        "post /v1/tenants": Row(json=lambda: {"id": fresh("tenant")}),
        "get /v1/tenants": Row(),
        "get /v1/tenants/{tenant_id}": of_tenant(),
        "post /v1/tenants/{tenant_id}/keys": of_tenant(),
        "post /v1/tenants/{tenant_id}/suspend": of_tenant({"reason": "a test"}),
        "post /v1/tenants/{tenant_id}/resume": of_tenant(),
        "put /v1/tenants/{tenant_id}/plan": of_tenant({}),
        "delete /v1/tenants/{tenant_id}": of_tenant(),
        "get /v1/tenants/{tenant_id}/members": of_member(query={}),
        "put /v1/tenants/{tenant_id}/members": of_member(json=lambda: {"roles": ["viewer"]}),
        "delete /v1/tenants/{tenant_id}/members": of_member(),
        "get /v1/whoami": Row(),
    }


@dataclass(frozen=True)
class Method:
    """One method of the API, as it describes itself."""

    name: str
    scopes: frozenset[str]

    @property
    def is_reading(self) -> bool:
        """Whether a suspended tenant may call it, too."""
        return self.name.startswith("get ")

    def ask(self, base: httpx.Client, key: str, row: Row, parameters: Parameters) -> httpx.Response:
        """Call it with a key, "" for none."""
        verb, path = self.name.split()
        body = row.json() if verb in {"post", "put"} else None
        options = {"content": row.content} if row.content is not None else {"json": body}
        return base.request(
            verb,
            path.format(**parameters),
            params=row.query,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            **({} if verb in {"get", "delete"} else options),
        )


def methods_of(http: httpx.Client) -> Iterator[Method]:
    """Yield all methods that need a credential; deletions last."""
    paths = http.get("/openapi.json").json()["paths"]
    found = [
        Method(f"{verb} {path}", frozenset(operation["security"][0]["ApiKey"]))
        for path, operations in paths.items()
        for verb, operation in operations.items()
        if "security" in operation
    ]
    yield from sorted(found, key=lambda method: method.name.startswith("delete"))


@dataclass(frozen=True)
class Keys:
    """Keys of one role: one in force, one expired, one revoked."""

    valid: str
    expired: str
    revoked: str

    @staticmethod
    def issued(http: httpx.Client, role: Role) -> "Keys":
        """Issue them."""

        def issue(**more: str) -> dict[str, Any]:
            return made(http.post("/v1/api-keys", json={"name": "cell", "role": role, **more}))

        revoked = issue()
        assert http.delete(f"/v1/api-keys/{revoked['key']['id']}").status_code == 204
        return Keys(issue()["text"], issue(lifetime="PT0.1S")["text"], revoked["text"])


@pytest.fixture
def address(platform: Platform) -> Iterator[str]:
    """Give a gateway that lets as many be refused as there are cells."""
    with platform.another_gateway(
        LIMITS__TENANT_REQUESTS_MAX=UNLIMITED,
        LIMITS__SOURCE_REQUESTS_MAX=UNLIMITED,
        LIMITS__KEY_REQUESTS_MAX=UNLIMITED,
        KEYS__IN_FORCE_MAX="500",
    ) as address:
        yield address


def client_of(address: str, key: str) -> httpx.Client:
    return httpx.Client(
        base_url=address, headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=30
    )


@pytest.mark.timeout(480)
def test_no_cell_of_the_matrix_lets_anybody_do_or_see_more(
    platform: Platform,
    bench: Bench,
    address: str,
    record_property: Callable[[str, object], None],
) -> None:
    holder = bench.submit(bench.spec("wait()", cpu_millicores=CPU_MILLICORES))
    bench.process_of(holder)  # so that nothing else runs
    with (
        client_of(address, platform.running.api_key) as admin,
        client_of(address, platform.create_tenant(fresh("strangers"))) as stranger,
        client_of(address, "") as base,
    ):
        own = Things.made(admin, fresh("ours"), job_id=holder.id)
        foreign = Things.made(stranger, fresh("theirs"))
        spares = (a_tenant(admin, "spare")[0], a_tenant(admin, "other-spare")[0])
        table = rows(own, foreign, spares)
        methods = list(methods_of(base))
        assert {method.name for method in methods} == set(table)

        findings = Findings()
        matrix = Matrix(admin, base, findings)
        keys = {role: Keys.issued(admin, role) for role in Role}
        for text in [each for one in keys.values() for each in (one.expired, one.revoked)]:
            until(partial(is_refused, base, text), what="a key is out of force")
        for method in methods:
            row = table[method.name]
            for role in Role:
                matrix.look_as(role, keys[role], method, row)
            matrix.look_by_scope(method, row)
        suspended, key = a_tenant(admin, "suspended")
        with client_of(address, key) as owner:
            things = Things.made(owner, fresh("kept"))
            of_theirs = rows(things, foreign, spares)
            cells = list(cells_of(owner, methods, of_theirs))
            made(admin.post(f"/v1/tenants/{suspended}/suspend", json={"reason": "unpaid"}))
            for cell in cells:
                matrix.look_suspended(cell)
            platform_admin = keys[Role.PLATFORM_ADMIN].valid
            matrix.look_at_administration(platform_admin, methods, of_theirs, suspended)
            made(admin.post(f"/v1/tenants/{suspended}/resume"))
            things.clear()

        for path in ("/v1/jobs", "/v1/models", "/v1/deployments", "/v1/api-keys"):
            told = admin.get(path, params={"page_size": 200}).text
            findings.expect_alike(f"{path} tells foreign things", foreign.name in told, False)
            findings.expect_alike(f"{path} tells foreign jobs", foreign.job_id in told, False)
        for things in (own, foreign):
            things.clear()

    record_property(PROPERTY, f"{len(methods)} REST methods, {findings.cell_count} cells")
    assert not findings.violations, "\n".join(findings.violations)
    assert findings.cell_count > len(methods) * len(Role) * 3


def a_tenant(admin: httpx.Client, prefix: str) -> tuple[str, str]:
    """Make a tenant; return its name and its first key."""
    answer = made(admin.post("/v1/tenants", json={"id": fresh(prefix)}))
    return answer["tenant"]["id"], answer["key"]


@dataclass(frozen=True)
class SuspendedCell:
    """One call of a tenant that will be suspended; what it asks for was made before."""

    method: Method
    row: Row
    role: Role
    key: str
    kind: str
    parameters: Parameters

    @property
    def title(self) -> str:
        return f"{self.method.name} as {self.role} of a suspended tenant, {self.kind}"


def cells_of(
    owner: httpx.Client, methods: Sequence[Method], table: Mapping[str, Row]
) -> Iterator[SuspendedCell]:
    """Yield what a tenant's own roles may ask for; that of the platform is no tenant's to give."""
    own_roles = [role for role in Role if role is not Role.PLATFORM_ADMIN]
    bodies = {role: {"name": "cell", "role": role} for role in own_roles}
    keys = {
        role: made(owner.post("/v1/api-keys", json=body))["text"] for role, body in bodies.items()
    }
    for method in methods:
        row = table[method.name]
        for kind, parameters in (("own", row.own()), *row.others()):
            for role, key in keys.items():
                yield SuspendedCell(method, row, role, key, kind, parameters)


def is_refused(base: httpx.Client, key: str) -> bool:
    answer = base.get("/v1/whoami", headers={"Authorization": f"Bearer {key}"})
    return answer.status_code == 401


@dataclass(frozen=True)
class Matrix:
    """Asks cell by cell, and keeps what it found."""

    admin: httpx.Client
    base: httpx.Client
    findings: Findings
    keys: dict[frozenset[str], str] = field(default_factory=dict)
    """One of each set of scopes, since a tenant has a bounded number of keys."""

    def look_as(self, role: Role, keys: Keys, method: Method, row: Row) -> None:
        """Look at one role's cells of a method."""
        cell = f"{method.name} as {role}"
        has = SCOPES_BY_ROLE[role]
        own = row.own()
        told = []
        for kind, parameters in (("own", own), *row.others()):
            answer = method.ask(self.base, keys.valid, row, parameters)
            expected = row.expected(kind, needs=method.scopes, has=has)
            self.findings.expect(f"{cell}, {kind}", answer.status_code, expected)
            if kind != "own" and expected != row.allowed:
                told.append(without(answer.text, parameters))
        if len(told) == 2:
            self.findings.expect_alike(f"{cell}, foreign and missing", *told)
        for kind, key in (("expired", keys.expired), ("revoked", keys.revoked)):
            answer = method.ask(self.base, key, row, own)
            self.findings.expect(f"{cell}, {kind} key", answer.status_code, UNKNOWN)

    def look_by_scope(self, method: Method, row: Row) -> None:
        """Look at no key, at keys of all scopes but a needed one, and at one of these alone."""
        own = row.own()
        unknown = method.ask(self.base, "", row, own)
        self.findings.expect(f"{method.name}, no key", unknown.status_code, UNKNOWN)
        for scope in sorted(method.scopes):
            key = self._key_of(EVERYTHING - {scope})
            for kind, parameters in (("own", own), *row.others()):
                answer = method.ask(self.base, key, row, parameters)
                cell = f"{method.name} without {scope}, {kind}"
                self.findings.expect(cell, answer.status_code, REFUSED)
                self.findings.expect_alike(cell, scope in answer.text, True)
        if method.scopes:
            answer = method.ask(self.base, self._key_of(method.scopes), row, row.own())
            # Whoever makes a key or a member must have what it may do.
            is_giving = "keys" in method.name or "members" in method.name
            allowed = row.allowed | (REFUSED if is_giving else frozenset())
            self.findings.expect(
                f"{method.name} with its own scopes alone", answer.status_code, allowed
            )

    def look_suspended(self, cell: SuspendedCell) -> None:
        """Look at a call of a suspended tenant: a read is answered as ever, no other one is."""
        answer = cell.method.ask(self.base, cell.key, cell.row, cell.parameters)
        expected = REFUSED
        if cell.method.is_reading:
            has = SCOPES_BY_ROLE[cell.role]
            expected = cell.row.expected(cell.kind, needs=cell.method.scopes, has=has)
        self.findings.expect(cell.title, answer.status_code, expected)
        is_for_suspension = "TENANT_SUSPENDED" in answer.text
        self.findings.expect_alike(cell.title, is_for_suspension, not cell.method.is_reading)

    def look_at_administration(
        self, key: str, methods: Sequence[Method], table: Mapping[str, Row], suspended: str
    ) -> None:
        """Look at what a platform's administrator does with a suspended tenant."""
        parameters = {"tenant_id": suspended}
        for method in methods:
            row = table[method.name]
            if row.for_every_tenant is not None:
                answer = method.ask(self.base, key, row, parameters)
                cell = f"{method.name} as {Role.PLATFORM_ADMIN}, on a suspended tenant"
                self.findings.expect(cell, answer.status_code, row.allowed)

    def _key_of(self, scopes: frozenset[str]) -> str:
        if scopes not in self.keys:
            body = {"name": "cell", "scopes": sorted(scopes)}
            self.keys[scopes] = str(made(self.admin.post("/v1/api-keys", json=body))["text"])
        return self.keys[scopes]
