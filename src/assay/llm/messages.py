"""Messages of a conversation, in the form OpenAI-compatible servers take; images travel inside as data addresses."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Picture = str | Path | bytes | np.ndarray | Image

_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


def system(text: str) -> dict[str, Any]:
    """The instruction that stands before a conversation."""
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, Any]:
    """What the model said earlier."""
    return {"role": "assistant", "content": text}


def user(text: str, *images: Picture) -> dict[str, Any]:
    """What is asked, with pictures before the words.

    Args:
        images: each a path, an http(s) address, the bytes of a file, a PIL image, or an array (H, W, 3) or (H, W) of
            bytes or of floats in [0, 1].

    Raises:
        InputError: a file that is missing or no PNG, JPEG, GIF or WebP; an array of another form.
    """
    if not images:
        return {"role": "user", "content": text}
    parts = [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def image_url(image: Picture) -> str:
    """The address a model reads a picture from: http(s) as it is, everything else as a data address.

    Raises:
        InputError: as for `user`.
    """
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:image/")):
        return image
    if isinstance(image, (str, Path)):
        path = Path(image)
        if not path.is_file():
            raise InputError(f"picture {path} does not exist")
        return _data_url(path.read_bytes(), str(path))
    if isinstance(image, bytes):
        return _data_url(image, "the picture given")
    return _data_url(_as_png(image), "the picture given")


def _data_url(data: bytes, what: str) -> str:
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None:
        raise InputError(f"{what} is no PNG, JPEG, GIF or WebP file")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _as_png(image: Any) -> bytes:
    import numpy as np
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise InputError(f"array of shape {image.shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
        if image.dtype != np.uint8:
            image = (np.clip(np.nan_to_num(image.astype(np.float64)), 0, 1) * 255).round().astype(np.uint8)
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
