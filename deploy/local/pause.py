"""What runs while the stack is down: nothing, and it is no failure of it.

`down` ends containers together with everything else, which would count against their jobs. So the
node is drained before (ADR-0029): whoever is asked to leave goes back in line however it ends, at
no cost of a retry, and starts anew when the next `up` has opened the node again.

Always holds: `up` opens the node only where `down` has closed it; a node that an operator has
closed stays closed.
"""

from typing import Final

from modelyard.client import ApiError, Client, ConnectionFailed, Node

from deploy.local import services
from deploy.local.errors import StackError
from deploy.local.processes import running
from deploy.local.state import State
from deploy.local.waiting import wait_until

_GATEWAY: Final = "api_gateway"
_CALL_MAX_S: Final = 5.0
_DRAIN_MAX_S: Final = 15.0
"""More than the grace of jobs that ask for no other; who takes longer was asked, which counts."""
_FAILURES: Final = (ApiError, ConnectionFailed)


def drain(state: State) -> None:
    """Ask what runs to leave, and wait for that, bounded; tell where it can't be asked."""
    if running(state, _GATEWAY) is None:
        return
    try:
        with _client(state) as client:
            node = _node(client)
            if _is_empty(node):
                return
            print("Putting what runs back in line (15 s at most).", flush=True)
            if node.cordoned_at is None:
                _mark(state, is_closed=True)
            client.drain_node(node.id)
            wait_until(
                lambda: _is_empty(_node(client)), within_s=_DRAIN_MAX_S, otherwise="it still runs"
            )
    except _FAILURES as error:
        print(f"What runs can't be put back in line, and may cost a retry: {error}", flush=True)
    except StackError:
        return  # it was asked to leave: its end counts as that


def reopen(state: State) -> None:
    """Let work begin again, if it was `drain` that closed the node."""
    if not state.read().is_node_closed:
        return
    try:
        with _client(state) as client:
            client.uncordon_node(services.NODE_ID)
    except _FAILURES as error:
        told = f"modelyard node uncordon {services.NODE_ID}"
        print(f"Nothing new runs until somebody says `{told}`: {error}", flush=True)
    _mark(state, is_closed=False)


def _client(state: State) -> Client:
    file = services.credentials_file(state)
    url = f"http://{state.read().processes[_GATEWAY].address}"
    return Client(
        url, file.read_text().strip() if file.exists() else "", timeout_s=_CALL_MAX_S, tries_max=2
    )


def _node(client: Client) -> Node:
    found = {node.id: node for node in client.nodes()}
    if services.NODE_ID not in found:
        raise ConnectionFailed(f"there is no node {services.NODE_ID}")
    return found[services.NODE_ID]


def _is_empty(node: Node) -> bool:
    return node.used.cpu_millicores == 0


def _mark(state: State, *, is_closed: bool) -> None:
    with state.changing() as record:
        record.is_node_closed = is_closed
