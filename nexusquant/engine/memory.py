"""Memory of the device and of this process, asked of the driver and the system.

Knows no cache: what the cache holds is `CacheUsage`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True)
class MemoryReading:
    """Bytes at one moment. On a CPU the device is the machine's memory.

    Args:
        device_name: As the driver calls it.
        device_total_bytes: All there is.
        device_free_bytes: Free for anybody.
        process_bytes: Held by this process: reserved by torch on a GPU, resident on a CPU.
    """

    device_name: str
    device_total_bytes: int
    device_free_bytes: int
    process_bytes: int


def read_memory(device: torch.device) -> MemoryReading:
    """Ask the driver (NVML) or the system how much memory there is, and how much is ours.

    Args:
        device: A CPU or CUDA device.
    """
    if device.type == "cuda":
        total, free = _ask_driver(device)
        return MemoryReading(
            torch.cuda.get_device_name(device), total, free, torch.cuda.memory_reserved(device)
        )
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
