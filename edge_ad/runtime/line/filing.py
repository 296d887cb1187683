"""What a person says of a part on the page, filed with the artifact: misses, and good parts that were rejected."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, Protocol

from edge_ad.artifact import FEEDBACK
from edge_ad.config import to_plain
from edge_ad.data.feedback import Known, add, entries, forget
from edge_ad.errors import EdgeAdError
from edge_ad.runtime.engines.loaded import Engine
from edge_ad.runtime.settings import StationSettings

log = logging.getLogger(__name__)


class Station(Protocol):
    """What is needed of a station."""

    @property
    def settings(self) -> StationSettings: ...

    @property
    def engine(self) -> Engine: ...


def file_label(
    station: Station, id: str, decision: str, label: Literal["good", "defect"] | None, picture: Path | None
) -> str:
    """What was filed, for people; "" where there was nothing to file.

    id, decision: the verdict's. label: None takes back what was filed. picture: as the line kept it, straightened and
    cut; None where it kept none.
    """
    artifact = station.engine.path
    try:
        for kind in FEEDBACK:
            for one in entries(artifact, kind):
                if one.known.verdict == id:
                    forget(artifact, one.name)
        missed = decision == "OK" and label == "defect"
        if not missed and not (decision == "NG" and label == "good"):
            return ""
        if picture is None:
            return (
                "No picture was kept of this part: file one with `edgead feedback --missed`"
                if missed
                else "No picture was kept of this part: the next training can't learn it"
            )
        place = station.settings
        tables = {"frame": to_plain(place.frame), "policy": {"regions": to_plain(place.policy.regions)}}
        known = Known(place.product, tables, straightened=True, by="operator page", verdict=id)
        entry = add(artifact, "bad" if missed else "good", picture, known, name=id)
    except EdgeAdError as error:
        log.error("the part %s could not be filed: %s", id, error.message)
        return f"Not filed with the artifact: {error.message}"
    if missed:
        return f"Filed as {entry.name}: every new threshold, graph and model must catch it"
    return f"Filed as {entry.name}: the next training learns it"
