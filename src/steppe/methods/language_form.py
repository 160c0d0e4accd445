"""The form of a method that prunes language models, and options that it cannot keep."""

from __future__ import annotations

from steppe.core.errors import SteppeError
from steppe.method import Method
from steppe.methods.options import SIZES
from steppe.methods.registry import METHODS


def for_language(method: Method) -> Method:
    """As `Method.for_language`; the error names the methods that have such a form."""
    if not method.has_language_form:
        names = [n for n in METHODS if METHODS[n].example().has_language_form]
        raise SteppeError(
            "a language model is pruned with an objective over layers or blocks",
            got=f"method {method.name} with objective {method.objective.name}",
            way_out=f"methods that have one: {', '.join(names)}; or steppe train MODEL --method "
            f"{method.name}, which trains the whole model; or set the objective of yours",
        )
    form = method.for_language()
    _without_effect(method, form)
    return form


def _without_effect(method: Method, form: Method) -> None:
    """Refuse an option of a published method that other parts take the place of.

    Raises:
        SteppeError: a part is not as the method has it, and the form for language models is.
    """
    if method.name not in METHODS or not method.language:
        return
    example = METHODS[method.name].example()
    usual = example.for_language().parts
    for axis, part in method.parts.items():
        if axis in SIZES or part == example.parts[axis] or form.parts[axis] != usual[axis]:
            continue
        whole, own = part.to_dict(), example.parts[axis].to_dict()
        differs = {k: v for k, v in whole.items() if k not in own or own[k] != v}
        there = form.parts[axis].to_dict()
        if all(key in there and there[key] == whole[key] for key in {"name", *differs}):
            continue  # what was said is so there too
        said = ", ".join(f"{k} {v}" for k, v in differs.items() if k != "name")
        start = "start" in METHODS[method.name].options
        raise SteppeError(
            f"an option of {method.name} must have a part in how it prunes language models",
            got=f"{axis} {part.name}{' with ' * bool(said)}{said}, which changes "
            f"nothing there: {form.parts[axis].name} works in its place",
            way_out="leave it out"
            + ", or start=None (--set method.start=null), the paper's way" * start,
        )
