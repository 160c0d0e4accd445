"""Run by `test_bits.py`: the programs interpreted on the processor, or compiled for GPUs.

    TRITON_INTERPRET=1 python interpreted.py interpret
    python interpreted.py compile

The last line of what it prints is JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from steppe.sparse.formats.bits import Bits
from steppe.sparse.triton import bits

INF, NAN = float("inf"), float("nan")
HALF = (torch.bfloat16, torch.float16)


def pruned(rows, columns, share, dtype=torch.float32):
    weight = torch.randn(rows, columns).to(dtype)
    return weight.masked_fill(torch.rand(rows, columns) < share, 0)


def fault(dense, matrix, x, bias=None, **options):
    """Why the product is not that of the dense matrix; "" when it is."""
    y = bits.linear(x, bias, matrix._matrix, **options)
    if (y.dtype, tuple(y.shape)) != (x.dtype, (*x.shape[:-1], len(dense))):
        return f"{y.dtype} {tuple(y.shape)}"
    wanted = x.double() @ dense.double().t()
    size = x.double().abs() @ dense.double().abs().t()
    if bias is not None:
        wanted, size = wanted + bias.double(), size + bias.double().abs()
    odd = ~wanted.isfinite()
    if not torch.equal(y.double()[odd].nan_to_num(7.0), wanted[odd].nan_to_num(7.0)):
        return "infinities or NaNs differ"
    # sums in float32, and one rounding to y's dtype, where triton's interpreter truncates bfloat16
    roundings = 1.01 if x.dtype == torch.bfloat16 else 0.51
    allowed = roundings * torch.finfo(x.dtype).eps * wanted.abs() + 1e-6 * size + 1e-30
    over = ((y.double() - wanted).abs() - allowed)[~odd]
    return "" if not over.numel() or over.max() <= 0 else f"off by {float(over.max()):.1e}"


def shapes():
    for rows, columns, share in (
        (1, 1, 0.0),
        (3, 31, 0.5),
        (4, 32, 1.0),
        (5, 33, 0.7),
        (9, 515, 0.5),
        (6, 513, 0.95),
        (2, 1100, 0.0),
    ):
        dense = pruned(rows, columns, share)
        dense[rows // 2] = 0
        bias = torch.randn(rows)
        yield (rows, columns), fault(dense, Bits.from_dense(dense), torch.randn(1, columns), bias)
    yield "no tokens", fault(dense, Bits.from_dense(dense), torch.randn(0, columns))


def dtypes():
    for stored in (torch.float32, *HALF):
        for kind in (torch.float32, *HALF):
            dense = pruned(6, 70, 0.6, stored)
            matrix, x = Bits.from_dense(dense), torch.randn(2, 70).to(kind)
            bias = torch.randn(6).to(stored)
            yield f"{stored} {kind}", fault(dense, matrix, x, bias)


def tokens():
    dense = pruned(6, 70, 0.6)
    matrix = Bits.from_dense(dense)
    for shape in ((1,), (2,), (3,), (5,), (16,), (2, 3), ()):
        yield shape, fault(dense, matrix, torch.randn(*shape, 70))
    yield "strided", fault(dense, matrix, torch.randn(70, 3).t())


def numbers():
    """Infinities, NaNs and -0.0, in weights that are kept and in inputs of zeros."""
    for kind in (torch.float32, *HALF):
        for place, number in ((0, INF), (33, -INF), (69, NAN)):
            dense = pruned(6, 70, 0.6, kind)
            dense[1, 5], dense[2, 6] = -0.0, torch.finfo(kind).tiny
            x = torch.randn(2, 70).to(kind)
            x[1, place] = number  # times every zero of a row that has one there
            yield f"{kind} x {number}", fault(dense, Bits.from_dense(dense), x)
            dense[3, place] = number
            yield f"{kind} W {number}", fault(dense, Bits.from_dense(dense), x[:1])
    negative = Bits.from_dense(torch.tensor([[-0.0, 0.0]]))
    yield "-0.0 is kept", "" if negative.kept == 1 else str(negative.kept)


def unpacked():
    for kind in (torch.float32, *HALF):
        dense = pruned(11, 530, 0.6, kind)
        dense[0, 0], dense[1, 1], dense[2, 2] = NAN, -0.0, INF
        matrix = Bits.from_dense(dense)
        for first, last in ((0, 11), (4, 8), (3, 10), (8, 11), (5, 5)):
            rows = bits.unpack(matrix._matrix, first, last)
            wanted = dense[first:last]
            same = torch.equal(rows.to(kind).view(torch.int8), wanted.view(torch.int8))
            yield f"{kind} {first}:{last}", "" if same else "differs"


def int8():
    for rows, columns, count in ((5, 70, 1), (4, 31, 3), (9, 515, 1), (2, 64, 16)):
        matrix = Bits.from_dense(pruned(rows, columns, 0.5), values="int8")
        dense = bits.unpack(matrix._matrix, 0, rows)
        same = torch.equal(dense, matrix.to_dense())
        yield (rows, columns), "" if same else "unpacked differently"
        yield (rows, count), fault(dense, matrix, torch.randn(count, columns), torch.randn(rows))


def tilings():
    dense = pruned(6, 300, 0.6)
    matrix = Bits.from_dense(dense)
    for chunks in (1, 2, 8, 32):
        yield chunks, fault(dense, matrix, torch.randn(2, 300), chunks=chunks)


def interpret():
    torch.manual_seed(0)
    result = {}
    for family in (shapes, dtypes, tokens, numbers, unpacked, int8, tilings):
        cases = [(str(name), wrong) for name, wrong in family()]
        wrong = [f"{name}: {wrong}" for name, wrong in cases if wrong]
        result[family.__name__] = {"count": len(cases), "wrong": wrong}
    return result


def compiled(name, pointers, constants, capability):
    """Registers, spilled bytes and counting instructions of a kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    kernel = getattr(bits.kernels(), name)
    names = kernel.arg_names
    kinds = {n: pointers.get(n) or ("constexpr" if n in constants else "i32") for n in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if n in pointers or (n == "columns" and n not in constants)
    }
    source = ASTSource(kernel, kinds, constexprs=constants, attrs=aligned)
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(done.asm["ptx"])
        arch = "sm_90a" if capability == 90 else f"sm_{capability}"
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={arch}", str(path)]
        said = subprocess.run([*command, "-o", f"{path}.o"], capture_output=True, text=True)
    used = re.search(r"Used (\d+) registers", said.stderr)
    spilled = re.search(r"(\d+) bytes spill stores", said.stderr)
    assert used, said.stderr
    assert spilled, said.stderr
    count = done.asm["ptx"].count("popc")
    return {"registers": int(used[1]), "spilled": int(spilled[1]), "popc": count}


