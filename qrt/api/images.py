"""PNG and JPEG images as the arrays that a model's input wants: one, or a folder of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qrt.api.arguments import Argument
from qrt.errors import InputError

if TYPE_CHECKING:
    import onnx

    from qrt.ptq.samples import SampleFiles

Array = np.ndarray[Any, Any]

SUFFIXES = (".png", ".jpg", ".jpeg")
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Preprocessing:
    """(pixel * scale - mean) / std on pixels 0..255; None is the default for the input's dtype.

    mean, std: one number, or one per channel.
    """

    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


PLAIN = Preprocessing()


@dataclass(frozen=True)
class ImageAxes:
    """Which axes of an input are height, width and channels (None: no such axis)."""

    height: int
    width: int
    channel: int | None


def read_image(path: Path, argument: Argument, dims: Sequence[Any], how: Preprocessing) -> Array:
    """The image at `path` as one input of shape `dims`: resized (bilinear), normalised, laid out.

    Height and width that `dims` leaves open are the image's own; any other open dimension is 1.
    Raises InputError when the input does not look like an image, or pillow is missing.
    """
    axes = image_axes(argument, dims)
    batch = [size for axis, size in enumerate(dims) if axis < axes.height and axis != axes.channel]
    if any(isinstance(size, int) and size != 1 for size in batch):
        raise InputError(
            f"input {argument.name!r} takes {batch[0]} images at once, got one image file;"
            " stack them in an .npy file"
        )
    channels = 1 if axes.channel is None else int(dims[axes.channel])
    height, width = dims[axes.height], dims[axes.width]
    pixels = read_pixels(path, channels, height, width)
    assert argument.dtype is not None
    values = normalise(pixels, argument, how)
    if axes.channel is None:
        values = values[:, :, 0]
    elif axes.channel < axes.height:
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values.reshape((1,) * len(batch) + values.shape))


class ImageFolder:
    """The images below a folder, in the order of their paths, as feeds of one run each.

    See `Preprocessing` for `scale`, `mean` and `std`. `dims` gives sizes of dimensions that the
    model names, `most` limits how many images are taken. Raises InputError when there are none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        scale: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dims: Mapping[str, int] | None = None,
        most: int | None = None,
    ) -> None:
        self._how = Preprocessing(
            scale, None if mean is None else tuple(mean), None if std is None else tuple(std)
        )
        self._dims = dict(dims or {})
        self._files = image_files(path)[:most]
        if not self._files:
            raise InputError(f"'{path}' holds no PNG or JPEG image")

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._files)

    def feeds(self, inputs: Sequence[onnx.ValueInfoProto]) -> Iterator[dict[str, Array]]:
        """A feed per image, for a model of one input. Raises InputError for one that has more, and
        for an input that does not look like an image."""
        from onnx import helper

        if len(inputs) != 1:
            raise InputError(
                f"images are for models of one input, this one has {len(inputs)}:"
                " give .npz files with arrays named like the inputs"
            )
        tensor = inputs[0].type.tensor_type
        dims = tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or None
            for d in tensor.shape.dim
        )
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        argument = Argument(inputs[0].name, dtype, dims)
        sized = [self._dims.get(d, d) if isinstance(d, str) else d for d in dims]
        for file in self._files:
            yield {argument.name: read_image(file, argument, sized, self._how)}


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """The images below a folder, sorted."""
    files = (file for file in Path(path).rglob("*") if file.suffix.lower() in SUFFIXES)
    return sorted(file for file in files if file.is_file())


def open_samples(
    path: str | os.PathLike[str],
    most: int | None = None,
    how: Preprocessing = PLAIN,
    dims: Mapping[str, int] | None = None,
) -> SampleFiles | ImageFolder:
    """The samples that a path names: a folder of images, or what `SampleFiles` takes."""
    from qrt.ptq.samples import SampleFiles

    place = Path(path)
    if place.is_dir() and not any(place.glob("*.npz")) and image_files(place):
        return ImageFolder(place, scale=how.scale, mean=how.mean, std=how.std, dims=dims, most=most)
    return SampleFiles(path, most)


def image_axes(argument: Argument, dims: Sequence[Any]) -> ImageAxes:
    """Recognise NCHW, NHWC, CHW, HWC (1 or 3 channels) or HW; raises InputError for others."""
    rank = len(dims)
    if rank == 2:
        return ImageAxes(0, 1, None)
    if rank in (3, 4):
        first = rank - 3
        if dims[first] in _CHANNELS:
            return ImageAxes(first + 1, first + 2, first)
        if dims[first + 2] in _CHANNELS:
            return ImageAxes(first, first + 1, first + 2)
    raise InputError(
        f"input {argument.name!r} of {argument.shown_shape} does not look like an image: it must be"
        " NCHW or NHWC with 1 or 3 channels; give an .npy file instead"
    )


def read_pixels(path: Path, channels: int, height: Any, width: Any) -> Array:
    """uint8 (height, width, channels); a size that is not a number is the image's own."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise InputError(
            f"reading the image '{path}' needs pillow, which is not installed:"
            " pip install pillow, or give an .npy file"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.mode.startswith(("I", "F")):
                    raise InputError(
                        f"'{path}' has {image.mode} pixels; images must have 8 bits a channel"
                    )
                upright = ImageOps.exif_transpose(image) or image
                plain = upright.convert("L" if channels == 1 else "RGB")
                size = (
                    width if isinstance(width, int) else plain.width,
                    height if isinstance(height, int) else plain.height,
                )
                if plain.size != size:
                    plain = plain.resize(size, Image.Resampling.BILINEAR)
    except InputError:
        raise
    # pillow's decoders raise many kinds for damaged files
    except Exception as error:
        raise InputError(f"'{path}' is not a readable PNG or JPEG image: {error}") from error
    return np.asarray(plain, np.uint8).reshape(plain.height, plain.width, channels)


def normalise(pixels: Array, argument: Argument, how: Preprocessing) -> Array:
    """uint8 pixels (height, width, channels) as the input's dtype, by `how`.

    Computed in float64 and rounded once. Raises InputError for integers that do not fit.
    """
    assert argument.dtype is not None
    channels = pixels.shape[2]
    mean = _per_channel(how.mean or (0.0,), channels, "mean")
    std = _per_channel(how.std or (1.0,), channels, "std")
    if not std.all():
        raise InputError("--std must not be 0")
    integer = argument.dtype.kind in "iu"
    scale = how.scale if how.scale is not None else 1.0 if integer else 1 / 255
    values = (pixels * np.float64(scale) - mean) / std
    if not integer:
        return values.astype(argument.dtype)
    values = np.rint(values)
    limits = np.iinfo(argument.dtype)
    if values.min() < limits.min or values.max() > limits.max:
        raise InputError(
            f"input {argument.name!r} is {argument.dtype}, the image's pixels become"
            f" {values.min():g} to {values.max():g}; choose --mean, --scale or --std"
            " (--mean 128 makes int8 of pixels)"
        )
    return values.astype(argument.dtype)


def _per_channel(values: Sequence[float], channels: int, option: str) -> Array:
    if len(values) not in (1, channels):
        raise InputError(
            f"--{option} must have one number for each of {channels} channels, got {len(values)}"
        )
    return np.array(values, np.float64)
