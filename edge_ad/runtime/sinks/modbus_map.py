"""The register map of EdgeAD over Modbus TCP: one table, from which the server, the client and the manual are made.

Numbers are big-endian and take two registers, high word first, where they are 32 bits wide.
"""

from __future__ import annotations

import inspect
import math
import struct
from dataclasses import dataclass
from typing import Any, Literal

from edge_ad.runtime.sinks.handshake import DECISION_CODES, Signals

Kind = Literal["bits", "u16", "u32", "f32", "ascii"]


@dataclass(frozen=True)
class Register:
    """A field of the map. size: in registers."""

    address: int
    name: str
    kind: Kind
    size: int
    meaning: str


STATUS = (
    Register(0, "status", "bits", 1, "see the status bits"),
    Register(1, "heartbeat", "u16", 1, "counts up once a second while the inspector lives"),
    Register(2, "acquisition_id", "u16", 1, "of the last trigger taken, 1 to 65535, then again 1"),
    Register(3, "error_code", "u16", 1, "0 none, 1 trigger while not ready, 2 no result in time"),
    Register(4, "result_id", "u16", 1, "the acquisition that the result below belongs to"),
    Register(5, "decision", "u16", 1, "0 none, 1 OK, 2 NG, 3 UNSURE, 4 ERROR"),
    Register(6, "score", "f32", 2, "image score, higher is more anomalous; NaN where there is none"),
    Register(8, "threshold", "f32", 2, "limit in force; NaN where there is none"),
    Register(10, "defects", "u16", 1, "number of defects found"),
    Register(11, "area", "u32", 2, "their total area, pixels of the frame"),
    Register(13, "latency", "u16", 1, "capture to decision, tenths of a millisecond"),
    Register(14, "box_x", "u16", 1, "largest defect: left edge, pixels of the frame"),
    Register(15, "box_y", "u16", 1, "top edge"),
    Register(16, "box_width", "u16", 1, "width; 0 where there is no defect"),
    Register(17, "box_height", "u16", 1, "height"),
    Register(18, "verdict", "ascii", 12, "the verdict's id, 24 characters, as in the store"),
    Register(30, "ok_count", "u32", 2, "parts since the start"),
    Register(32, "ng_count", "u32", 2, "parts since the start"),
    Register(34, "unsure_count", "u32", 2, "parts since the start"),
    Register(36, "error_count", "u32", 2, "parts since the start"),
)
CONTROL = (
    Register(0, "control", "bits", 1, "see the control bits"),
    Register(1, "part", "u32", 2, "the PLC's number of the part to be triggered; 0 for none"),
)
STATUS_BITS = (
    "online",
    "trigger_ready",
    "trigger_ack",
    "acquisition_error",
    "result_valid",
    "inspection_complete",
    "overrun",
    "ok_blocked",
)
CONTROL_BITS = ("trigger_enable", "trigger", "buffer_results", "result_ack", "reset")
STATUS_SIZE = STATUS[-1].address + STATUS[-1].size
CONTROL_SIZE = CONTROL[-1].address + CONTROL[-1].size
MIRROR = 100  # holding register where the status starts once more, for PLCs that read only holding registers


def status_values(signals: Signals, heartbeat: int) -> dict[str, int | float | str]:
    """The fields of STATUS by name."""
    verdict = signals.result
    box = max(verdict.boxes, key=lambda one: one.area) if verdict and verdict.boxes else None
    bits = sum(bool(getattr(signals, name)) << place for place, name in enumerate(STATUS_BITS))
    values: dict[str, int | float | str] = {
        "status": bits,
        "heartbeat": heartbeat & 0xFFFF,
        "acquisition_id": signals.acquisition_id,
        "error_code": signals.error_code,
        "result_id": signals.result_id,
        "decision": DECISION_CODES[verdict.decision] if verdict else 0,
        "score": math.nan if verdict is None or verdict.score is None else verdict.score,
        "threshold": math.nan if verdict is None or verdict.threshold is None else verdict.threshold,
        "defects": len(verdict.boxes) if verdict else 0,
        "area": verdict.area if verdict else 0,
        "latency": round(10 * verdict.latency_ms.get("total", 0.0)) if verdict else 0,
        "verdict": verdict.id if verdict else "",
    }
    for name in ("x", "y", "width", "height"):
        values[f"box_{name}"] = getattr(box, name) if box else 0
    for name in ("ok", "ng", "unsure", "error"):
        values[f"{name}_count"] = signals.counts.get(name.upper(), 0)
    return values


def encode(fields: tuple[Register, ...], values: dict[str, int | float | str]) -> list[int]:
    """The registers of these fields, whole numbers limited to what their field can hold."""
    words = [0] * (fields[-1].address + fields[-1].size)
    for one in fields:
        packed = _pack(one, values.get(one.name, 0))
        words[one.address : one.address + one.size] = struct.unpack(f">{one.size}H", packed)
    return words


def decode(fields: tuple[Register, ...], words: list[int]) -> dict[str, int | float | str]:
    """The fields by name; the inverse of `encode`, for PLC simulators and tests."""
    values: dict[str, int | float | str] = {}
    for one in fields:
        packed = struct.pack(f">{one.size}H", *words[one.address : one.address + one.size])
        if one.kind == "ascii":
            values[one.name] = packed.rstrip(b"\0").decode("ascii")
        else:
            values[one.name] = struct.unpack({"f32": ">f", "u32": ">I"}.get(one.kind, ">H"), packed)[0]
    return values


def _pack(one: Register, value: int | float | str) -> bytes:
    if one.kind == "ascii":
        return str(value).encode("ascii", "replace")[: 2 * one.size].ljust(2 * one.size, b"\0")
    if one.kind == "f32":
        try:
            return struct.pack(">f", value)
        except OverflowError:  # beyond float32
            return struct.pack(">f", math.copysign(math.inf, float(value)))
    limit = 0xFFFFFFFF if one.kind == "u32" else 0xFFFF
    return struct.pack(">I" if one.kind == "u32" else ">H", min(max(int(value), 0), limit))


def unit_argument(client: Any, unit: int) -> dict[str, int]:
    """The unit (device) number for a call of a pymodbus client, which renamed the argument in 3.10."""
    names = inspect.signature(client.read_coils).parameters
    return {"device_id" if "device_id" in names else "slave": unit}
