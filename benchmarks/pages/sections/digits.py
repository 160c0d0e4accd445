"""Digits: the demo's table, and why GMP was level with SAFE."""

from __future__ import annotations

from collections.abc import Iterator

from ..cells import Table, cell, standard_error, two_digits
from ..registry import Claim, Rule, at_most, claims, table
from ..sources import grouped, read, recipe, record

PAGE, SECTION = "docs/results.md", "Digits: the demo"
METHODS = {"magnitude": "magnitude", "gmp": "GMP", "admm": "ADMM", "safe": "SAFE"}
LEVELS = {0.95: "95 %", 0.98: "98 %", 0.99: "99 %"}
SHARES = {"10 %": "kept_at_0.1", "25 %": "kept_at_0.25", "50 %": "kept_at_0.5"}


@table("demo")
def demo() -> Table:
    networks = grouped(record("demo")["networks"], "method", "sparsity")
    rows = []
    names = [("dense", "0", "dense", 0.0)]
    for level, zeros in LEVELS.items():
        names += [(text, zeros, name, level) for name, text in METHODS.items()]
    for text, zeros, name, sparsity in names:
        own = networks[name, sparsity]
        rows.append(
            [
                text,
                zeros,
                standard_error((n["accuracy"] for n in own), 2, 100),
                two_digits((n["hessian_top"] for n in own), 3),
                two_digits(n["sharpness"] for n in own),
                standard_error((n["noise"]["0.3"] for n in own), 2, 100),
            ]
        )
    head = ["method", "zeros", "accuracy, %", "top Hessian eigenvalue", "sharpness, rho 0.2"]
    return Table([*head, "accuracy at noise 0.3, %"], rows)


def why(sparsity: float) -> Table:
    rows = []
    for arm in record("why_digits"):
        if arm["sparsity"] == sparsity:
            error = 100 * arm["standard_error"]
            accuracy = cell("{:.2f} ± {:.2f}", 100 * arm["accuracy"], error)
            own = [accuracy, cell("{:.2f}", 100 * arm["lost"]), cell("{:.4f}", arm["moved"])]
            kept = [cell("{:.2f}", arm[key]) for key in SHARES.values()]
            rows.append([arm["arm"], *own, *kept])
    return Table([f"at {sparsity:.0%}", "accuracy, %", "lost", "moved", *SHARES], rows)


@table("why-digits-95")
def why_95() -> Table:
    return why(0.95)


@table("why-digits-99")
def why_99() -> Table:
    return why(0.99)


@claims(PAGE, SECTION, settings=["src/steppe/cli/demo.yaml", "benchmarks/why_digits.py"])
def said() -> Iterator[Claim]:
    split = Rule("src/steppe/vision/data/digits.py", "1,297 digits to train on, 500 to test on")
    yield "(1,297 training and 500 test images)", split
    train = read("src/steppe/cli/demo.yaml")["train"]
    yield "{} epochs of {} steps", train["epochs"], 1297 // train["batch_size"]
    own, top, noise = demo(), "top Hessian eigenvalue", "accuracy at noise"

    def ahead(first: str, second: str, column: str = "accuracy, %") -> list[float]:
        return [own[f"{first} {z}", column] - own[f"{second} {z}", column] for z in LEVELS.values()]

    def times(first: str, second: str) -> list[float]:
        return [own[f"{first} {z}", top] / own[f"{second} {z}", top] for z in LEVELS.values()]

    yield "**SAFE is above GMP at every sparsity**, by {}, {} and {} points", *ahead("SAFE", "GMP")
    dense = own["SAFE 95 %", "accuracy, %"] - own["dense 0", "accuracy, %"]
    assert abs(dense) < 0.2, "the page says: level with dense at 95 %"
    at_95, at_98, at_99 = ahead("ADMM", "SAFE")
    yield "{} points behind SAFE at 95 %, {} and {} ahead at 98 and 99 %", -at_95, at_98, at_99
    admm, gmp = times("ADMM", "SAFE"), times("GMP", "SAFE")
    yield (
        "SAFE's top eigenvalue is {} to {} times below ADMM's and {} to {} times below GMP's",
        *(min(admm), max(admm), min(gmp), max(gmp)),
    )
    first = [ahead("SAFE", name, noise) for name in ("ADMM", "GMP", "magnitude")]
    first += [[own[f"SAFE {z}", noise] - own["dense 0", noise] for z in LEVELS.values()]]
    assert min(map(min, first)) > 0, "the page says: SAFE is ahead of every other under noise"


@claims(PAGE, SECTION)
def why_it_is_level() -> Iterator[Claim]:
    both = (why_95(), why_99())
    safe, gmp = "SAFE, cosine 0.3", "GMP (demo)"
    yield "moves the weights by less than {} %", at_most(100 * max(t[safe, "moved"] for t in both))
    paper = recipe("safe/cifar10-resnet20x2")
    steps = paper["train"]["epochs"] * (50_000 // paper["train"]["batch_size"])
    short = record("short")
    yield (
        "(With the paper's {}, made for {} steps, it does: after {} steps",
        *(paper["method"]["penalty"], steps, 3 * (1297 // 128)),
    )
    cut = (100 * short["before_projection"], 100 * short["accuracy"])
    yield "the cut takes the accuracy from {} % to {} %", *cut
    decided = [t[gmp, "50 %"] for t in both]
    yield "GMP's is {} decided at 95 % and only {} at 99 %", *decided
    shares = []
    for t in both:
        admm, cosine, ours = (
            t[arm, "accuracy"] for arm in ("ADMM, constant 0.1", "ADMM, cosine 0.3", safe)
        )
        shares += [cosine - admm, ours - admm]
    yield "brings {} of {} points at 95 % and {} of {} at 99 %", *shares
