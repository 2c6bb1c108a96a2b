"""Memory of the device and of this process, asked of the driver and the system.

Knows no cache: what the cache holds is `CacheUsage`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

import psutil
import torch

CUDA_CONTEXT_BYTES = 450 * 2**20
"""What the driver, the libraries and their workspaces take before the first tensor."""

WORKSPACE_BYTES = 72 * 2**20
"""Of that, what torch counts among its tensors: 64 MiB of workspaces for matrix products on an H100
with torch 2.11, and what other libraries ask for beside them."""

DRIVER_BYTES = CUDA_CONTEXT_BYTES - WORKSPACE_BYTES
"""Of that, what torch knows nothing of: a cap on its tensors leaves this out."""


@dataclass(frozen=True)
class MemoryReading:
    """Bytes at one moment. On a CPU the device is the machine's memory.

    Args:
        device_name: As the driver calls it.
        device_total_bytes: All there is.
        device_free_bytes: Free for anybody.
        process_bytes: Held by this process: reserved by torch on a GPU, resident on a CPU.
        allowed_bytes: Most that this process may take of the device; None: all there is.
    """

    device_name: str
    device_total_bytes: int
    device_free_bytes: int
    process_bytes: int
    allowed_bytes: int | None = None

    @property
    def usable_bytes(self) -> int:
        """Free for this process."""
        if self.allowed_bytes is None:
            return self.device_free_bytes
        return max(0, min(self.device_free_bytes, self.allowed_bytes - self.process_bytes))

    def after_freeing(self, num_bytes: int) -> MemoryReading:
        """The same device once this process has given back so much."""
        return replace(
            self,
            device_free_bytes=self.device_free_bytes + num_bytes,
            process_bytes=self.process_bytes - num_bytes,
        )


def read_memory(*devices: torch.device) -> MemoryReading:
    """Ask the driver (NVML) or the system how much memory there is, and how much is ours.

    Args:
        devices: CPU or CUDA devices; the sums over several of them.
    """
    readings = [_read(device) for device in devices]
    if len(readings) == 1:
        return readings[0]
    allowed = [r.allowed_bytes or r.device_total_bytes for r in readings]
    is_capped = any(r.allowed_bytes is not None for r in readings)
    return MemoryReading(
        " + ".join(reading.device_name for reading in readings),
        sum(reading.device_total_bytes for reading in readings),
        sum(reading.device_free_bytes for reading in readings),
        sum(reading.process_bytes for reading in readings),
        sum(allowed) if is_capped else None,
    )


def _read(device: torch.device) -> MemoryReading:
    if device.type == "cuda":
        total, free = _ask_driver(device)
        # torch's own figure: under Windows the driver does not tell what each process holds
        held = torch.cuda.memory_reserved(device)
        share = torch.cuda.get_per_process_memory_fraction(device)
        allowed = int(share * total) + DRIVER_BYTES if share < 1 else None
        return MemoryReading(torch.cuda.get_device_name(device), total, free, held, allowed)
    memory = psutil.virtual_memory()
    process = psutil.Process().memory_info().rss
    name = platform.processor() or platform.machine()
    return MemoryReading(f"CPU ({name})", memory.total, memory.available, process)


def bytes_for_tensors(device: torch.device) -> int:
    """Bytes that new tensors can take on a GPU: free, or held by torch without use.

    Args:
        device: A CUDA device.
    """
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    allowed = round(total * torch.cuda.get_per_process_memory_fraction(device)) - reserved
    return min(free, allowed) + reserved - torch.cuda.memory_allocated(device)


def _ask_driver(device: torch.device) -> tuple[int, int]:
    """Total and free bytes of a GPU, from NVML or, where that does not answer, from CUDA."""
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        pynvml.nvmlShutdown()
        return memory.total, memory.free
    except pynvml.NVMLError:
        free, total = torch.cuda.mem_get_info(device)
        return total, free
