"""What a signal does while something is begun that must not be left half."""

import signal
import threading
from collections.abc import Iterator

import pytest

from melano_tf.child_processes import interrupts_later
from melano_tf.run import Terminated


@pytest.fixture(autouse=True)
def hears() -> Iterator[None]:
    """Both signals, whatever the tests' own shell turned off."""

    def ended(number: int, frame: object) -> None:
        raise Terminated

    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, ended)
    yield
    for number, does in before:
        signal.signal(number, does)


@pytest.mark.parametrize("number, kind", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_is_heard_once_what_was_begun_stands(
    number: signal.Signals, kind: type[BaseException], fails: bool
) -> None:
    """Also where that fails: of the signal, or not."""
    done, before = [], signal.getsignal(number)
    with pytest.raises(kind) as raised, interrupts_later():
        signal.raise_signal(number)
        done.append("begun")
        if fails:
            raise RuntimeError("its processes were interrupted")
    assert done == ["begun"] and type(raised.value) is kind
    assert signal.getsignal(number) is before


def test_a_second_signal_is_heard_at_once() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_later():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            done.append("begun")
    assert done == ["begun"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_ends_a_process_or_is_passed_over_does_so_there_too() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_later():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.raise_signal(signal.SIGINT)


def test_another_thread_than_the_main_one_begins_things_too() -> None:
    done = []

    def begins() -> None:
        with interrupts_later():
            done.append("begun")

    thread = threading.Thread(target=begins)
    thread.start()
    thread.join()
    assert done == ["begun"]
