"""The published corruptions of one image, written plainly with NumPy, SciPy, scikit-image, Pillow
and OpenCV: what the tensors are compared with. ``x`` is [h, w, 3] in [0, 1], float64; random
numbers come from ``draw``, which has normal, uniform, integers and poisson with a shape.
"""

import io
import math

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian


def eight(x):
    return np.uint8(np.round(x * 255))


def gaussian_noise(x, c, draw):
    return x + draw.normal(3, *x.shape[:2]).transpose(1, 2, 0) * c


def speckle_noise(x, c, draw):
    return x + x * draw.normal(3, *x.shape[:2]).transpose(1, 2, 0) * c


def shot_noise(x, c, draw):
    return draw.poisson(x.transpose(2, 0, 1) * c).transpose(1, 2, 0) / c


def impulse_noise(x, c, draw):
    u = draw.uniform(3, *x.shape[:2]).transpose(1, 2, 0)
    out = x.copy()
    out[u < c / 2] = 1
    out[(u >= c / 2) & (u < c)] = 0
    return out


def gaussian_blur(x, c, draw):
    return gaussian(x, sigma=c, channel_axis=-1)


def glass_blur(x, c, draw):
    sigma, reach, rounds = c
    h, w = x.shape[:2]
    y = np.uint8(np.clip(gaussian(x, sigma=sigma, channel_axis=-1), 0, 1) * 255 + 1e-3)
    moves = iter(
        draw.integers(rounds * (h - 2 * reach) * (w - 2 * reach), 2, low=-reach, high=reach)
    )
    for _ in range(rounds):
        for row in range(h - reach, reach, -1):
            for column in range(w - reach, reach, -1):
                dx, dy = next(moves)
                a, b = row + dy, column + dx
                # the published statement: a swap through views, which only copies
                y[row, column], y[a, b] = y[a, b], y[row, column]
    return gaussian(y / 255.0, sigma=sigma, channel_axis=-1)


def defocus_blur(x, c, draw):
    radius, alias = c
    half = 8 if radius <= 8 else radius
    size = (3, 3) if radius <= 8 else (5, 5)
    line = np.arange(-half, half + 1)
    a, b = np.meshgrid(line, line)
    disk = np.array(a**2 + b**2 <= radius**2, dtype=np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), ksize=size, sigmaX=alias)
    return np.stack([cv2.filter2D(x[..., i], -1, kernel) for i in range(3)], -1)


def _motion(x, radius, sigma, angle):
    """ImageMagick's motion blur of [h, w, channels], edges repeated."""
    width = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    h, w = x.shape[:2]
    out = np.zeros_like(x)
    for i in range(width):
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(h) + down, 0, h - 1)
        columns = np.clip(np.arange(w) + right, 0, w - 1)
        out += weights[i] * x[rows][:, columns]
    return out


def motion_blur(x, c, draw):
    return _motion(x, c[0], c[1], float(draw.uniform(low=-45.0, high=45.0)))


