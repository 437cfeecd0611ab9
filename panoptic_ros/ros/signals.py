"""SIGINT and SIGTERM as a future, for an orderly shutdown."""

import os
import signal
from concurrent.futures import Future
from threading import Thread


class StopSignal:
    """Completes a future, :attr:`came`, at the first SIGINT or SIGTERM; later ones are ignored.

    By default Python raises KeyboardInterrupt anywhere in the main thread, perhaps twice, and
    rclpy shuts the context down while it is in use. Here a signal wakes a thread, whatever the
    main thread waits for, and the node shuts down in order.
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
