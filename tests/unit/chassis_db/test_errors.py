"""Which failures of a database mean what; those that a real server can't be made to show."""

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.chassis.db.errors import (
    TransactionAborted,
    connecting,
    database_errors,
    is_outage,
    unique_violation,
)
from services.chassis.errors import Unavailable


class _FromPostgres(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def _error(sqlstate: str) -> DBAPIError:
    return DBAPIError("SELECT 1", None, _FromPostgres(sqlstate))


@pytest.mark.parametrize(
    "error",
    [
        _error("57P01"),  # admin shutdown
        _error("57P03"),  # still starting
        _error("53300"),  # too many connections
        _error("53100"),  # disk full
        _error("08006"),  # connection failure
        ConnectionRefusedError(),
        TimeoutError(),
    ],
    ids=repr,
)
def test_an_outage_is_unavailable_and_counts_for_the_breaker(error: Exception) -> None:
    assert is_outage(error)
    with pytest.raises(Unavailable), database_errors():
        raise error


@pytest.mark.parametrize("error", [_error("57014"), _error("55P03"), PoolTimeoutError()], ids=repr)
def test_overload_is_unavailable_and_leaves_the_breaker_alone(error: Exception) -> None:
    assert not is_outage(error)
    with pytest.raises(Unavailable), database_errors():
        raise error


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_an_aborted_transaction_may_be_tried_again(sqlstate: str) -> None:
    with pytest.raises(TransactionAborted) as caught, database_errors():
        raise _error(sqlstate)
    assert caught.value.retryable
    assert not is_outage(caught.value)


@pytest.mark.parametrize("error", [_error("22012"), FileNotFoundError(), ValueError()], ids=repr)
def test_what_is_no_failure_of_the_database_is_left_alone(error: Exception) -> None:
    assert not is_outage(error)
    with pytest.raises(type(error)), database_errors():
        raise error


def test_any_operating_system_error_while_connecting_is_an_outage() -> None:
    with pytest.raises(Unavailable), database_errors(), connecting():
        raise OSError("Multiple exceptions")


def test_a_violation_of_another_kind_has_no_unique_constraint() -> None:
    assert unique_violation(IntegrityError("INSERT", None, _FromPostgres("23503"))) is None
