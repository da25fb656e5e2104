"""Lets ``import torchvision`` work beside a CPU build of torch, in every process of the environment.

torchvision has no CPU build. Its compiled part cannot load there, which it tolerates, but it then registers fake
kernels for two operators that nobody has declared, and fails. This module is imported at interpreter start (by the
``.pth`` file beside it), waits until somebody imports torchvision, and declares the two. The operators themselves do
not work; reading and resizing pictures does.
"""

import sys

KEPT = []  # the declarations last as long as the object that made them


class Finder:
    """Finds nothing; acts once, when torchvision is looked for."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare()


def declare():
    import torch

    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)


sys.meta_path.insert(0, Finder())
