"""The library is compiled once, whatever else goes on; what is damaged is compiled again.

Most of it runs on a copy of the package that has only the portable kernels, without torch: that
compiles in a second.
"""

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from steppe.sparse.native import build, compiler, interface

SHOW = """
import json
from native.build import loaded
one = loaded()
print(json.dumps([str(one.path), one.record.instruction_sets, one.record.left_out, one.said]))
"""


@pytest.fixture(scope="session")
def cc():
    """A compiler, or the tests are skipped."""
    try:
        return compiler.compiler()
    except interface.Unusable as error:
        pytest.skip(str(error))


@pytest.fixture
def package(tmp_path, cc):
    """A copy of the package, with the portable kernels only."""
    copy = tmp_path / "package" / "native"
    copy.mkdir(parents=True)
    for file in build.SOURCES.iterdir():
        if file.suffix in {".py", ".c", ".h"} and not file.name.startswith("kernels_"):
            shutil.copy(file, copy)
    shutil.copy(build.SOURCES / "kernels_portable.c", copy)
    flags = (copy / "compiler.py").read_text()
    assert '"-O3"' in flags
    (copy / "compiler.py").write_text(flags.replace('"-O3"', '"-O0"'))  # these do not look at speed
    return copy


@pytest.fixture
def run(package, tmp_path):
    """Loads in a process of its own: (path, instruction sets, left out, said)."""

    def start(code=SHOW, **more):
        kept = {name: value for name, value in os.environ.items() if name != "STEPPE_SPARSE_CACHE"}
        environment = {**kept, "XDG_CACHE_HOME": str(tmp_path / "xdg"), **more}
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=package.parent,
            env={name: value for name, value in environment.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(process):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return json.loads(out)

    def both(code=SHOW, **more):
        return finish(start(code, **more))

    both.start, both.finish = start, finish
    return both


@pytest.fixture
def logged(tmp_path, cc):
    """A compiler that writes down how often it links."""
    script, log = tmp_path / "logged-cc", tmp_path / "links"
    log.touch()
    real = " ".join(cc.command)
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *-shared*) echo link >> {log};; esac\nexec {real} "$@"\n'
    )
    script.chmod(0o755)
    return script, lambda: len(log.read_text().splitlines())


def test_it_is_compiled_once_and_kept(run, logged):
    script, links = logged
    first = run(STEPPE_SPARSE_CC=str(script))
    assert first[1:] == [["portable"], {}, ""]
    assert "xdg/steppe/native" in first[0]
    assert run(STEPPE_SPARSE_CC=str(script)) == first
    assert links() == 1


def test_of_two_processes_at_once_one_compiles(run, logged):
    script, links = logged
    processes = [run.start(STEPPE_SPARSE_CC=str(script)) for _ in range(3)]
    first, *others = [run.finish(process) for process in processes]
    assert others == [first, first]
    assert links() == 1


def test_a_process_that_was_killed_leaves_nothing_in_the_way(run, package, tmp_path):
    holder = textwrap.dedent("""
        import time
        from native import build
        folder = build.cache_folder() / build.key(build.compiler())
        with build.alone(folder):
            (folder / "building" / "half").mkdir(parents=True)
            print("[]", flush=True)
            time.sleep(600)
    """)
    process = run.start(holder)
    assert process.stdout.readline() == "[]\n"
    waiting = run.start()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    path, *_ = run.finish(waiting)
    assert sorted(os.listdir(os.path.dirname(path))) == [build.RECORD, build.NAME]


def open_to_all(folder):
    folder.chmod(0o777)


def open_to_a_group(folder):
    folder.chmod(0o770)


def of_another(folder):
    if os.geteuid():
        pytest.skip("only the system's administrator gives folders away")
    os.chown(folder, 4242, 4242)


@pytest.mark.parametrize("harm", [open_to_all, open_to_a_group, of_another])
@pytest.mark.parametrize("place", ["cache", "folder", "file"])
def test_what_others_may_have_put_there_is_not_loaded(run, logged, harm, place, tmp_path):
    script, links = logged
    first = run(STEPPE_SPARSE_CC=str(script))
    file = build.Path(first[0])
    harm({"cache": file.parent.parent, "folder": file.parent, "file": file}[place])
    path, sets, _, said = run(STEPPE_SPARSE_CC=str(script))
    assert (sets, links()) == (["portable"], 2)
    if place == "cache":  # nothing may be kept there
        assert not path.startswith(str(tmp_path / "xdg"))
        assert "compiled for this process alone: " in said
        assert str(file.parent.parent) in said
        assert "name a folder of your own in STEPPE_SPARSE_CACHE" in said
    else:
        assert not os.path.exists(path) or os.stat(path).st_uid == os.geteuid()


