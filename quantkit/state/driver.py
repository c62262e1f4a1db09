"""What the drivers of GPUs hold for this process, as the framework that uses them counts it."""

from __future__ import annotations

import sys


def driver_bytes() -> int | None:
    """Return the bytes that GPU frameworks of this process have taken from their drivers; None where none is in use.

    The largest so far where the framework keeps that (MLX, CUDA), those of now where it does not (Metal in PyTorch).
    Nothing is imported for it: a framework that is not loaded holds nothing.
    """
    found = [count for count in (_mlx(), _metal(), _cuda()) if count is not None]
    return sum(found) if found else None


def _mlx() -> int | None:
    core = sys.modules.get("mlx.core")
    return core.get_peak_memory() if core is not None else None


def _metal() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.backends.mps.is_available():
        return None
    return torch.mps.driver_allocated_memory()


def _cuda() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
