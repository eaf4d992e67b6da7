"""Scalars for TensorBoard, as bytes that a file takes whole: the writer of tensorboardX has a thread, whose errors stay
in it, and a killed process loses its last two minutes."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
from tensorboardX.record_writer import masked_crc32c

from jaxgen.files import Growing, cannot_write

_count = itertools.count()


def open_file(folder: Path) -> Growing:
    """A new file of events in `folder`."""
    name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_count)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return Growing(folder / name)


def beginning(step: int) -> bytes:
    """The head of a file whose run begins, or goes on, at `step`: later scalars of other files are dropped."""
    head = _record(Event(wall_time=time.time(), file_version="brain.Event:2"))
    if not step:
        return head
    start = SessionLog(status=SessionLog.START)
    return head + _record(Event(wall_time=time.time(), step=step, session_log=start))


def event(step: int, values: Mapping[str, float]) -> bytes:
    """The scalars of a step."""
    found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return _record(Event(wall_time=time.time(), step=step, summary=Summary(value=found)))


def _record(event: Event) -> bytes:
    """A record of a TFRecord file: length, its checksum, data, their checksum."""
    data = event.SerializeToString()
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc32c(head)) + data + struct.pack("<I", masked_crc32c(data))
