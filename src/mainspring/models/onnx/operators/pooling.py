"""Pooling over windows, over regions and over everything."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Table, standard
from mainspring.models.onnx.operators.linear import interleave, pads_of, spatial

MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class Windows:
    """Where the windows of a pooling node lie."""

    def __init__(self, call: Call, x: Tensor) -> None:
        self.kernel = list(call.attributes["kernel_shape"])
        dims = len(self.kernel)
        self.strides, self.dilations = spatial(call, "strides", dims), spatial(call, "dilations", dims)
        sizes = list(x.shape[2:])
        self.before, self.given_after = pads_of(call, sizes, self.kernel, self.strides, self.dilations)
        self.after = list(self.given_after)
        if call.get("ceil_mode", 0):
            for n, size in enumerate(sizes):
                span = (self.kernel[n] - 1) * self.dilations[n] + 1
                padded = size + self.before[n] + self.after[n]
                count = -(-(padded - span) // self.strides[n]) + 1
                if (count - 1) * self.strides[n] >= size + self.before[n]:
                    count -= 1  # a window that begins in the padding is none
                self.after[n] += max((count - 1) * self.strides[n] + span - padded, 0)

    def padded(self, x: Tensor, value: float) -> Tensor:
        """x with all that windows reach."""
        return F.pad(x, interleave(self.before, self.after), value=value)

    def of(self, padded: Tensor) -> Tensor:
        """The windows [N, C, *out, *kernel], a view."""
        for n, (k, s, d) in enumerate(zip(self.kernel, self.strides, self.dilations, strict=True)):
            padded = padded.unfold(2 + n, (k - 1) * d + 1, s)[..., ::d]
        return padded

    @property
    def inside(self) -> list[int]:
        """The axes of a window."""
        return list(range(-len(self.kernel), 0))


def max_pool(call: Call, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """The largest element of each window, and where in x it is."""
    windows, dims, dtype = Windows(call, x), x.ndim - 2, x.dtype
    wide = x if x.is_floating_point() else x.float()  # 8-bit integers, exactly
    padded = windows.padded(wide, float("-inf"))
    pool = MAX_POOLS[dims]
    if not call.wants(1):
        found: Tensor = pool(padded, windows.kernel, windows.strides, 0, windows.dilations)
        return found.to(dtype)
    values, flat = pool(padded, windows.kernel, windows.strides, 0, windows.dilations, return_indices=True)
    sizes, index = list(x.shape[2:]), torch.zeros_like(flat)
    places = torch.unravel_index(flat, padded.shape[2:])
    order = range(dims) if not call.get("storage_order", 0) else reversed(range(dims))
    for n in order:
        index = index * sizes[n] + places[n] - windows.before[n]
    plane = torch.arange(math.prod(x.shape[:2]), device=x.device) * math.prod(sizes)
    return values.to(dtype), index + plane.reshape(*x.shape[:2], *[1] * dims)


def average_pool(call: Call, x: Tensor) -> Tensor:
    """The mean of each window: of what is inside x, or with count_include_pad of its padding, too."""
    windows = Windows(call, x)
    total = windows.of(windows.padded(x, 0.0)).sum(windows.inside)
    ones = x.new_ones(1, 1, *x.shape[2:])
    if call.get("count_include_pad", 0):
        ones = F.pad(ones, interleave(windows.before, windows.given_after), value=1.0)
        beyond = [a - g for a, g in zip(windows.after, windows.given_after, strict=True)]
        ones = F.pad(ones, interleave([0] * len(beyond), beyond))
    else:
        ones = windows.padded(ones, 0.0)
    return total / windows.of(ones).sum(windows.inside)


def lp_pool(call: Call, x: Tensor) -> Tensor:
    """The p-norm of each window."""
    windows, p = Windows(call, x), call.get("p", 2)
    return windows.of(windows.padded(x, 0.0)).abs().pow(p).sum(windows.inside).pow(1 / p)


def global_average(call: Call, x: Tensor) -> Tensor:
    """Mean over all spatial axes."""
    return x.mean(list(range(2, x.ndim)), keepdim=True)


def global_max(call: Call, x: Tensor) -> Tensor:
    """Maximum over all spatial axes."""
    return x.amax(list(range(2, x.ndim)), keepdim=True)


def global_lp(call: Call, x: Tensor) -> Tensor:
    """p-norm over all spatial axes."""
    p = call.get("p", 2)
    return x.abs().pow(p).sum(list(range(2, x.ndim)), keepdim=True).pow(1 / p)


def max_unpool(call: Call, x: Tensor, indices: Tensor, shape: Tensor | None = None) -> Tensor:
    """Put each element where MaxPool found it, 0 elsewhere."""
    kernel = list(call.attributes["kernel_shape"])
    dims = len(kernel)
    strides, pads = spatial(call, "strides", dims), spatial(call, "pads", 2 * dims, 0)
    plain = [
        (size - 1) * s + k - pads[n] - pads[n + dims]
        for n, (size, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    inferred = [*x.shape[:2], *plain]
    made = x.new_zeros(math.prod(inferred)).scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(inferred)
    if shape is None:
        return made
    wanted = [int(v) for v in shape.tolist()]
    return F.pad(made, interleave([0] * dims, [w - p for w, p in zip(wanted[2:], plain, strict=True)]))


def roi_align(call: Call, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Mean or maximum of points sampled inside each cell of a region (He et al. 2017, arXiv 1703.06870)."""
    height, width = call.get("output_height", 1), call.get("output_width", 1)
    ratio, scale = call.get("sampling_ratio", 0), call.get("spatial_scale", 1.0)
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half = call.get("coordinate_transformation_mode", default) == "half_pixel"
    largest = call.get("mode", "avg") == "max"
    made = []
    for roi, index in zip(rois, batch.tolist(), strict=True):
        x1, y1, x2, y2 = (float(v) * scale - (0.5 if half else 0.0) for v in roi)
        wide, high = x2 - x1, y2 - y1
        if not half:
            wide, high = max(wide, 1.0), max(high, 1.0)
        rows, columns = (ratio or math.ceil(high / height)), (ratio or math.ceil(wide / width))
        ys = y1 + (torch.arange(height * rows, device=x.device) + 0.5) * (high / height / rows)
        xs = x1 + (torch.arange(width * columns, device=x.device) + 0.5) * (wide / width / columns)
        made.append(_sample(x[index], ys, xs, (height, rows, width, columns), largest))
    empty = x.new_zeros(0, x.shape[1], height, width)
    return torch.stack(made) if made else empty


