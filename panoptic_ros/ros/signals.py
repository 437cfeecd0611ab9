"""SIGINT and SIGTERM as an event, so that a node ends in its own order."""

import os
import signal
from concurrent.futures import Future
from threading import Thread


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a future, :attr:`came`; those after it do nothing.

    Left to themselves, Python raises KeyboardInterrupt wherever the main thread happens to be,
    perhaps twice, and rclpy shuts the context down under whoever uses it. Here a signal wakes a
    thread, whatever the main thread waits for, and the node ends in its own order.
    """

    def __init__(self) -> None:
        self.came: Future[None] = Future()

    def __enter__(self) -> 'StopSignal':
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._thread = Thread(target=self._wait, name='signals', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self._write_fd)
        self._thread.join()
        os.close(self._read_fd)

    def _wait(self) -> None:
        if os.read(self._read_fd, 1):
            self.came.set_result(None)
