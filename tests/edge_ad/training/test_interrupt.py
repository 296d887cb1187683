import os
import signal
import threading

import pytest

from edge_ad.training.interrupt import interrupt_between_steps


def steps(done, *, interrupts, number=signal.SIGINT):
    """Three steps, with as many Ctrl-C, or other signals, in the middle of the second."""
    with interrupt_between_steps() as interrupt:
        for step in range(3):
            for _ in range(interrupts if step == 1 else 0):
                os.kill(os.getpid(), number)
            done.append(step)
            interrupt()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("interrupts", "whole"), [(1, [0, 1]), (2, [0])])
def test_ctrl_c_waits_for_the_end_of_the_step_and_a_second_does_not(interrupts, whole, number):
    done = []
    with pytest.raises(KeyboardInterrupt):
        steps(done, interrupts=interrupts, number=number)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert done == whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_stays():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with interrupt_between_steps() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1]


def test_another_thread_may_train():
    failed = []

    def train():
        try:
            with interrupt_between_steps() as interrupt:
                interrupt()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not failed
