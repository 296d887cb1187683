"""A whole run whose PLC is a real Modbus client."""

import threading

import pytest

from edge_ad.runtime.line.line import Line
from edge_ad.runtime.sinks.modbus_map import STATUS, STATUS_BITS, STATUS_SIZE, decode


def test_a_plc_triggers_a_part_and_gets_its_result(run_settings, part_folder, wait_for):
    client_module = pytest.importorskip("pymodbus.client")
    settings = run_settings(
        {"source": {"address": str(part_folder), "repeat": True}, "trigger": {"kind": "plc", "timeout_ms": 60000}},
        sink={"modbus": {"port": 0}},
    )
    line = Line(settings, [])
    sink = next(worker.sink for worker in line.inspector.hub._workers if worker.sink.name == "modbus")
    thread = threading.Thread(target=line.run)
    thread.start()
    try:
        wait_for(lambda: sink.port)
        client = client_module.ModbusTcpClient("127.0.0.1", port=sink.port, timeout=60)
        assert client.connect()
        client.write_registers(1, [0, 321])
        client.write_coils(0, [True, True])
        seen = {}

        def result_is_valid():
            seen.update(decode(STATUS, client.read_input_registers(0, count=STATUS_SIZE).registers))
            return int(seen["status"]) >> STATUS_BITS.index("result_valid") & 1

        wait_for(result_is_valid)
        client.close()
    finally:
        line.inspector.stop()
        thread.join(60)
    assert (seen["acquisition_id"], seen["result_id"]) == (1, 1)
    assert seen["decision"] in (1, 2)
    assert len(seen["verdict"]) == 24


def test_metrics_without_page_and_drift(run_settings, part_folder):
    from edge_ad.runtime.line.line import Line

    pytest.importorskip("prometheus_client")
    settings = run_settings(
        {"name": "top", "source": {"address": str(part_folder)}}, sink={"prometheus": {"port": -1}}
    )
    line = Line(settings, [])
    line.run()
    assert b'edgead_verdicts_total{decision="OK",source="top"} 16.0' in line._metrics()
