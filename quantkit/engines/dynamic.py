"""Dynamic quantization: int8 with ranges taken at every call; and a session that chooses a precision per request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from quantkit.engines import config
from quantkit.engines.engine import Engine
from quantkit.engines.job import Job
from quantkit.engines.loader import Parts
from quantkit.errors import Unsupported
from quantkit.records import Case

if TYPE_CHECKING:
    from quantkit.adaptive.session import AdaptiveSession

LOG = logging.getLogger("quantkit")
VALIDATING = Parts(1000, evaluation=8000, share=0.6)  # thresholds rest on many items; the guard's ranges on few


class DynamicQuantizationEngine(Engine):
    """Quantizes weights ahead and activations at every call; the loader's items only judge the result.

    Args:
        options: those of every engine, see `Engine`.
    """

    name = "dynamic"

    def method(self, job: Job, framework: str, target: str = "cpu") -> tuple[str, dict[str, Any]]:
        """Return the method: the same for all frameworks."""
        return "int8_dynamic", {}

    @contextmanager
    def adaptive_session(
        self,
        model: nn.Module,
        validation_data: Any,
        framework: str = "pytorch",
        *,
        loss: float = 0.01,
        methods: tuple[str, ...] = ("int8_dynamic",),
    ) -> Iterator[tuple[AdaptiveSession, dict[str, Any]]]:
        """Give a session that answers each request by the cheapest precision that is sure enough, and how it was set.

        Its last precision is the network in full. The thresholds are found on three fifths of the loader, so that at
        most `loss` of the accuracy is lost (with the confidence of `cascade.Requirement`).

        Args:
            model: a classifier, outputs [n, classes]; not changed.
            validation_data: a DataLoader of items like the requests to come, with targets where there are some.
            loss: largest share of the accuracy that may be lost.
            methods: names of the pipeline's methods, cheapest first, without full precision.

        Raises:
            Unsupported: outputs are no class scores, or the toolchain cannot take the network.
            CalibrationError: too few items to certify thresholds.
        """
        from quantkit.adaptive import build
        from quantkit.adaptive.cascade import Requirement

        config.known("framework", framework, config.FRAMEWORKS)
        with Job(model, validation_data, self.settings, VALIDATING) as job:
            if not job.info.logits:
                raise Unsupported("an adaptive session needs class scores [n, classes]: confidence is read off them")
            backend = config.FORMATS[framework]
            for name in (*methods, "fp32"):
                job.quantize(name, backend)  # into the cache, with the means of a job
            cases = tuple(Case(job.model, name, backend, "cpu") for name in (*methods, "fp32"))
            with build.opened(cases, job.run.settings, LOG.info) as precisions:
                wanted = build.Wanted(cases, Requirement(loss=loss))
                session, thresholds = build.calibrated(wanted, precisions, job.items.evaluation)
                yield session, {"thresholds": thresholds, "precisions": [p.name for p in precisions]}
