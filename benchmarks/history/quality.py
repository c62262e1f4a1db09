"""Quality as error, since less is better to asv: wrong items, loss per token, and the error of the outputs."""

from quantkit.history.figures import KINDS, value

from .common import OfCases, result_of


def tracked(figure, case):
    """Return a figure of a case; nan, which asv takes for a skip, where the case has none."""
    found = value(KINDS[figure], result_of(case))
    return found[0] if found else float("nan")


class Quality(OfCases):
    """Models that are judged by right and wrong items: the share of wrong ones."""

    unit = ""

    def track_error(self, case):
        return tracked("error", case)


class Loss(OfCases):
    """Models that are judged by a loss: its mean over the items."""

    unit = "nat"

    def track_loss(self, case):
        return tracked("loss", case)


class Fidelity(OfCases):
    """The outputs' error over the outputs of the original network: 10^(-SQNR / 20)."""

    unit = ""

    def track_relative_error(self, case):
        return tracked("relative_error", case)
