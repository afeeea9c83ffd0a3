"""`node`: the machines that jobs and replicas run on, and closing them for maintenance."""

import click
from modelyard.cli.output import show_json, show_table
from modelyard.cli.session import Session, age, pass_session
from modelyard.client import Node


@click.group("node")
def node_group() -> None:
    """Look at nodes; close and open them: for the platform's administrators."""


@node_group.command("list")
@pass_session
def node_list(session: Session) -> None:
    """Show the nodes."""
    _show(session, session.client.nodes())


@node_group.command("cordon")
@click.argument("node_id")
@pass_session
def node_cordon(session: Session, node_id: str) -> None:
    """Place nothing new on a node; what runs there goes on."""
    _show(session, [session.client.cordon_node(node_id)])


@node_group.command("drain")
@click.argument("node_id")
@pass_session
def node_drain(session: Session, node_id: str) -> None:
    """Cordon a node and move off what runs there; `node list` says when it is drained."""
    _show(session, [session.client.drain_node(node_id)])


@node_group.command("uncordon")
@click.argument("node_id")
@pass_session
def node_uncordon(session: Session, node_id: str) -> None:
    """Open a node again and end its drain."""
    _show(session, [session.client.uncordon_node(node_id)])


def _show(session: Session, nodes: list[Node]) -> None:
    if session.is_json:
        show_json(nodes)
    else:
        show_nodes(nodes)


def show_nodes(nodes: list[Node]) -> None:
    """Show each node in a line."""
    rows = [
        (
            node.id,
            node.runtime,
            _state(node),
            f"{node.used.cpu_millicores / 1000:g}/{node.capacity.cpu_millicores / 1000:g}",
            f"{node.used.memory_bytes >> 20}/{node.capacity.memory_bytes >> 20} MiB",
            f"{node.used.gpu_count}/{node.capacity.gpu_count}",
        )
        for node in nodes
    ]
    show_table(("NODE", "RUNTIME", "STATE", "CORES", "MEMORY", "GPUS"), rows)


def _state(node: Node) -> str:
    if node.lost_at is not None:
        return f"lost for {age(node.lost_at)}"
    if not node.alive:
        return f"silent for {age(node.heartbeat_at)}"
    if node.runtime_down_since is not None:
        return f"runtime down for {age(node.runtime_down_since)}"
    if node.draining_since is not None:
        is_empty = node.used.cpu_millicores == node.used.memory_bytes == node.used.gpu_count == 0
        return "drained" if is_empty else f"draining for {age(node.draining_since)}"
    if node.cordoned_at is not None:
        return f"cordoned for {age(node.cordoned_at)}"
    return "ready"
