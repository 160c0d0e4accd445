"""Any image classifier that transformers can load, from a folder or the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.hub_names import silent_retries
from steppe.core.notes import note
from steppe.core.optional_import import require


def from_pretrained(
    name: str,
    num_classes: int | None = None,
    pretrained: bool = True,
    say: Callable[[str], object] = note,
    **options: Any,
) -> nn.Module:
    """Load an ``AutoModelForImageClassification``; safetensors only, never remote code.

    A folder is read without the network. If the checkpoint has another number of classes, or no
    head, the head is a new, random one of ``num_classes``, and that is said; every other weight
    must be there.

    Args:
        name: a folder, or a hub id ``org/name``.
        num_classes: number of classes; None keeps the checkpoint's.
        pretrained: False takes the architecture alone: only its config is read, and the weights
            are drawn from torch's generator as transformers starts them, in float32.
        say: called with a sentence where the head starts at random.
        options: passed to ``from_pretrained``, e.g. ``revision="main"``, or to ``from_config``.

    Returns:
        The model; its output carries ``.logits`` of shape [n, num_classes].

    Raises:
        SteppeError: it cannot be loaded, or a pretrained weight is missing.
    """
    transformers = require("transformers", install="'steppe[hub]'", purpose="loading a hub model")
    folder = Path(name).expanduser()
    safe: dict[str, Any] = {"trust_remote_code": False}
    where: dict[str, Any] = {"local_files_only": folder.is_dir()}
    source = str(folder) if folder.is_dir() else name
    kind = transformers.AutoModelForImageClassification
    try:
        with silent_retries():
            revision = {"revision": options.pop("revision")} if "revision" in options else {}
            config = transformers.AutoConfig.from_pretrained(source, **safe, **where, **revision)
            theirs = config.num_labels
            if num_classes is not None and theirs != num_classes:
                config.num_labels = num_classes
            if pretrained:
                model, info = kind.from_pretrained(
                    source,
                    config=config,
                    ignore_mismatched_sizes=theirs != config.num_labels,
                    use_safetensors=True,
                    output_loading_info=True,
                    **safe,
                    **where,
                    **revision,
                    **options,
                )
            else:
                model, info = (
                    kind.from_config(config, **({"dtype": torch.float32} | safe | options)),
                    {},
                )
    except Exception as error:  # transformers raises many kinds: network, config, missing files
        bare = pretrained and (folder / "config.json").is_file() and not _holds_weights(folder)
        if bare:
            raise SteppeError(
                "a pretrained model's folder holds its weights",
                got=f"{name}, which holds a config alone",
                way_out="model.pretrained=false for a random start (--set model.pretrained=false)",
            ) from None
        holds = "model.safetensors" if pretrained else "config.json"
        raise SteppeError(
            "a model must be an image classifier that transformers can load from safetensors",
            got=f"{name} ({type(error).__name__}: {str(error).splitlines()[0][:300]})",
            way_out=f"check the id, the network and that the repository holds {holds}, "
            "or give a local folder",
        ) from error
    assert isinstance(model, nn.Module)
    for sentence in _new_head(name, model, info, theirs) if pretrained else ():
        say(sentence)
    return model


def _holds_weights(folder: Path) -> bool:
    """Whether there are any, of a kind that is read here or of another."""
    kinds = (".safetensors", ".bin", ".h5", ".msgpack", ".pt", ".pth")
    return any(path.suffix in kinds for path in folder.iterdir())


def _new_head(name: str, model: Any, info: dict[str, Any], theirs: int) -> list[str]:
    """What to say of a head that was not in the checkpoint.

    Args:
        name: of the model.
        model: as it was loaded.
        info: what transformers says of the loading.
        theirs: classes of the checkpoint.

    Raises:
        SteppeError: something else than the head is missing.
    """
    ours = model.config.num_labels
    other = {
        key
        for key, there, here in info["mismatched_keys"]
        if (there[:1], here[:1], there[1:]) == ((theirs,), (ours,), here[1:])
    }
    random = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    trunk = f"{model.base_model_prefix}."
    head = {key for key in model.state_dict() if not key.startswith(trunk)}
    bare = set(info["missing_keys"]) if head == set(info["missing_keys"]) else set()
    if lost := sorted(random - other - bare):
        raise SteppeError(
            "a pretrained model must hold all its weights",
            got=f"{name} lacks {', '.join(lost[:5])}",
            consequence="these would silently be random",
            way_out="use a checkpoint saved from the whole classifier, or pretrained: false for a "
            "random start",
        )
    if not random:
        return []
    why = f"is for {theirs} classes and the data have {ours}" if other else "has no head"
    return [f"{name} {why}: its head starts at random ({', '.join(sorted(random))})"]
