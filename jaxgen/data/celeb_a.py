"""CelebA, 162,770 + 19,867 + 19,962 aligned faces of 178x218 pixels with 40 attributes.

Z. Liu, P. Luo, X. Wang, X. Tang (2015), arXiv:1411.7766; for research that is not commercial.
"""

from __future__ import annotations

from jaxgen.data import tfds_images
from jaxgen.data.dataset import Dataset


def load(
    split: str = "train",
    *,
    size: int | None = 64,
    attributes: bool = False,
    data_dir: str | None = None,
    streaming: bool | None = None,
) -> Dataset:
    """uint8 [N, size, size, 3]: the middle 178x178 pixels resized (None: 218x178). Splits: train, validation, test.

    With `attributes` the condition is int32 [N, 40] of 0 and 1, named by `classes`; without, there is none. `data_dir`
    and `streaming` as in `tfds_images.load`.
    """
    labels = "attributes" if attributes else None
    return tfds_images.load("celeb_a", split, size=size, labels=labels, data_dir=data_dir, streaming=streaming)
