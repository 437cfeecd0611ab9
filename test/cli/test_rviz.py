"""``panoptic rviz``: the view and the frame with which rviz2 is started."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from panoptic_ros import cli
from panoptic_ros.cli import rviz
from panoptic_ros.resources import resource

if TYPE_CHECKING:
    from support.ros import Peer


class Replaced(Exception):
    """Stands for the program that replaces the process."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the list that the command line of rviz2 is appended to."""
    commands: list[list[str]] = []

    def execvp(program: str, command: list[str]) -> None:
        assert program == command[0]
        commands.append(command)
        raise Replaced

    monkeypatch.setattr(rviz.os, 'execvp', execvp)
    return commands


def view(command: list[str]) -> dict[str, Any]:
    return yaml.safe_load(Path(command[command.index('-d') + 1]).read_text())


def frame_of(content: dict[str, Any]) -> str:
    return content['Visualization Manager']['Global Options']['Fixed Frame']


@pytest.mark.parametrize(
    ('frame', 'name'),
    [
        ('odom', 'segment_forward.rviz'),
        ('left_camera_optical_frame', 'segment_optical.rviz'),
    ],
)
def test_a_given_frame_starts_at_once(started: list[list[str]], frame: str, name: str) -> None:
    with pytest.raises(Replaced):
        cli.main(['rviz', '--frame', frame, '--', 'my_rviz2', '--ros-args', '-r', '/a:=/b'])
    (command,) = started
    assert (command[0], command[3:]) == ('my_rviz2', ['--ros-args', '-r', '/a:=/b'])
    written = view(command)
    assert frame_of(written) == frame
    original = yaml.safe_load(resource('config', name).read_text())
    original['Visualization Manager']['Global Options']['Fixed Frame'] = frame
    assert written == original


def test_the_frame_of_the_images_has_the_optical_view(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = []
    monkeypatch.setattr(rviz, 'wait_for_frame', lambda topic: topics.append(topic) or 'cam0')
    with pytest.raises(Replaced):
        cli.main(['rviz', '--topic', '/robot/segment/overlay'])
    assert topics == ['/robot/segment/overlay']
    assert started[0][0] == 'rviz2'
    assert frame_of(view(started[0])) == 'cam0'
    assert Path(started[0][2]).name == 'segment_optical.rviz'


def test_stopped_before_the_first_image(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rviz, 'wait_for_frame', lambda topic: None)
    assert cli.main(['rviz']) == 0
    assert started == []


def test_a_view_of_the_user_keeps_its_frame(started: list[list[str]], tmp_path: Path) -> None:
    config = tmp_path / 'mine.rviz'
    config.write_text('Visualization Manager: {Global Options: {Fixed Frame: map}}')
    with pytest.raises(Replaced):
        cli.main(['rviz', '--config', str(config)])
    assert started[0][2] == str(config)
    with pytest.raises(Replaced):
        cli.main(['rviz', '--config', str(config), '--frame', 'odom'])
    assert frame_of(view(started[1])) == 'odom'
    assert frame_of(yaml.safe_load(config.read_text())) == 'map'


def test_a_view_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['rviz', '--config', '/none.rviz']) == 2
    assert "--config is '/none.rviz'; expected an rviz file" in capsys.readouterr().err


def test_without_rviz2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['rviz', '--frame', 'odom', '--', 'rviz_that_is_not_there']) == 2
    assert 'there is no rviz_that_is_not_there' in capsys.readouterr().err


def test_the_frame_of_the_first_image_is_found(
    peer: 'Peer', monkeypatch: pytest.MonkeyPatch
) -> None:
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    class Stop:
        """Signals are the main thread's; here the command runs in another one."""

        class Came:
            def add_done_callback(self, _: object) -> None:
                """No signal comes."""

        came = Came()

        def __enter__(self) -> 'Stop':
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing was changed."""

    monkeypatch.setattr('panoptic_ros.ros.signals.StopSignal', Stop)
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(rviz.wait_for_frame('/segment/overlay')))
    thread.start()

    publisher = peer.node.create_publisher(Image, '/segment/overlay', 5)

    def publish() -> bool:
        # The first image may be lost, and the subscriber is gone once it has one.
        publisher.publish(Image(header=Header(frame_id='cam0')))
        peer.spin(0.05)
        return bool(found)

    peer.wait_until(publish, 'the frame')
    peer.node.destroy_publisher(publisher)
    thread.join()
    assert found == ['cam0']
