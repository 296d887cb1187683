"""The PLC handshake as plain state."""

import dataclasses

import pytest

from edge_ad.runtime.sinks.handshake import ERROR_NO_RESULT, ERROR_NOT_READY, HIGHEST_ID, Handshake
from edge_ad.runtime.verdict import Verdict, new_id


def verdict(part="1", decision="OK", **values):
    return Verdict(new_id(), 1_700_000_000_000_000_000, 0, "cam", 0, part, decision, 0.2, 0.5, **values)


def line(**options):
    taken = []
    handshake = Handshake(taken.append, **options)
    handshake.set_online(True)
    handshake.plc(enable=True)
    return handshake, taken


def test_one_part():
    handshake, taken = line()
    assert handshake.signals().trigger_ready
    handshake.plc(trigger=True, part=77)
    signals = handshake.signals()
    assert (signals.trigger_ack, signals.trigger_ready, signals.acquisition_id, taken) == (True, False, 1, ["77"])
    handshake.plc(trigger=False)
    assert not handshake.signals().trigger_ack
    before = handshake.signals().inspection_complete
    assert handshake.complete(verdict("77", "NG")) == 1
    signals = handshake.signals()
    assert signals.inspection_complete is not before
    assert (signals.result_valid, signals.result_id, signals.result.decision) == (True, 1, "NG")
    handshake.plc(ack=True)
    assert not handshake.signals().result_valid
    assert handshake.signals().counts == {"OK": 0, "NG": 1, "UNSURE": 0, "ERROR": 0}


def test_enable_and_trigger_in_one_write():
    taken = []
    handshake = Handshake(taken.append)
    handshake.set_online(True)
    handshake.plc(enable=True, trigger=True)
    assert taken == ["acquisition-1"]


def test_results_come_back_under_the_id_of_their_trigger():
    handshake, taken = line()
    for _ in range(3):
        handshake.plc(trigger=True)
        handshake.plc(trigger=False)
    assert taken == ["acquisition-1", "acquisition-2", "acquisition-3"]
    assert [handshake.complete(verdict(taken[i])) for i in (1, 0, 2)] == [2, 1, 3]


def test_a_trigger_while_not_ready_is_an_error_until_reset():
    handshake, taken = line(in_flight=1)
    handshake.plc(trigger=True)
    handshake.plc(trigger=False)
    handshake.plc(trigger=True)  # the first has no result yet
    assert (handshake.signals().acquisition_error, handshake.signals().error_code) == (True, ERROR_NOT_READY)
    assert len(taken) == 1
    handshake.plc(trigger=False, reset=True)
    assert not handshake.signals().acquisition_error
    handshake.plc(enable=False)
    handshake.plc(trigger=True)
    assert handshake.signals().acquisition_error


def test_a_trigger_without_result_is_an_error():
    now = [0.0]
    handshake, _ = line(timeout_s=1.0, in_flight=1, clock=lambda: now[0])
    handshake.plc(trigger=True)
    handshake.plc(trigger=False)
    now[0] = 1.5
    assert handshake.signals().error_code == ERROR_NO_RESULT
    assert handshake.signals().trigger_ready


def test_buffered_results_wait_for_their_acknowledgement():
    handshake, _ = line(waiting=3)
    handshake.plc(buffer=True)
    ids = [handshake.complete(verdict(str(i))) for i in range(5)]
    assert handshake.signals().overrun
    seen = []
    while handshake.signals().result_valid:
        seen.append(handshake.signals().result_id)
        handshake.plc(ack=True)
        assert not handshake.signals().result_valid
        handshake.plc(ack=False)
    assert seen == ids[:3]
    handshake.plc(reset=True)
    assert not handshake.signals().overrun


def test_unbuffered_results_replace_each_other():
    handshake, _ = line()
    first = handshake.complete(verdict())
    second = handshake.complete(verdict())
    assert handshake.signals().result_id == second == first + 1


def test_ids_begin_again_after_the_highest():
    handshake, _ = line()
    handshake._last_id = HIGHEST_ID
    assert handshake.complete(verdict()) == 1


def test_offline_takes_no_triggers_and_changes_are_told():
    handshake, taken = line()
    told = []
    handshake.changed = lambda: told.append(handshake.signals().online)
    handshake.set_online(False)
    handshake.set_online(False)
    assert told == [False]
    handshake.plc(trigger=True)
    assert taken == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        handshake.signals().online = True
