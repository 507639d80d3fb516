"""Small files as torch.save writes them, for the tests of the pickle reader: `python make.py` in this folder, once.

Numbers count up from 0, so that a test knows them: element i of a tensor's row-major order is start + i / 8.
"""
import collections
import os

import torch


def count(*shape, start=0, dtype=torch.float32):
    n = 1
    for extent in shape:
        n *= extent
    return (start + torch.arange(n, dtype=torch.float32).reshape(shape) / 8).to(dtype)


class Asks:
    """What a harmful file does: unpickling it with Python would run a command."""

    def __reduce__(self):
        return os.system, ("touch pickle-ran",)


def main():
    head = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    with torch.no_grad():
        for i, parameter in enumerate(head.parameters()):
            parameter.copy_(count(*parameter.shape, start=i))
    torch.save(head.state_dict(), "head.pt")
    torch.save({"confidence.weight": count(1, 40) / 8, "confidence.bias": count(1, start=2)}, "heads.pt")
    torch.save({"epoch": 3, "head": dict(head.named_parameters()), "note": "ü", "rates": [0.1, None]}, "nested.pth")
    whole = count(4, 6)
    torch.save(
        collections.OrderedDict(
            transposed=whole.t(),
            column=whole[:, 2],
            middle=whole[1:3, 1:5:2],
            half=count(3, 2, dtype=torch.float16),
            bfloat=count(3, 2, dtype=torch.bfloat16),
            scalar=torch.tensor(2.5),
            empty=torch.zeros(0, 3),
            positions=torch.arange(4),
        ),
        "layouts.bin",
    )
    torch.save({"weight": count(2, 2), "hook": Asks()}, "harmful.bin")
    torch.save({"weight": count(1, 1).expand(1000, 1000)}, "expanded.bin")
    torch.save({"weight": count(2, 2)}, "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"weight": count(2, 2), "hook": Asks()}, "harmful-4.bin", pickle_protocol=4)


main()
