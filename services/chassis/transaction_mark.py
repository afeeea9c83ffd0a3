"""Marks the tasks that have a transaction open.

Owns: one context variable. `chassis.db` sets it, `chassis.rpc.client` refuses to call while it is
set (ADR-0002: nothing remote inside a transaction). Apart from both, so that neither imports the
other.
"""

from contextvars import ContextVar

in_transaction: ContextVar[bool] = ContextVar("in_transaction", default=False)