def test_a_folder_above_that_all_may_rename_in(run, tmp_path):
    (tmp_path / "xdg").mkdir()
    (tmp_path / "xdg").chmod(0o777)
    path, *_, said = run()
    assert f"others may write to {tmp_path / 'xdg'}" in said
    assert not path.startswith(str(tmp_path / "xdg"))
    (tmp_path / "xdg").chmod(0o1777)  # as /tmp: each has what he made
    assert run()[0].startswith(str(tmp_path / "xdg"))


def test_a_cache_is_made_for_its_user_alone(run):
    """Whatever the mask of new files is."""
    path, *_ = run(f"import os\nos.umask(0)\n{SHOW}")
    modes = {
        oct(stat.S_IMODE(os.stat(one).st_mode))
        for one in (os.path.dirname(path), os.path.dirname(os.path.dirname(path)))
    }
    assert modes == {"0o700"}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    assert run()[0] == path


def test_without_a_compiler_what_others_may_have_put_there_is_not_loaded_either(run):
    path, *_ = run()
    os.chmod(os.path.dirname(path), 0o777)
    process = run.start(PATH="", CC=None)
    _, err = process.communicate(timeout=60)
    assert "no C compiler answers" in err.splitlines()[-1]
    assert f"others may write to {os.path.dirname(path)}" in err.splitlines()[-1]


OTHER_PROCESSOR = f"""
from native import build, compiler
build.processor = lambda: "another"
{SHOW}
"""


def test_options_may_bind_a_library_to_a_processor(run, logged, cc):
    """A home that two machines share: what -march=native made for one may end the other."""
    script, links = logged
    native = f"{script} -DNATIVE"
    first, other = run(STEPPE_SPARSE_CC=native), run(OTHER_PROCESSOR, STEPPE_SPARSE_CC=native)
    assert first[0] != other[0]
    assert (run(STEPPE_SPARSE_CC=native), links()) == (first, 2)
    plain = run(STEPPE_SPARSE_CC=str(script))
    assert run(OTHER_PROCESSOR, STEPPE_SPARSE_CC=str(script)) == plain
    assert links() == 3


def test_without_a_compiler_only_this_processors_library_is_used(run, cc):
    first = run(STEPPE_SPARSE_CC=f"{' '.join(cc.command)} -DNATIVE")
    assert run(PATH="", CC=None) == first
    _, err = run.start(OTHER_PROCESSOR, PATH="", CC=None).communicate(timeout=60)
    assert f"{first[0]} is for another processor" in err.splitlines()[-1]


def test_what_nobody_uses_any_more_is_swept(run, tmp_path):
    cache = tmp_path / "xdg" / "steppe" / "native"
    cache.mkdir(parents=True, mode=0o700)
    now = time.time()
    for number in range(12):
        (cache / f"{number:032x}").mkdir()
        file = cache / f"{number:032x}" / build.NAME
        file.touch()
        days = 91 if number == 1 else number / 24
        os.utime(file, (now - days * 86_400,) * 2)
    (cache / "not ours").mkdir()
    (cache / "not ours" / build.NAME).touch()
    os.utime(cache / "not ours" / build.NAME, (0, 0))
    path, *_ = run()
    left = {one.name for one in cache.iterdir() if one.is_dir()}
    assert left == {os.path.basename(os.path.dirname(path)), "not ours"} | {
        f"{number:032x}" for number in (0, 2, 3, 4, 5, 6, 7)
    }
    os.utime(path, (0, 0))
    run()
    assert os.stat(path).st_mtime > now - 60, "it is in use"


def half(library, record):
    library.write_bytes(library.read_bytes()[:5000])


def foreign(library, record):
    """A library of another processor, that is whole: its record fits."""
    library.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xb7" + bytes(500))
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"digest": build._digest(library)}))


def gone(library, record):
    library.unlink()


def without_record(library, record):
    record.unlink()


def empty_record(library, record):
    record.write_text("")


