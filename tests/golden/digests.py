"""Digests of what every method and part computes: a change of one bit is seen.

How to use it: run it on the old commit, run it on the new one, on the same machine; then look at
what differs. Processors round differently, so the files are not kept with the code.

    git worktree add ../old OLD_COMMIT
    PYTHONPATH=../old/src python tests/golden/digests.py --out old.json
    PYTHONPATH=src        python tests/golden/digests.py --compare old.json --out new.json

``--compare`` prints each key that differs or is gone, where two records differ also the values,
and exits with 1 if there is any. Keys that only the new commit has are counted, not judged.
``--only 'method/safe/*'`` runs only such cases (a case is a key without its last word);
``--read new.json`` compares two files without running anything.

A case is a tiny seeded run with one thread. Its keys end in what was digested: ``weights``
(parameters and buffers), ``masks``, ``record`` (plain data without times, versions, paths;
``recipe`` and ``notes`` of a record are apart) and others. Plain data are also stored under
``records``, so that a change of their schema can be read.
A combination that is refused has one key, ``.../refused``, with the first words of the error.
``.../failed`` is an error that no user should see.

What a redesign may move is in ``adapter.py``, and nowhere else. pytest does not collect this
folder.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import itertools
import json
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
from cases import command_cases, group_cases, language_cases, method_cases, part_cases
from runs import digest, language_model

import steppe
from steppe import SteppeError

DROPPED = re.compile(
    r"seconds|version|memory|latency|fingerprint|path|folder|_ms|per_second"
    r"|^(gain|out|run|report|speed|threads|processes|method_display)$"
)
# what of a record has a key of its own, so that it may change alone
APART = {"notes": "notes", "fallbacks": "notes", "recipe": "recipe", "parts": "recipe"}


def stable(value):
    """Plain data without what differs from run to run; paths of this machine become ``PATH``."""
    if isinstance(value, dict):
        # texts are named by their paths, so dictionaries may be too
        pairs = ((str(stable(k)), v) for k, v in value.items() if not DROPPED.search(str(k)))
        return {k: stable(v) for k, v in pairs}
    if isinstance(value, list | tuple):
        return [stable(v) for v in value]
    if isinstance(value, float):
        return value if value == value else "nan"
    if isinstance(value, int | None):
        return value
    return re.sub(r"(?<!\w)/\S+", "PATH", str(value))


def split(what, plain):
    """Key -> plain data: a record in the pieces that `APART` names."""
    if not what.endswith("record"):
        return {what: plain}
    pieces = {what: {k: v for k, v in plain.items() if k not in APART}}
    for key in plain.keys() & APART.keys():
        pieces.setdefault(what.replace("record", APART[key]), {})[key] = plain[key]
    return pieces


def run_case(key, case):
    """(digests, records) of one case."""
    digests, records = {}, {}
    try:
        for what, value in case():
            if isinstance(value, dict) and any(torch.is_tensor(v) for v in value.values()):
                digests[f"{key}/{what}"] = digest(value)
            else:
                for kind, data in split(what, stable(value)).items():
                    records[f"{key}/{kind}"] = data
                    text = json.dumps(data, sort_keys=True)
                    digests[f"{key}/{kind}"] = hashlib.sha256(text.encode()).hexdigest()
    except SteppeError as error:
        digests[f"{key}/refused"] = stable(str(error).partition(";")[0])[:80]
    except Exception as error:
        digests[f"{key}/failed"] = f"{type(error).__name__}: {str(error)[:80]}"
    return digests, records


def run(only):
    """All digests and records, as one JSON-able value."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = {"digests": {}, "records": {}, "seconds": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        language_model(folder)
        sections = (method_cases(), part_cases(), group_cases(), command_cases())
        for key, case in itertools.chain(*sections, language_cases(folder)):
            if not fnmatch.fnmatch(key, only):
                continue
            began = time.perf_counter()
            torch.manual_seed(0)
            digests, records = run_case(key, case)
            result["digests"] |= digests
            result["records"] |= records
            group = key.partition("/")[0]
            spent = result["seconds"].get(group, 0.0) + time.perf_counter() - began
            result["seconds"][group] = round(spent, 3)
    return result


def differences(old, new, place=""):
    """``place: old -> new`` of everything in which two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(k, old.get(k, "(none)"), new.get(k, "(none)")) for k in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(i, *both) for i, both in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [f"{place or '.'}: {old} -> {new}"]
    return [line for k, a, b in pairs for line in differences(a, b, f"{place}.{k}".strip("."))]


def compare(old, new, only):
    """Print what differs; returns how many keys do."""
    mine, theirs = new["digests"], old["digests"]
    theirs = {k: v for k, v in theirs.items() if fnmatch.fnmatch(k.rpartition("/")[0], only)}
    different = [key for key in theirs if theirs[key] != mine.get(key)]
    for key in different:
        told = key.endswith(("/refused", "/failed"))
        print(key if key in mine else f"{key} is gone", f": {theirs[key]}" if told else "")
        if key in old["records"] and key in new["records"]:
            for line in differences(old["records"][key], new["records"][key])[:8]:
                print(f"    {line[:200]}")
    added = [key for key in mine if key not in theirs]
    for key in added:
        told = key.endswith(("/refused", "/failed"))
        print(f"only new: {key}", f": {mine[key]}" if told else "")
    print(f"{len(theirs)} keys, {len(different)} differ, {len(added)} are new")
    return len(different)


def cli():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="write the digests to this JSON file")
    parser.add_argument("--compare", type=Path, help="an older file, to compare with")
    parser.add_argument("--read", type=Path, help="take the digests from this file; run nothing")
    parser.add_argument("--only", default="*", help="shell pattern of the cases")
    given = parser.parse_args()
    new = json.loads(given.read.read_text()) if given.read else run(given.only)
    kinds = [key.rpartition("/")[2] for key in new["digests"]]
    print(
        f"{steppe.__file__}: {len(kinds)} keys, {kinds.count('refused')} refused, "
        f"{kinds.count('failed')} failed, seconds {new['seconds']}"
    )
    if given.out:
        given.out.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
    if given.compare:
        sys.exit(bool(compare(json.loads(given.compare.read_text()), new, given.only)))


if __name__ == "__main__":
    cli()
