"""Webhook: every verdict as an HTTP POST, signed if wanted, again and again until the receiver has taken it.

The body is the verdict as JSON. `Idempotency-Key` is the verdict's id: the same verdict may come twice. With a
secret, `X-EdgeAD-Signature: t=<unix seconds>,v1=<hex>` holds HMAC-SHA256 over `<t>.<body>`; a receiver that also
checks the age of t can't be fooled by a recording.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.verdict import DECISIONS, Verdict

log = logging.getLogger(__name__)
REFUSED_FOR_GOOD = {400, 409, 410, 413, 422}  # of this one verdict: sending it again would hold up all others


@dataclass(frozen=True)
class WebhookConfig:
    """Where verdicts are posted."""

    url: Annotated[str, "https://host/path that takes the POST"] = ""
    secret_env: Annotated[str, "environment variable with the signing secret; unset: unsigned"] = (
        "EDGEAD_WEBHOOK_SECRET"
    )
    timeout_s: Annotated[float, "no answer for this long is a failure"] = 5.0
    ca_file: Annotated[str, "for https; empty: the system's authorities"] = ""
    decisions: Annotated[tuple[str, ...], "which verdicts are posted"] = ("NG", "UNSURE", "ERROR")
    headers: Annotated[dict[str, str], "further headers, for example an API key"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"[webhook] url is {self.url!r}", 'give "https://host/path"')
        if unknown := sorted(set(self.decisions) - set(DECISIONS)):
            raise ConfigError(f"[webhook] decisions has {', '.join(unknown)}", f"known: {', '.join(DECISIONS)}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A verdict goes where the configuration says and nowhere else."""


class WebhookSink(Sink):
    """Posts verdicts. `refused` counts those that the receiver will never take."""

    delivery: Delivery = "replayed"

    def __init__(self, config: WebhookConfig, *, clock: Callable[[], float] = time.time) -> None:
        self.config, self._clock = config, clock
        self.name = f"webhook-{urlsplit(config.url).hostname}"
        self.refused = 0
        self._secret = os.environ.get(config.secret_env, "").encode()
        context = ssl.create_default_context(cafile=config.ca_file or None)
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context))

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Posts one verdict; on return the receiver has taken it. BackendError: send it again later."""
        if verdict.decision not in self.config.decisions:
            return
        body = verdict.to_json().encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "edgead",
            "Idempotency-Key": verdict.id,
            **self.config.headers,
        }
        if self._secret:
            headers["X-EdgeAD-Signature"] = sign(self._secret, int(self._clock()), body)
        request = urllib.request.Request(self.config.url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.config.timeout_s) as answer:
                answer.read(65536)
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in REFUSED_FOR_GOOD:
                    raise BackendError(f"{self.config.url} answered {error.code}", _HINT) from error
            self.refused += 1
            log.error("%s refused verdict %s with %d; it is not sent again", self.config.url, verdict.id, error.code)
        except (OSError, http.client.HTTPException) as error:
            raise BackendError(f"{self.config.url} does not answer: {error}", _HINT) from error


_HINT = "check the receiver; verdicts are kept and sent later"


def sign(secret: bytes, at: int, body: bytes) -> str:
    """The signature header of a body sent at this time (unix seconds)."""
    return f"t={at},v1={hmac.new(secret, str(at).encode() + b'.' + body, hashlib.sha256).hexdigest()}"
