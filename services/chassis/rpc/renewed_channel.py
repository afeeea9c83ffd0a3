"""A channel whose certificate is that of its files, also when they change (ADR-0010).

gRPC takes a client's certificate once, when a channel is made. So when the files hold another one a
new channel takes over at the next call, with a handshake of its own. Calls at work stay on the one
that they began on, which closes with the last of them; the server's bound on a connection's age
bounds how long that may take.
"""

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from services.chassis.rpc.tls import CertificateFiles, channel_credentials
from services.chassis.settings import TlsSettings
from services.chassis.waiting import at_once

Connect = Callable[[grpc.ChannelCredentials], grpc.aio.Channel]


class RenewedChannel:
    """Offers what stubs ask of a channel."""

    def __init__(self, connect: Connect, settings: TlsSettings) -> None:
        """Connect with a certificate; raises OSError or ValueError for files without one."""
        self._connect = connect
        self._files = CertificateFiles(settings)
        self._used = _Used(connect(channel_credentials(self._files.current)))
        self._retired: set[_Used] = set()

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """Return a method of whichever channel is current when it is called; so do the others."""
        return _Method(self, lambda channel: channel.unary_unary(*args, **options))

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """Return such a method."""
        return _Method(self, lambda channel: channel.unary_stream(*args, **options))

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        """Return such a method."""
        return _Method(self, lambda channel: channel.stream_unary(*args, **options))

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """Return such a method."""
        return _Method(self, lambda channel: channel.stream_stream(*args, **options))

    def current(self) -> "_Used":
        """Return the channel of the certificate that the files hold."""
        renewed = self._files.renewed()
        if renewed is not None:
            self._retired.add(self._used)
            self._used = _Used(self._connect(channel_credentials(renewed)))
            self._close_unused()
        return self._used

    def made(self, call: Any, used: "_Used") -> Any:
        """Count a call among those at work."""
        used.call_count += 1

        def ended(_: object) -> None:
            used.call_count -= 1
            self._close_unused()

        call.add_done_callback(ended)
        return call

    def _close_unused(self) -> None:
        for used in [used for used in self._retired if not used.call_count]:
            self._retired.remove(used)
            at_once(used.channel.close())

    async def close(self) -> None:
        """End all calls and connections."""
        for used in (*self._retired, self._used):
            await used.channel.close()


class _Used:
    """A channel, and how many of its calls are at work."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.call_count = 0


class _Method:
    """A stub's method, made anew for a new channel."""

    def __init__(self, channel: RenewedChannel, make: Callable[[grpc.aio.Channel], Any]) -> None:
        self._channel = channel
        self._make = make
        self._used = channel.current()
        self._method = make(self._used.channel)

    def __call__(self, *args: Any, **options: Any) -> Any:
        used = self._channel.current()
        if used is not self._used:
            self._used, self._method = used, self._make(used.channel)
        return self._channel.made(self._method(*args, **options), used)