def _sample(x: Tensor, ys: Tensor, xs: Tensor, cells: tuple[int, int, int, int], largest: bool) -> Tensor:
    """Bilinear samples of x [C, H, W], joined in each cell."""
    (y0, y1, fy, inside_y), (x0, x1, fx, inside_x) = _corners(ys, x.shape[1]), _corners(xs, x.shape[2])
    corners = [
        x[:, y][:, :, w] * (wy[:, None] * wx)
        for y, wy in ((y0, 1 - fy), (y1, fy))
        for w, wx in ((x0, 1 - fx), (x1, fx))
    ]
    inside = (inside_y[:, None] & inside_x).to(x.dtype)
    height, rows, width, columns = cells
    shape = (x.shape[0], height, rows, width, columns)
    if largest:  # of the four weighted corners of all points, as ONNX defines it
        return torch.stack([c * inside for c in corners]).amax(0).reshape(shape).amax((2, 4))
    total: Tensor = torch.stack(corners).sum(0) * inside
    return total.reshape(shape).mean((2, 4))


def _corners(at: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inside = (at >= -1) & (at <= size)
    low = at.clamp(0, size - 1)
    first = low.floor().long()
    return first, (first + 1).clamp(max=size - 1), low - first, inside


def max_roi_pool(call: Call, x: Tensor, rois: Tensor) -> Tensor:
    """Maximum of each cell of a region (Girshick 2015, arXiv 1504.08083)."""
    height, width = call.attributes["pooled_shape"]
    scale, made = call.get("spatial_scale", 1.0), []
    for index, *corners in rois.tolist():
        x1, y1, x2, y2 = (math.floor(v * scale + 0.5) for v in corners)
        rows, columns = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        cells = []
        for i in range(height):
            top, bottom = y1 + i * rows // height, y1 - (-(i + 1) * rows // height)
            for j in range(width):
                left, right = x1 + j * columns // width, x1 - (-(j + 1) * columns // width)
                cell = x[int(index), :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
                cells.append(cell.amax((1, 2)) if cell.numel() else x.new_zeros(x.shape[1]))
        made.append(torch.stack(cells, 1).reshape(x.shape[1], height, width))
    return torch.stack(made)


def non_max_suppression(
    call: Call,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:
    """Boxes that overlap no better one of their class too much: [n, 3] of batch, class and box."""
    limit = int(most) if most is not None else 0
    threshold = float(overlap) if overlap is not None else 0.0
    found = []
    for batch in range(scores.shape[0]):
        corners = _box_corners(boxes[batch], bool(call.get("center_point_box", 0)))
        for kind in range(scores.shape[1]):
            rated = scores[batch, kind]
            order = torch.argsort(rated, descending=True, stable=True)
            if least is not None:
                order = order[rated[order] > float(least)]
            kept: list[int] = []
            for box in order.tolist():
                if len(kept) == limit:
                    break
                if not kept or bool((_overlaps(corners[box], corners[kept]) <= threshold).all()):
                    kept.append(box)
            found += [[batch, kind, box] for box in kept]
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _box_corners(boxes: Tensor, centred: bool) -> Tensor:
    if centred:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat([middle - half, middle + half], 1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], 1)


def _overlaps(box: Tensor, others: Tensor) -> Tensor:
    common = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    shared = common.prod(1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1)
    return shared / (area + areas - shared).clamp(min=1e-12)


POOLING: Table = standard(
    {
        ("AveragePool", 7): average_pool,
        ("GlobalAveragePool", 1): global_average,
        ("GlobalLpPool", 2): global_lp,
        ("GlobalMaxPool", 1): global_max,
        ("LpPool", 2): lp_pool,
        ("MaxPool", 1): max_pool,
        ("MaxRoiPool", 1): max_roi_pool,
        ("MaxUnpool", 9): max_unpool,
        ("NonMaxSuppression", 10): non_max_suppression,
        ("RoiAlign", 10): roi_align,
    }
)
