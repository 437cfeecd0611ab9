"""What tests of the node ask of it, and nodes whose engine misbehaves."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.ros import Peer


def diagnostics(peer: 'Peer') -> dict[str, str]:
    """Return the newest values that are published from now on."""
    from diagnostic_msgs.msg import DiagnosticArray

    received = peer.received['/diagnostics'] or peer.subscribe(DiagnosticArray, '/diagnostics')
    seen = len(received)
    peer.wait_until(lambda: len(received) > seen, 'diagnostics')
    (status,) = received[-1].status
    return {entry.key: entry.value for entry in status.values} | {
        'name': status.name,
        'message': status.message,
        'level': status.level,
    }


def change_state(peer: 'Peer', transition: int, out: str) -> bool:
    """Ask the node whose outputs begin with ``out`` for a transition; return its answer."""
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    request = ChangeState.Request(transition=Transition(id=transition))
    return peer.call(ChangeState, out + 'change_state', request).success


def state(peer: 'Peer', out: str) -> str:
    """Return the lifecycle state of the node whose outputs begin with ``out``."""
    from lifecycle_msgs.srv import GetState

    return peer.ask(GetState, out + 'get_state', GetState.Request()).current_state.label


PROGRAM = """
import sys, time
from panoptic_ros.errors import EngineError
from panoptic_ros.ros import node

def load(structure):
{load}

class Node(node.SegmentNode):
    def __init__(self):
        super().__init__(load=load)

node.SegmentNode = Node
sys.exit(node.main())
"""


def program(load: str) -> tuple[str, str]:
    """Return the arguments of Python for a node with this body of ``load(structure)``."""
    return '-c', PROGRAM.format(load=load)
