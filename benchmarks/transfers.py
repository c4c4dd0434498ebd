#!/usr/bin/env python3
"""How often a command waits for the GPU, and what it copies to and fro: transfers.py OUT.json cryoloom-arguments ...

Runs one command of cryoloom in this process and counts, by the line of cryoloom that asked for it: copies between the
GPU and main memory, with their bytes, and operations whose result the CPU must wait for (a number read from a tensor,
the positions where a condition holds). All that goes through PyTorch is counted. On a machine without a GPU its kernels
are carried out on the CPU, slowly: there are no copies, and what is counted is what a GPU would be waited for at most
(tensors that stay on the CPU beside a GPU count as well).
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter as Tally
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import ROOT
from cryoloom.cli.main import main as cryoloom
from cryoloom.kernels import dispatch

SOURCE = str(ROOT / "src" / "cryoloom")
COPIES = {"aten::_to_copy", "aten::copy_"}
# operations whose result has a size or a value that the CPU needs before it can go on
WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave",
}


@dataclass
class Counter(TorchDispatchMode):
    """Counts copies and waits while it is entered.

    Attributes:
        device: type of device that is waited for; copies, bytes, waits: by place, "to" or "from" and the line of code.
    """

    device: str = "cuda"
    copies: Tally[str] = field(default_factory=Tally)
    bytes: Tally[str] = field(default_factory=Tally)
    waits: Tally[str] = field(default_factory=Tally)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out an operation and count it."""
        out = func(*args, **(kwargs or {}))
        name = func.name().partition(".")[0]
        if name in COPIES:
            source = args[1] if name == "aten::copy_" else args[0]
            there, here = source.device.type == self.device, out.device.type == self.device
            if there != here:
                at = f"{'from' if there else 'to'} {_place()}"
                self.copies[at] += 1
                self.bytes[at] += source.numel() * source.element_size()
        elif self._waits(name, args):
            self.waits[_place()] += 1
        return out

    def _waits(self, name: str, args: Any) -> bool:
        tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
        if not any(x.device.type == self.device for x in tensors):
            return False
        # a mask as index becomes the positions where it holds
        masked = name in ("aten::index", "aten::index_put_") and any(x.dtype == torch.bool for x in tensors[1:])
        return masked or name in WAITS

    def found(self) -> dict[str, Any]:
        """Totals, and the places with most of each."""
        copied = {
            way: {
                "copies": sum(n for at, n in self.copies.items() if at.startswith(way)),
                "bytes": sum(n for at, n in self.bytes.items() if at.startswith(way)),
            }
            for way in ("to", "from")
        }
        return copied | {
            "waits": sum(self.waits.values()),
            "most_copies": self.copies.most_common(20),
            "most_bytes": self.bytes.most_common(20),
            "most_waits": self.waits.most_common(20),
        }


def _place() -> str:
    """The innermost line of cryoloom that is being carried out."""
    for frame, line in traceback.walk_stack(None):
        if frame.f_code.co_filename.startswith(SOURCE):
            return f"{Path(frame.f_code.co_filename).relative_to(SOURCE)}:{line}"
    return "elsewhere"


def main() -> int:
    """Run the command and write what was counted."""
    out, *words = sys.argv[1:]
    there = torch.cuda.is_available()
    if not there:
        dispatch.on_gpu = lambda at: True
    with Counter("cuda" if there else "cpu") as counter:
        try:
            sys.argv = ["cryoloom", *words]
            status = cryoloom() or 0
        except SystemExit as exit:
            status = exit.code or 0
    Path(out).write_text(json.dumps(counter.found(), indent=1))
    return status if isinstance(status, int) else 1


if __name__ == "__main__":
    sys.exit(main())
