"""Size of the artifact, all of its files."""

from .common import OfCases
from .quality import tracked


class Size(OfCases):
    """What an application would carry."""

    unit = "bytes"

    def track_artifact_size(self, case):
        return tracked("artifact_size", case)
