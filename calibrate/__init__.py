"""From scores of good parts to ranges and thresholds. Called, it is `edge_ad.pipeline.calibrate.calibrate`."""

from edge_ad.verbs import callable_package

callable_package(__name__)
