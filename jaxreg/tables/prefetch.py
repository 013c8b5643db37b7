"""Prefetching: a thread makes items before they are asked for."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")
PREFETCHED = 2


def prefetch(items: Iterator[T], depth: int = PREFETCHED) -> Iterator[T]:
    """The same items; a thread makes up to `depth` of them before they are asked for."""
    made: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[bool, object]) -> None:
        while not stopped.is_set():
            try:
                return made.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((True, item))
                if stopped.is_set():
                    return
            put((False, None))
        except BaseException as error:  # raised again where the items are used
            put((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            more, item = made.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        stopped.set()
        thread.join()
