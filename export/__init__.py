"""From a trained detector to graphs and engines. Called, it is `edge_ad.pipeline.export.export`."""

from edge_ad.verbs import callable_package

callable_package(__name__)