def other_record(library, record):
    record.write_text('{"sources": "a"}')


@pytest.mark.parametrize("harm", [half, foreign, gone, without_record, empty_record, other_record])
def test_what_is_damaged_is_compiled_again(run, package, harm, logged):
    script, links = logged
    first = run(STEPPE_SPARSE_CC=str(script))
    path = os.path.dirname(first[0])
    folder = type(package)(path)
    harm(folder / build.NAME, folder / build.RECORD)
    assert run(STEPPE_SPARSE_CC=str(script)) == first
    assert run(STEPPE_SPARSE_CC=str(script)) == first
    assert links() == 2


def test_other_sources_are_compiled_anew(run, package):
    path, *_ = run()
    with open(package / "internal.h", "a") as file:
        file.write("/* more */\n")
    other, *_ = run()
    assert os.path.dirname(other) != os.path.dirname(path)
    assert run()[0] == other


def test_a_cache_that_cannot_be_written_costs_a_private_folder(run, tmp_path):
    (tmp_path / "file").touch()
    path, sets, _, said = run(XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert sets == ["portable"]
    assert "compiled for this process alone" in said
    assert not os.path.exists(os.path.dirname(path))


def test_a_home_that_may_only_be_read(run, tmp_path):
    """A library that lies there is used; without one there is a private folder."""
    home = tmp_path / "home"
    home.mkdir()
    kept = run(XDG_CACHE_HOME=None, HOME=str(home))
    assert kept[0].startswith(str(home / ".cache" / "steppe" / "native"))
    for folder, _, files in os.walk(home):
        for name in files:
            os.chmod(os.path.join(folder, name), stat.S_IRUSR)
        os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert run(XDG_CACHE_HOME=None, HOME=str(home)) == kept
    finally:
        for folder, _, _ in os.walk(home):
            os.chmod(folder, stat.S_IRWXU)


def test_a_home_without_a_library_that_may_only_be_read(run, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(stat.S_IRUSR | stat.S_IXUSR)
    may_write = os.access(home, os.W_OK)  # the system's administrator may always
    _, sets, _, said = run(XDG_CACHE_HOME=None, HOME=str(home))
    assert sets == ["portable"]
    assert ("Permission denied" in said) == (not may_write)


def test_a_compiler_that_refuses_is_asked_once(run, tmp_path, cc):
    log, script = tmp_path / "log", tmp_path / "refusing-cc"
    script.write_text(
        '#!/bin/sh\ncase "$*" in *-c*) echo a >> '
        f'{log}; echo "error: no memory" >&2; exit 1;; esac\nexec {cc.command[0]} "$@"\n'
    )
    script.chmod(0o755)
    process = run.start(STEPPE_SPARSE_CC=str(script))
    _, err = process.communicate(timeout=60)
    assert err.strip().endswith(f"does not compile with {script}: error: no memory")
    assert log.read_text() == "a\n"


def test_without_a_compiler_an_earlier_library_is_used(run, tmp_path):
    first = run()
    assert run(PATH="", CC=None) == first
    nothing = run.start(PATH="", CC=None, XDG_CACHE_HOME=str(tmp_path / "other"))
    _, err = nothing.communicate(timeout=60)
    assert (
        err.strip()
        .splitlines()[-1]
        .startswith(
            "native.interface.Unusable: no C compiler answers (tried cc, gcc, clang); install gcc"
        )
    )


def test_a_library_in_the_package_comes_first(run, package, cc):
    copied = package / "_lib"
    run("from native import build\nbuild.compiled(build.compiler(), build.CARRIED)\nprint('[]')")
    path, *_, said = run(PATH="", CC=None)
    assert path == str(copied / build.NAME)
    assert said == ""
    with open(package / "internal.h", "a") as file:
        file.write("/* more */\n")
    path, *_, said = run()
    assert not path.startswith(str(package))
    assert "of other sources" in said


def test_a_lock_is_one(tmp_path):
    with (
        build.alone(tmp_path / "a"),
        open(tmp_path / "a.lock", "a") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / "a.lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.cache_folder({}) == tmp_path / ".cache" / "steppe" / "native"
    assert build.cache_folder({"XDG_CACHE_HOME": "/x"}) == build.Path("/x/steppe/native")
    assert build.cache_folder({"STEPPE_SPARSE_CACHE": "/y"}) == build.Path("/y")
