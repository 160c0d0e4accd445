"""Any image classifier that transformers can load, from a folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require


def from_pretrained(name: str, num_classes: int | None = None, **options: Any) -> nn.Module:
    """Load an ``AutoModelForImageClassification``; safetensors only, never remote code.

    A folder is read without the network. If the checkpoint has another number of classes, its
    head is replaced by a new, random one of ``num_classes``; otherwise every weight must be there.

    Args:
        name: a folder, or a hub id ``org/name``.
        num_classes: number of classes; None keeps the checkpoint's.
        options: passed to ``from_pretrained``, e.g. ``revision="main"``.

    Returns:
        The model; its output carries ``.logits`` of shape [n, num_classes].

    Raises:
        SteppeError: it cannot be loaded, or a pretrained weight is missing.
    """
    transformers = require("transformers", install="'steppe[hub]'", purpose="loading a hub model")
    folder = Path(name).expanduser()
    safe: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": folder.is_dir(),
    }
    source = str(folder) if folder.is_dir() else name
    try:
        revision = {"revision": options["revision"]} if "revision" in options else {}
        config = transformers.AutoConfig.from_pretrained(source, **safe, **revision)
        new_head = num_classes is not None and config.num_labels != num_classes
        if new_head:
            config.num_labels = num_classes
        model, info = transformers.AutoModelForImageClassification.from_pretrained(
            source,
            config=config,
            ignore_mismatched_sizes=new_head,
            use_safetensors=True,
            output_loading_info=True,
            **safe,
            **options,
        )
    except Exception as error:  # transformers raises many kinds: network, config, missing files
        raise SteppeError(
            "a model must be an image classifier that transformers can load from safetensors",
            got=f"{name} ({type(error).__name__}: {str(error).splitlines()[0][:300]})",
            way_out="check the id, the network and that the repository holds model.safetensors, "
            "or give a local folder",
        ) from error
    missing = sorted(info["missing_keys"])
    if missing and not new_head:
        raise SteppeError(
            "a pretrained model must hold all its weights",
            got=f"{name} lacks {', '.join(missing[:5])}",
            consequence="these would silently be random",
            way_out="use a checkpoint saved from the whole classifier",
        )
    assert isinstance(model, nn.Module)
    return model
