"""Keys that change while services run."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from deploy.local import identity as files
from deploy.local.state import State
from services.chassis.errors import ModelyardError, Unauthenticated
from services.chassis.rpc.context import Context, acting_as
from services.chassis.rpc.identity import (
    KEYS_READ_INTERVAL,
    LEEWAY,
    LIFETIME,
    TokenSigner,
    TokenVerifier,
)
from services.chassis.settings import IdentitySettings
from tests.integration.chassis_rpc.yard import (
    A_JOB,
    ANNA,
    CALLEE,
    GATEWAY,
    Handlers,
    Keys,
    Yard,
)
from tests.support.clock import MovedClock
from tests.support.eventually import until

SERVICE = "api_gateway"
CALLERS = 4
STEP = timedelta(seconds=5)


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


@pytest.fixture
def signer(state: State, clock: MovedClock) -> TokenSigner:
    return TokenSigner("api-gateway", files.ensure_key(state, SERVICE), clock)


@pytest.fixture
def verifier(state: State, clock: MovedClock, signer: TokenSigner) -> TokenVerifier:
    return TokenVerifier(CALLEE, files.trusted_keys_folder(state), clock)


def key_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def public_files(state: State) -> Sequence[Path]:
    return sorted(files.trusted_keys_folder(state).glob("*.pub.pem"))


async def test_no_call_fails_while_keys_are_rotated(
    yard: Yard, state: State, clock: MovedClock, signer: TokenSigner, verifier: TokenVerifier
) -> None:
    keys_seen: list[str] = []
    failures: list[ModelyardError] = []
    is_over = False
    old_token = signer.token(ANNA, CALLEE)

    async def note(request: Any, context: Context) -> Any:
        token = dict(context.invocation_metadata() or ())["authorization"]
        keys_seen.append(key_of(str(token).removeprefix("Bearer ")))
        return A_JOB

    async def keep_calling() -> None:
        while not is_over:
            try:
                await client.get_job(idempotent=False)
            except ModelyardError as error:
                failures.append(error)

    def answered_count() -> int:
        return len(keys_seen) + len(failures)

    def under_calls(seconds: float) -> None:
        """Let the time pass, in steps that no call is long in comparison with."""
        ends_at = clock.ahead + timedelta(seconds=seconds)
        while clock.ahead < ends_at:
            enough = answered_count() + 5 * CALLERS
            until(lambda enough=enough: answered_count() > enough, what="calls")  # type: ignore[misc]
            clock.ahead = min(clock.ahead + STEP, ends_at)

    handlers = Handlers(get_job=note)
    server = await yard.serving(handlers, verifier=verifier)
    client = await yard.client(server.port, signer=signer)
    with acting_as(ANNA):
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(keep_calling())
            try:
                await asyncio.to_thread(files.rotate_keys, state, [SERVICE], wait=under_calls)
                await asyncio.to_thread(under_calls, 3 * KEYS_READ_INTERVAL.total_seconds())
            finally:
                is_over = True

    assert failures == []
    assert list(dict.fromkeys(keys_seen)) == [key_of(old_token), key_of(signer.token(ANNA, CALLEE))]
    assert len(public_files(state)) == 1


def test_what_the_old_key_signed_is_refused_once_its_file_is_gone(
    state: State, clock: MovedClock, signer: TokenSigner, verifier: TokenVerifier
) -> None:
    """A leaked key: nobody waits until its tokens expire. A token was accepted, and is cached."""
    token = signer.token(ANNA, CALLEE)
    assert verifier.verify(token).principal == ANNA

    for file in public_files(state):
        file.unlink()
    clock.ahead += KEYS_READ_INTERVAL

    with pytest.raises(Unauthenticated):
        verifier.verify(token)


def test_a_new_key_is_known_as_soon_as_it_is_used(
    state: State, clock: MovedClock, verifier: TokenVerifier
) -> None:
    fresh = Keys.new()
    (files.trusted_keys_folder(state) / "scheduler.new.pub.pem").write_bytes(fresh.public)
    clock.ahead += timedelta(seconds=1)

    token = TokenSigner("scheduler", fresh.private, clock).token(ANNA, CALLEE)

    assert verifier.verify(token).service == "scheduler"


def test_keys_of_strangers_make_the_folder_be_read_once_a_second(
    state: State,
    clock: MovedClock,
    verifier: TokenVerifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listings: list[Path] = []
    list_folder = Path.iterdir

    def counted(folder: Path) -> Any:
        listings.append(folder)
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", counted)
    now_s = clock.monotonic() + 1
    monkeypatch.setattr(clock, "monotonic", lambda: now_s)  # a hundred tokens may take a second
    for _ in range(100):
        with pytest.raises(Unauthenticated):
            verifier.verify(TokenSigner("stranger", Keys.new().private, clock).token(ANNA, CALLEE))

    assert len(listings) == 1


def test_a_service_can_not_sign_as_another(clock: MovedClock) -> None:
    """The key's name says whose it is: the scheduler's key makes no token of the gateway."""
    scheduler = Keys.new()
    trusted = {"api-gateway": GATEWAY.public, "scheduler": scheduler.public}
    verifier = TokenVerifier(CALLEE, trusted, clock)
    own = TokenSigner("scheduler", scheduler.private, clock).token(ANNA, CALLEE)
    claims = jwt.decode(own, options={"verify_signature": False})

    for key_name in (
        key_of(own),
        key_of(TokenSigner("api-gateway", GATEWAY.private, clock).token(ANNA, CALLEE)),
    ):
        forged = jwt.encode(
            {**claims, "iss": "api-gateway"},
            scheduler.private,
            algorithm="EdDSA",
            headers={"kid": key_name},
        )
        with pytest.raises(Unauthenticated):
            verifier.verify(forged)


def test_a_public_file_that_is_no_key_takes_no_other_down(
    state: State, clock: MovedClock, signer: TokenSigner, verifier: TokenVerifier
) -> None:
    (files.trusted_keys_folder(state) / "scheduler.broken.pub.pem").write_text("no key")
    clock.ahead += KEYS_READ_INTERVAL

    assert verifier.verify(signer.token(ANNA, CALLEE)).principal == ANNA


def test_a_folder_that_can_not_be_listed_leaves_what_is_known(
    state: State, clock: MovedClock, signer: TokenSigner, verifier: TokenVerifier
) -> None:
    folder = files.trusted_keys_folder(state)
    folder.rename(folder.with_name("elsewhere"))
    clock.ahead += KEYS_READ_INTERVAL

    assert verifier.verify(signer.token(ANNA, CALLEE)).principal == ANNA


@pytest.mark.parametrize("content", [None, b"", GATEWAY.public], ids=["gone", "empty", "public"])
def test_a_signer_whose_file_can_not_be_read_goes_on_with_its_key(
    state: State,
    clock: MovedClock,
    signer: TokenSigner,
    verifier: TokenVerifier,
    content: bytes | None,
) -> None:
    file = files.ensure_key(state, SERVICE)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    clock.ahead += KEYS_READ_INTERVAL + LIFETIME

    assert verifier.verify(signer.token(ANNA, CALLEE)).principal == ANNA


def test_the_bounds_of_a_rotation_are_those_of_the_services(tmp_path: Path) -> None:
    settings = IdentitySettings(private_key_file=tmp_path, trusted_keys_folder=tmp_path)

    assert files.KEYS_READ_INTERVAL == KEYS_READ_INTERVAL == settings.keys_read_interval
    assert files.SIGNED_LIFETIME == LIFETIME + LEEWAY
