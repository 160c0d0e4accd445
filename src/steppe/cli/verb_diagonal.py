"""``steppe diagonal``: which penalty finds a sparse truth, in a picture."""

from __future__ import annotations

import json as json_module
from html import escape
from pathlib import Path
from typing import Annotated, Any

import typer

from steppe.cli.main import emit, say
from steppe.core.serialization import write_text
from steppe.report.diagonal import alone, draw
from steppe.report.html import Section, write_report
from steppe.theory.diagonal import ARMS, Diagonal, best_strengths

FORMULAS = {
    "constant": "constant: alpha",
    "harmonic": "harmonic: alpha / k",
    "quadratic": "quadratic: alpha / k²",
    "geometric": "geometric: alpha 0.95^(k-1)",
}
Best = dict[tuple[str, str], dict[str, Any]]


def add(app: typer.Typer) -> None:
    app.command("diagonal", short_help="Show PILoT's diagonal linear network.")(command)


def command(
    out: Annotated[Path, typer.Option(help="where the numbers and the picture go")] = Path(
        "runs/diagonal"
    ),
    samples: Annotated[int, typer.Option(help="samples; fewer than --size")] = 40,
    size: Annotated[int, typer.Option(help="unknowns")] = 100,
    support: Annotated[int, typer.Option(help="of them not zero")] = 5,
    inits: Annotated[int, typer.Option(help="starting points")] = 5,
    rate: Annotated[float, typer.Option(help="learning rate")] = 1e-4,
    steps: Annotated[int, typer.Option(help="of gradient descent; 200 values of k")] = 20_000,
    seed: Annotated[int, typer.Option(help="of everything")] = 0,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """The diagonal linear network: L2 on products against L1, constant and decaying."""
    problem = Diagonal(
        samples=samples,
        size=size,
        support=support,
        inits=inits,
        rate=rate,
        steps=steps,
        every=max(1, steps // 200),
        seed=seed,
    )
    result = problem.run()
    chosen = best_strengths(result)  # refuses what diverged, before anything is written
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "diagonal.json", json_module.dumps(result) + "\n")  # before any picture
    labels = {name: arm.label for name, arm in ARMS.items()}
    figure = draw(result["steps"], chosen, labels, FORMULAS)
    write_text(out / "diagonal.svg", alone(figure) + "\n")
    write_report(
        out / "diagonal.html",
        title="Diagonal linear network",
        summary=_sentences(chosen, result["runs"]),
        sections=[Section("distance", "Distance", figure.html() + _table(chosen))],
    )
    for (arm, curve), one in chosen.items():
        say(f"{arm:<6} {curve:<10} {_shown(one)}, strength {one['alpha']:g}", quiet)
    say(f"written to {out}: diagonal.html, diagonal.svg, diagonal.json", quiet)
    ends = {
        f"{arm}, {curve}": {"alpha": one["alpha"], "distance": one["mean"][-1]}
        for (arm, curve), one in chosen.items()
    }
    emit({"out": str(out), "best": ends}, json)


def _shown(one: dict[str, Any]) -> str:
    return f"{one['mean'][-1]:.4f} ± {one['error'][-1]:.4f}"


def _sentences(chosen: Best, runs: list[dict[str, Any]]) -> list[str]:
    """What the numbers say, whatever they are."""
    sentences = []
    for arm in ARMS:
        own = {curve: one for (a, curve), one in chosen.items() if a == arm}
        if not own:
            sentences.append(f"{ARMS[arm].label}: no run stayed finite.")
            continue
        nearest = min(own, key=lambda curve: own[curve]["mean"][-1])
        flips = max(run["flipped"] for run in runs if run["arm"] == arm)
        sentences.append(
            f"{ARMS[arm].label}: nearest with a {nearest} strength, {_shown(own[nearest])} from "
            f"the truth (constant: {_shown(own['constant']) if 'constant' in own else 'none'}); "
            f"at most {flips} of its signs flipped on the way."
        )
    return sentences


def _table(chosen: Best) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(ARMS[arm].label)}</th><td>{curve}</td>"
        f"<td>{one['alpha']:g}</td><td>{_shown(one)}</td></tr>"
        for (arm, curve), one in chosen.items()
    )
    head = "".join(
        f"<th scope='col'>{h}</th>" for h in ("Arm", "Strength over k", "alpha", "Last distance")
    )
    return (
        "<table><caption>Where each ends, at its best strength</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
