"""Message channels: pipes between processes, or queues inside one process."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import BinaryIO, Protocol

from swiftai_nb.engine.messages import Message
from swiftai_nb.engine.protocol import Frame, TruncatedFrameError, decode, encode


class ChannelClosed(Exception):  # noqa: N818 - an end, not an error
    """The other side has closed the channel, or this side did."""


class Channel(Protocol):
    """One end of a connection. `send` may be called from any thread, `receive` from one."""

    def send(self, message: Message) -> None:
        """Sends a message, blocking while the other side does not read.

        Raises:
            ChannelClosed: the other side has closed.
            ProtocolError: the message exceeds the limits.
        """
        ...

    def receive(self) -> Message:
        """Blocks until the next message.

        Raises:
            ChannelClosed: no further message will come.
            ProtocolError: the bytes are not a message; the channel is unusable from then on.
        """
        ...

    def close(self) -> None:
        """Ends the connection for both sides; may be called twice, from any thread."""
        ...


class StreamChannel:
    """A channel over two binary streams, unbuffered or buffered.

    Args:
        reader: frames come from here.
        writer: frames go there.
    """

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader, self._writer = reader, writer
        self._write_lock = threading.Lock()

    def send(self, message: Message) -> None:
        """See `Channel.send`."""
        chunks = encode(message)
        try:
            with self._write_lock:
                for chunk in chunks:
                    self._write(chunk)
                self._writer.flush()
        except (OSError, ValueError) as error:  # ValueError: this side closed the stream
            raise ChannelClosed from error

    def _write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            written = self._writer.write(rest)  # a raw pipe may take a part only
            rest = rest[written:]

    def receive(self) -> Message:
        """See `Channel.receive`."""
        prefix = bytes(self._read(Frame.SIZE, at_end_ok=True))
        if not prefix:
            raise ChannelClosed
        frame = Frame(prefix)
        header = self._read(frame.header_bytes)
        return decode(header, self._read(frame.body_bytes))

    def _read(self, size: int, *, at_end_ok: bool = False) -> bytearray:
        # Grows as bytes arrive, so that a false length allocates nothing.
        data = bytearray()
        while len(data) < size:
            try:
                chunk = self._reader.read(min(size - len(data), 2**20))
            except (OSError, ValueError) as error:
                raise ChannelClosed from error
            if not chunk:
                if at_end_ok and not data:
                    break
                raise TruncatedFrameError(f"the stream ended after {len(data)} of {size} bytes")
            data += chunk
        return data

    def close(self) -> None:
        """See `Channel.close`; closes the writing side, which ends the other side."""
        with contextlib.suppress(OSError, ValueError):
            self._writer.close()

    def close_reader(self) -> None:
        """Closes the reading side, once nothing more is to be received."""
        with contextlib.suppress(OSError, ValueError):
            self._reader.close()


class MemoryChannel:
    """One end of an in-memory pair; see `memory_channel_pair`."""

    def __init__(
        self,
        inbox: queue.SimpleQueue[Message | None],
        outbox: queue.SimpleQueue[Message | None],
        closed: threading.Event,
    ) -> None:
        self._inbox, self._outbox, self._closed = inbox, outbox, closed

    def send(self, message: Message) -> None:
        """See `Channel.send`; never blocks."""
        if self._closed.is_set():
            raise ChannelClosed
        self._outbox.put(message)

    def receive(self) -> Message:
        """See `Channel.receive`."""
        message = self._inbox.get()
        if message is None:
            self._inbox.put(None)  # for the next call
            raise ChannelClosed
        return message

    def close(self) -> None:
        """See `Channel.close`."""
        if not self._closed.is_set():
            self._closed.set()
            self._inbox.put(None)
            self._outbox.put(None)


def memory_channel_pair() -> tuple[MemoryChannel, MemoryChannel]:
    """Two connected channels inside one process."""
    first: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    second: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    closed = threading.Event()
    return MemoryChannel(first, second, closed), MemoryChannel(second, first, closed)