def compile_all():
    sizes = {}
    common = {"bits": "*i32", "starts": "*i64"}
    for capability in (80, 90):
        for count, chunks in bits.CHUNKS.items() if capability == 90 else [(1, bits.CHUNKS[1])]:
            # what is 1 when a program is started is a constant of it
            alone = {"tokens": 1} if count == 1 else {}
            for value, scale in (("*bf16", "*bf16"), ("*fp32", "*fp32"), ("*i8", "*fp32")):
                own = dict.fromkeys(("x", "y", "bias"), "*bf16")
                constants = alone | {"TOKENS": count, "CHUNKS": chunks, "BIASED": True}
                constants["SCALED"] = value == "*i8"
                pointers = common | own | {"values": value, "scale": scale}
                name = f"bits_linear {capability} {count} {value}"
                sizes[name] = compiled("bits_linear", pointers, constants, capability)
                if count > 1:
                    break
        names = dict.fromkeys(("tokens", "rows", "columns", "chunks"), 1)
        constants = names | {"TOKENS": 1, "CHUNKS": 16, "BIASED": True, "SCALED": False}
        pointers = common | dict.fromkeys(("x", "y", "bias", "values", "scale"), "*fp16")
        sizes[f"bits_linear {capability} of ones"] = compiled(
            "bits_linear", pointers, constants, capability
        )
        constants = {"CHUNKS": bits.UNPACK_CHUNKS, "SCALED": False}
        pointers = common | {"values": "*i16", "scale": "*i16", "out": "*i16"}
        sizes[f"bits_unpack {capability}"] = compiled(
            "bits_unpack", pointers, constants, capability
        )
    return sizes


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps({"interpret": interpret, "compile": compile_all}[sys.argv[1]]()))
