"""``steppe export``: a pruned model in a form that makes use of its zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steppe.cli.language_only import check_language
from steppe.cli.main import emit, say
from steppe.llm.export import export


def add(app: typer.Typer) -> None:
    app.command(
        "export", short_help="Store a pruned language model smaller, 2:4, as GGUF or ONNX."
    )(command)


def command(
    run: Annotated[Path, typer.Argument(help="a pruned language model's folder")],
    to: Annotated[str, typer.Option(help="compact, gguf, onnx, or 2:4 on a GPU")],
    out: Annotated[Path, typer.Option(help="the folder to write")],
    device: Annotated[str | None, typer.Option(help="2:4: where to measure, e.g. cuda")] = None,
    tokens: Annotated[
        str | None, typer.Option(help="2:4: tokens per forward pass to measure, e.g. 1,64,1024")
    ] = None,
    verify: Annotated[
        str | None, typer.Option(help="compact: logits, or tensors when memory is short")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="gguf: of matrices: stored, f32, f16 or bf16")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="gguf: carried, or none for programs that give token ids")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """Write a pruned model smaller (compact), for llama.cpp (gguf), as ONNX, or with 2:4 layers."""
    smaller = "steppe remove RUN --out OUT [--onnx]"
    check_language([run], "steppe export is for language models", smaller)
    options = {"device": device, "tokens": tokens, "verify": verify}
    done = export(run, to, out, **options, dtype=dtype, tokenizer=tokenizer)
    for line in done.lines:
        say(line, quiet)
    say(f"written to {out}", quiet)
    emit(done.record | {"out": str(out)}, json)
