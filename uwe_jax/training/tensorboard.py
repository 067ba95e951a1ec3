"""Writes the numbers of a run for TensorBoard."""

import pathlib
import time
import uuid
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar


class TensorBoard:
    """Writes TensorBoard's files in the foreground.

    The writer of the library uses a thread. When the disk is full, the thread ends without an error, and the next write
    waits for it forever.

    Args:
      folder: where the files go; made if it does not exist.
      purge_step: TensorBoard hides what earlier files hold from this step on.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        folder.mkdir(exist_ok=True)
        # The library's names tell one second from another, but not two runs that start in the same one.
        self._writer = EventsWriter(str(folder / 'events'), f'.{uuid.uuid4().hex[:8]}')
        self._writer.write_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the numbers of a step, by name."""
        for name, value in scalars.items():
            summary = scalar(name.replace('@', '_'), value)
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
