"""docs/plant.md's tables are those of the code. EDGE_AD_WRITE_DOCS=1 writes them."""

import os
import re
from pathlib import Path

import pytest

from edge_ad.runtime.sinks import modbus_map
from edge_ad.runtime.sinks import opcua as sinks_opcua
from edge_ad.runtime.sinks import prometheus as sinks_prometheus

PAGE = Path(__file__).parents[4] / "docs" / "plant.md"
BITS = {
    "online": "the inspector runs",
    "trigger_ready": "a trigger now takes a picture",
    "trigger_ack": "the trigger was taken",
    "acquisition_error": "a trigger failed, see error_code; until reset",
    "result_valid": "the result was not acknowledged yet",
    "inspection_complete": "changes with every result",
    "overrun": "more results waited than are kept; until reset",
    "ok_blocked": "golden parts are due or were judged wrong: no part gets an OK",
    "trigger_enable": "triggers are wanted",
    "trigger": "rising: take a picture",
    "buffer_results": "results wait for their acknowledgement",
    "result_ack": "rising: the result was read; falling: show the next",
    "reset": "clears acquisition_error and overrun",
}
OPCUA_TYPES = {
    **{f"Status/{name}": (kind, "read") for name, kind, _ in sinks_opcua.STATUS},
    **{f"Control/{name}": (kind, "read, write") for name, kind, _ in sinks_opcua.CONTROL},
    **{f"Result/{name}": (kind, "read") for name, kind, _ in sinks_opcua.RESULT},
    **{f"Counts/{name}": ("UInt32", "read") for name in sinks_opcua.DECISIONS},
}


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def registers(fields):
    rows = []
    for one in fields:
        place = one.address if one.size == 1 else f"{one.address}-{one.address + one.size - 1}"
        rows.append((place, f"`{one.name}`", one.kind, one.meaning))
    return table(("register", "name", "type", "meaning"), rows)


def bits(names):
    return table(("bit", "name", "meaning"), [(i, f"`{name}`", BITS[name]) for i, name in enumerate(names)])


TABLES = {
    "modbus status": registers(modbus_map.STATUS),
    "modbus status bits": bits(modbus_map.STATUS_BITS),
    "modbus control": registers(modbus_map.CONTROL),
    "modbus control bits": bits(modbus_map.CONTROL_BITS),
    "opcua": table(("node", "type", "access"), [(f"`{path}`", *how) for path, how in OPCUA_TYPES.items()]),
    "prometheus": table(
        ("metric", "type", "labels", "meaning"),
        [(f"`{name}`", kind, labels, text) for name, kind, labels, text in sinks_prometheus.METRICS],
    ),
}


@pytest.mark.skipif(not PAGE.exists(), reason="the manual is not part of an installed package")
@pytest.mark.parametrize("name", TABLES)
def test_the_manuals_tables_are_the_codes(name):
    text = PAGE.read_text(encoding="utf-8")
    block = re.compile(rf"<!-- {name} -->\n\n?(?:\|.*\n)*\n?")
    wanted = f"<!-- {name} -->\n\n{TABLES[name]}\n\n"
    assert block.search(text)
    if os.environ.get("EDGE_AD_WRITE_DOCS") == "1":
        PAGE.write_text(block.sub(lambda _: wanted, text), encoding="utf-8")
    else:
        assert wanted in text
