"""A found plan as a method plug-in: one file that `quantkit run` takes, by QUANTKIT_PLUGINS."""

from __future__ import annotations

from pathlib import Path

from quantkit.contracts import Plan
from quantkit.files import write_atomic
from quantkit.scheme import Scheme

TEXT = '''"""{title} (written by quantkit.search; the plan fits one network only)."""

from quantkit.contracts import Plan, Prepared
from quantkit.scheme import PerChannel, PerChannelGroup, PerGroup, PerTensor, Scheme  # noqa: F401

DEFAULT = {default!r}
SCHEMES = {schemes}
LAYERS = {layers}


class Found:
    """Satisfies `contracts.Method`."""

    name, title, baseline, scheme = {name!r}, {title!r}, False, DEFAULT
    needs_calibration, profiles = {calibration!r}, ()

    def unsupported(self, model):
        return None if model.name == {model!r} else f"the plan is one for {model}: got {{model.name}}"

    def prepare(self, network, example, calibration):
        layers = {{name: None if place is None else SCHEMES[place] for name, place in LAYERS.items()}}
        return Prepared(network, Plan(DEFAULT, layers), example, calibration)


plugin = Found()
'''


def write(folder: Path, name: str, title: str, model: str, plan: Plan) -> Path:
    """Write the plug-in below a folder of plug-ins; return the file.

    Args:
        folder: what QUANTKIT_PLUGINS names.
        name: the method's name.
        model: the zoo entry that the plan is for.
    """
    schemes = list(dict.fromkeys(scheme for scheme in plan.layers.values() if scheme is not None))
    layers = {layer: None if scheme is None else schemes.index(scheme) for layer, scheme in plan.layers.items()}
    text = TEXT.format(
        name=name,
        title=title,
        model=model,
        default=plan.default,
        schemes=schemes,
        layers=layers,
        calibration=any(needs_data(scheme) for scheme in (plan.default, *schemes)),
    )
    file = folder / "methods" / f"{name}.py"
    write_atomic(file, text.encode())
    return file


def needs_data(scheme: Scheme) -> bool:
    """Return whether a scheme takes something from calibration items."""
    return scheme.activations == "static" or scheme.codes == "gptq"