def _zoom(x, factor):
    """Linear zoom into the middle of [h, h, channels]."""
    h = x.shape[0]
    crop = int(np.ceil(h / factor))
    top = (h - crop) // 2
    grown = ndimage.zoom(x[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
    trim = (grown.shape[0] - h) // 2
    return grown[trim : trim + h, trim : trim + h]


def zoom_blur(x, c, draw):
    factors = np.arange(1, c[0], c[1])
    return (x + sum(_zoom(x, z) for z in factors)) / (len(factors) + 1)


def snow(x, c, draw):
    mean, deviation, zoom, threshold, radius, sigma, keep = c
    layer = _zoom(draw.normal(1, *x.shape[:2])[0][..., None] * deviation + mean, zoom)
    layer[layer < threshold] = 0
    layer = np.uint8(np.clip(layer, 0, 1) * 255)
    layer = _motion(layer.astype(float), radius, sigma, float(draw.uniform(low=-135.0, high=-45.0)))
    layer = np.round(layer) / 255
    grey = cv2.cvtColor(x.astype(np.float32), cv2.COLOR_RGB2GRAY)[..., None]
    x = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5)
    return x + layer + np.rot90(layer, k=2)


def _plasma(side, decay, draw):
    field = draw.uniform(side * side - 1, low=-1.0, high=1.0).astype(float)
    used, wibble, step = 0, 100.0, side
    m = np.zeros((side, side))

    def around(total):
        nonlocal used
        values = field[used : used + total.size].reshape(total.shape)
        used += total.size
        return total / 4 + wibble * wibble * values

    while step >= 2:
        half = step // 2
        new = m.copy()
        grid = range(0, side, step)
        total = np.array(
            [
                [m[i, j] + m[(i + step) % side, j] + m[i, (j + step) % side]
                 + m[(i + step) % side, (j + step) % side] for j in grid]
                for i in grid
            ]
        )  # fmt: skip
        new[half::step, half::step] = around(total)
        m = new
        # points between two corners of a row, then of a column
        total = np.array(
            [
                [m[i, j] + m[i, (j + step) % side] + m[(i + half) % side, j + half]
                 + m[(i - half) % side, j + half] for j in grid]
                for i in grid
            ]
        )  # fmt: skip
        m[0::step, half::step] = around(total)
        total = np.array(
            [
                [m[i, j] + m[(i + step) % side, j] + m[i + half, (j + half) % side]
                 + m[i + half, (j - half) % side] for j in grid]
                for i in grid
            ]
        )  # fmt: skip
        m[half::step, 0::step] = around(total)
        step, wibble = half, wibble / decay
    m -= m.min()
    return m / m.max()


def fog(x, c, draw):
    h, w = x.shape[:2]
    side = 1 << (max(h, w) - 1).bit_length()
    most = x.max()
    x = x + c[0] * _plasma(side, c[1], draw)[:h, :w, None]
    return x * most / (most + c[0])


def frost(x, c, draw):
    from steppe.robustness.corruptions.frost import panes

    h, w = x.shape[:2]
    side = 4 << (max(h, w) - 1).bit_length()
    which, top, left = (int(draw.integers(low=0, high=n)) for n in (5, side - h, side - w))
    ice = panes(side)[which].numpy().transpose(1, 2, 0)[top : top + h, left : left + w]
    return c[0] * x + c[1] * ice


def brightness(x, c, draw):
    hsv = rgb2hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
    return hsv2rgb(hsv)


def saturate(x, c, draw):
    hsv = rgb2hsv(x)
    hsv[..., 1] = np.clip(hsv[..., 1] * c[0] + c[1], 0, 1)
    return hsv2rgb(hsv)


def contrast(x, c, draw):
    means = x.mean((0, 1), keepdims=True)
    return (x - means) * c + means


def jpeg_compression(x, c, draw):
    buffer = io.BytesIO()
    Image.fromarray(eight(x)).save(buffer, "JPEG", quality=c)
    return np.asarray(Image.open(buffer)) / 255.0


def pixelate(x, c, draw):
    h, w = x.shape[:2]
    small = Image.fromarray(eight(x)).resize((int(w * c), int(h * c)), Image.Resampling.BOX)
    return np.asarray(small.resize((w, h), Image.Resampling.BOX)) / 255.0


def elastic_transform(x, c, draw):
    strength, sigma, most = c
    h, w = x.shape[:2]
    middle, size = np.float32((h, w)) // 2, min(h, w) // 3
    before = np.float32([middle + size, [middle[0] + size, middle[1] - size], middle - size])
    after = before + draw.uniform(3, 2, low=-most, high=most).astype(np.float32)
    moved = cv2.warpAffine(
        x.astype(np.float32),
        cv2.getAffineTransform(before, after),
        (w, h),
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if strength == 0:
        return moved.astype(float)
    dx, dy = (
        gaussian(f.astype(float), sigma, mode="reflect", truncate=3) * strength
        for f in draw.uniform(2, h, w, low=-1.0, high=1.0)
    )
    rows, columns = np.mgrid[:h, :w]
    places = [rows + dy, columns + dx]
    channels = [
        ndimage.map_coordinates(moved[..., i], places, order=1, mode="reflect") for i in range(3)
    ]
    return np.stack(channels, -1)


def spatter(x, c, draw):
    mean, deviation, sigma, threshold, strength, mud = c
    liquid = gaussian(draw.normal(1, *x.shape[:2])[0] * deviation + mean, sigma=sigma)
    if mud:
        cover = gaussian((liquid > threshold).astype(float), sigma=strength)
        cover[cover < 0.8] = 0
        return x * (1 - cover[..., None]) + cover[..., None] * np.array([63, 42, 20]) / 255
    liquid[liquid < threshold] = 0
    layer = (liquid * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
    distance = np.minimum(distance, 20)
    even = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    raised = cv2.filter2D(even, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    depth = layer * cv2.blur(raised, (3, 3)).astype(np.float32)
    if depth.max() > 0:
        depth = depth / depth.max()
    return x + strength * depth[..., None] * np.array([175, 238, 238]) / 255
