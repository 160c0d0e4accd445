"""Which runs there are: readable keys and what makes each."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from adapter import AXES, language, swap
from runs import composed, image_case, language_case, part, prune_case, published, train_case

from steppe import SteppeError
from steppe.methods import METHODS

Case = tuple[str, Callable[[], Iterator]]


def method_cases() -> Iterator[Case]:
    for name in METHODS:
        known = inspect.signature(METHODS[name]).parameters

        def build(name=name, **more):
            return lambda: published(name, **more)

        plain = build()
        yield f"method/{name}/train", lambda b=plain: image_case(b, resume=True)
        if "structure" in known:
            two = build(structure="2:4")
            yield f"method/{name}/train-2:4", lambda b=two: image_case(b)
            coupled = build(structure="channel")
            yield (
                f"method/{name}/groups",
                lambda b=coupled: image_case(b, grouped=True, resume=True, remove=True),
            )


def part_cases() -> Iterator[Case]:
    """Pairs of two axes' parts, the other axes as in the base."""
    pairs = [
        *itertools.product(["score"], ["structure"]),
        *itertools.product(["budget"], ["structure", "schedule"]),
        *itertools.product(["coupling"], ["structure", "schedule", "perturb"]),
    ]
    for one, two in pairs:
        for a, b in itertools.product(AXES[one], AXES[two]):
            names = {one: a, two: b}
            key = "/".join(f"{axis}={name}" for axis, name in names.items())
            yield f"parts/{key}", lambda n=names: image_case(lambda: composed(**n))
    for name in AXES["objective"]:
        yield f"parts/objective={name}", lambda n=name: image_case(lambda: composed(objective=n))


def group_cases() -> Iterator[Case]:
    """Coupled channels: every budget with two costs, and what else chooses or moves them."""
    for axis in ("budget", "score", "coupling", "schedule", "perturb"):
        for name in AXES[axis]:
            # valley reads scales; the others' base is the norm of a channel's weights
            names = {"score": "bn_gamma" if name == "valley" else "l2"} | {axis: name}

            def build(names=names):
                return composed(structure="channel", **names)

            yield f"groups/{axis}={name}/channels", lambda b=build: image_case(b, grouped=True)
            if axis != "budget":
                continue
            for cost, score in (("parameters", "taylor_gate"), ("flops", "l2")):
                key = f"groups/budget={name}/{cost}"
                other = names | ({} if name == "valley" else {"score": score})
                yield (
                    key,
                    lambda b=build, o=other, c=cost: image_case(lambda: b(o), grouped=True, cost=c),
                )


def language_cases(folder: Path) -> Iterator[Case]:
    def case(build, **options):
        return lambda: language_case(folder, build, **options)

    for name in METHODS:
        forms = [{}]
        with contextlib.suppress(SteppeError):
            published(name, language)
            forms += [{"structure": "2:4"}, {"structure": "channel"}, {"structure": "block:4x4"}]
        for more in forms:
            key = f"prune/{name}/{more.get('structure', 'language')}"
            yield key, case(lambda n=name, m=more: published(n, language, **m))
    for name in ("safe", "safe_plus", "magnitude", "admm"):  # as they are called for images
        yield f"prune/{name}/plain", case(lambda n=name: published(n))
    for name in ("safe", "safe_plus"):
        for more in ({}, {"structure": "2:4"}):
            key = f"prune/{name}/started/{more.get('structure', 'unstructured')}"
            options = more | {"start": "layer_admm"}
            yield key, case(lambda n=name, o=options: published(n, language, **o))
    yield "prune/safe/killed", case(lambda: published("safe", language), dies=20)
    for base in ("safe", "wanda", "sparsegpt"):
        for axis in ("score", "budget", "coupling", "perturb", "objective", "schedule"):
            for name in AXES[axis]:

                def swapped(base=base, axis=axis, name=name):
                    return swap(published(base, language), axis, part(axis, name))

                yield f"prune/{base}/{axis}={name}", case(swapped)
    for start, apart in itertools.product((None, "obs_update", "layer_admm", "hard_mask"), (0, 1)):
        objective = {"name": "block_reconstruction", "start": start, "apart": bool(apart)}

        def started(objective=objective):
            return swap(published("safe", language), "objective", objective)

        yield f"prune/safe/start={start}/apart={apart}", case(started)
    patterns = {"include": ["*mlp*"], "exclude": ["*.0.mlp.down_proj*"], "micro_batch": 3}
    yield "prune/sparsegpt/patterns", case(lambda: language("sparsegpt", sparsity=0.5), **patterns)
    yield "command/prune", lambda: prune_case(folder)


def command_cases() -> Iterator[Case]:
    def case(*arguments, **options):
        return lambda: train_case(*arguments, **options)

    yield "command/train-safe", case("--method", "safe", "--set", "method.interval=2", resume=True)
    yield "command/train-pilot", case("--method", "pilot", resume=True)
    for target in ("parameters", "flops", "channels"):
        adasap = ("--method", "adasap", "--set", "method.every=2", "--set", "method.pruned=0.7")
        yield f"command/train-adasap-{target}", case(*adasap, "--target", target, remove=True)
    search = ("--method", "eagleeye", "--set", "method.candidates=4")
    yield "command/train-eagleeye", case(*search, resume=True, remove=True)
