"""What is written appears whole or not at all, by one run at a time; nothing else is ever removed."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from MoBUncertaintyLib.base import publishing
from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.integrity import check_manifest
from MoBUncertaintyLib.base.publishing import make_private_folder, remove_leftovers, remove_private_folder, sweep
from support import TESTS
from support.marks import needs_posix
from support.publishing import KIND, fill


def written(folder: Path, content: str, overwrite: bool = False) -> list[str]:
    with KIND.reserve(folder, overwrite) as place, place.writing() as partial:
        fill(partial, content)
    return place.warnings


def content(folder: Path) -> str:
    return (folder / "map.nii.gz").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWhatIsNotOfThisRun:
    @pytest.mark.parametrize("name", ["out", "out/notes.txt"])
    def test_what_appears_under_the_name_or_in_the_folder_meanwhile_is_kept(self, tmp_path, name):
        with KIND.reserve(tmp_path / "out") as place, place.writing() as partial:
            fill(partial, "new")
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("of somebody else")
        assert content(tmp_path / "out") == "new"
        assert (tmp_path / name.replace("out", "out.kept-1")).read_text() == "of somebody else"
        assert len(place.warnings) == 1 and str(tmp_path / "out.kept-1") in place.warnings[0]
        assert names(tmp_path) == ["out", "out.kept-1"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda out: (out / "probability_my own correction.nii.gz").write_text("hours of work"),
            lambda out: (out / "map.nii.gz").write_text("corrected in place: hours of work"),
            lambda out: (out / "review").mkdir(),
            lambda out: fill(out, "of a run that knew nothing of locks"),
        ],
        ids=["a file more", "a file changed", "a folder", "another run"],
    )
    def test_earlier_results_are_kept_if_somebody_has_touched_them_meanwhile(self, tmp_path, change):
        out = fill(tmp_path / "out", "earlier")
        with KIND.reserve(out, overwrite=True) as place, place.writing() as partial:
            fill(partial, "new")
            change(out)
            touched = {path.name: path.is_dir() or path.read_text() for path in out.iterdir()}
        kept = tmp_path / "out.kept-1"
        assert {path.name: path.is_dir() or path.read_text() for path in kept.iterdir()} == touched
        assert content(out) == "new"
        assert str(kept) in place.warnings[0]

    def test_earlier_kept_folders_stay(self, tmp_path):
        for name in ("first", "second"):
            out = fill(tmp_path / "out", name)
            (out / "map.nii.gz").write_text(f"{name}, corrected")
            assert len(written(out, "new", overwrite=True)) == 1
        assert names(tmp_path) == ["out", "out.kept-1", "out.kept-2"]
        assert content(tmp_path / "out.kept-1") == "first, corrected"

    def test_file_that_the_record_does_not_list_is_refused_before_the_work(self, tmp_path):
        out = fill(tmp_path / "out", "earlier")
        (out / "probability_my own correction.nii.gz").write_text("hours of work")
        with pytest.raises(OutputError):
            written(out, "new", overwrite=True)
        assert names(out) == ["map.nii.gz", "prediction.json", "probability_my own correction.nii.gz"]

    def test_untouched_earlier_results_go_and_what_the_system_leaves_does_not_matter(self, tmp_path):
        out = fill(tmp_path / "out", "earlier")
        for name in (".DS_Store", "._map.nii.gz", "Thumbs.db"):
            (out / name).write_bytes(b"of the system")
        assert written(out, "new", overwrite=True) == []
        assert names(tmp_path) == ["out"]
        assert names(out) == ["map.nii.gz", "prediction.json"]


WRITES = """
import sys, time
from pathlib import Path
from MoBUncertaintyLib.base import publishing
from support.publishing import KIND, fill
target, stop = sys.argv[1:]
def wait(*_):
    print("now", flush=True)
    time.sleep(600)
with KIND.reserve(target, overwrite=True) as place, place.writing() as partial:
    fill(partial, "new")
    if stop == "while writing":
        wait()
    if stop == "before the second renaming":
        publishing.rename_new = wait
    if stop == "before the earlier folder goes":
        publishing._retire = wait
"""


@pytest.fixture
def writer() -> Iterator:
    """Starts another process that writes a folder, up to where it is told to stop."""
    processes = []

    def start(target: Path, stop: str = "while writing") -> subprocess.Popen:
        code = [sys.executable, "-c", WRITES, str(target), stop]
        process = subprocess.Popen(code, cwd=TESTS, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "now\n"
        return process

    yield start
    for process in processes:
        kill(process)
        process.stdout.close()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


class TestLock:
    def test_second_run_into_one_folder_is_refused(self, tmp_path, writer):
        writer(tmp_path / "out")
        with pytest.raises(OutputError):
            written(tmp_path / "out", "second")
        assert not (tmp_path / "out").exists()

    def test_it_ends_with_its_process(self, tmp_path, writer):
        kill(writer(tmp_path / "out"))
        assert len(names(tmp_path)) == 2  # the lock's file and the hidden folder
        assert written(tmp_path / "out", "second") == []
        assert names(tmp_path) == ["out"]

    def test_runs_into_neighbouring_folders_do_not_touch_each_other(self, tmp_path, writer):
        writer(tmp_path / "a")
        before = names(tmp_path)
        assert written(tmp_path / "b", "second") == []
        sweep(tmp_path)
        remove_leftovers(tmp_path / "a")
        assert names(tmp_path) == [*before, "b"]

    def test_only_one_of_many_at_a_time(self, tmp_path):
        """Threads stand for processes: a lock keeps off whoever has opened its file anew."""
        inside, most, lock = [], [], threading.Lock()

        def run() -> None:
            for _ in range(20):
                mine = publishing.Lock(tmp_path / ".out.mob-lock")
                while not mine.acquire():
                    pass
                with lock:
                    inside.append(1)
                    most.append(len(inside))
                with lock:
                    inside.pop()
                mine.release()

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 1
        assert names(tmp_path) == []

    def test_disk_without_locks_is_written_to_all_the_same(self, tmp_path, monkeypatch):
        def refuse(_descriptor):
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr("MoBUncertaintyLib.base.publishing._lock", refuse)
        (tmp_path / ".other.mob-0123abcd.tmp").mkdir()  # may be written to by somebody
        assert written(tmp_path / "out", "new") == []
        assert names(tmp_path) == [".other.mob-0123abcd.tmp", "out"]


LEFT = {"while writing": "earlier", "before the second renaming": "earlier", "before the earlier folder goes": "new"}


class TestKilled:
    @pytest.mark.parametrize("stop", LEFT)
    @pytest.mark.parametrize("repair", [remove_leftovers, lambda out: sweep(out.parent)], ids=["of one", "of all"])
    def test_one_whole_folder_is_left_once_somebody_looks(self, tmp_path, writer, stop, repair):
        out = fill(tmp_path / "out", "earlier")
        kill(writer(out, stop))
        repair(out)
        assert names(tmp_path) == ["out"]
        assert content(out) == LEFT[stop]
        check_manifest(out, json.loads((out / "prediction.json").read_text())["files"])

    def test_half_removed_earlier_folder_is_not_kept(self, tmp_path, monkeypatch):
        def killed(path, **_options):
            (path / "map.nii.gz").unlink()
            raise SystemExit

        out = fill(tmp_path / "out", "earlier")
        with monkeypatch.context() as patched, pytest.raises(SystemExit):
            patched.setattr(publishing.shutil, "rmtree", killed)
            written(out, "new", overwrite=True)
        sweep(tmp_path)
        assert names(tmp_path) == ["out"]
        assert content(out) == "new"

    def test_next_run_repairs_and_replaces(self, tmp_path, writer):
        out = fill(tmp_path / "out", "earlier")
        kill(writer(out, "before the second renaming"))
        with pytest.raises(OutputError):
            written(out, "third")
        assert content(out) == "earlier"
        assert written(out, "third", overwrite=True) == []
        assert names(tmp_path) == ["out"]

    def test_what_appeared_in_it_before_the_kill_is_kept(self, tmp_path, writer):
        out = fill(tmp_path / "out", "earlier")
        process = writer(out, "before the earlier folder goes")
        (old,) = tmp_path.glob(".out.*.old")
        (old / "notes.txt").write_text("written through a path that was open")
        kill(process)
        sweep(tmp_path)
        assert names(tmp_path) == ["out", "out.kept-1"]
        assert (tmp_path / "out.kept-1" / "notes.txt").exists()

    def test_leftovers_of_a_review_do_not_keep_results_from_being_replaced(self, tmp_path, writer):
        out = fill(tmp_path / "out", "earlier")
        process = writer(out / "review")
        with pytest.raises(OutputError):
            written(out, "new", overwrite=True)
        kill(process)
        assert written(out, "new", overwrite=True) == []
        assert names(tmp_path) == ["out"]

    @pytest.mark.parametrize("name", ["review", "[1] Ärzte & Söhne", "n" * 255, "臓" * 85])
    def test_any_name(self, tmp_path, name):
        with KIND.reserve(tmp_path / name) as place, place.writing() as partial:
            fill(partial, "new")
            hidden = names(tmp_path)
        assert len(hidden) == 2
        for left in hidden:
            (tmp_path / left).mkdir()
        others = [".another.0123abcd.tmp", f".{name[:9]}.mob-backup01.tmp", "x.tmp"]
        for other in others:
            (tmp_path / other).mkdir()
        with pytest.raises(OutputError):  # a folder has the lock's name
            written(tmp_path / name, "new", overwrite=True)
        (tmp_path / hidden[[name.endswith("lock") for name in hidden].index(True)]).rmdir()
        remove_leftovers(tmp_path / name)
        assert names(tmp_path) == sorted([name, *others])

    @pytest.mark.parametrize("target", [Path("missing") / "review", 5, None, "\0", "loop/review"])
    @needs_posix
    def test_nothing_happens_where_nothing_is(self, tmp_path, monkeypatch, target):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "loop").symlink_to("loop")
        remove_leftovers(target)
        assert names(tmp_path) == ["loop"]


class TestPrivateFolder:
    def test_it_is_private_and_goes(self, tmp_path):
        folder = make_private_folder("mob-model", tmp_path)
        if os.name == "posix":
            assert folder.stat().st_mode & 0o077 == 0
        (folder / "weights").write_text("")
        sweep(tmp_path)
        assert (folder / "weights").exists()
        remove_private_folder(folder)
        assert names(tmp_path) == []

    def test_that_of_a_killed_process_goes_when_the_next_starts(self, tmp_path):
        code = (
            "import os, sys; from MoBUncertaintyLib.base.publishing import make_private_folder as m\n"
            "(m('mob-model', sys.argv[1]) / 'weights').write_text(''); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        (tmp_path / "mob-models").mkdir()
        (tmp_path / "mob-model-of-mine").mkdir()
        assert len(names(tmp_path)) == 4
        sweep(tmp_path)
        assert names(tmp_path) == ["mob-model-of-mine", "mob-models"]


class TestPowerCut:
    def test_all_is_on_the_disk_before_it_takes_its_name_and_the_name_before_the_earlier_goes(
        self, tmp_path, monkeypatch
    ):
        """The order of the system's calls: what a power cut leaves is what had been synchronised before it."""
        out, calls = fill(tmp_path / "out", "earlier"), []
        paths: dict[int, str] = {}

        def seen(name: str) -> str:
            path = Path(name)
            return "/".join("HIDDEN" + path_.suffix if ".mob-" in (path_ := Path(part)).name else part
                            for part in path.relative_to(tmp_path).parts) or "."  # fmt: skip

        real_open, real_fsync, real_rename, real_rmtree = os.open, os.fsync, os.rename, publishing.shutil.rmtree

        def open_(path, *rest, **options):
            descriptor = real_open(path, *rest, **options)
            paths[descriptor] = str(path)
            return descriptor

        def fsync(descriptor):
            calls.append(("sync", seen(paths[descriptor])))
            real_fsync(descriptor)

        def rename(source, target, **options):
            calls.append(("rename", seen(source), seen(target)))
            real_rename(source, target, **options)

        def rmtree(path, **options):
            calls.append(("remove", seen(path)))
            real_rmtree(path, **options)

        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", rename)
        monkeypatch.setattr(publishing.shutil, "rmtree", rmtree)
        assert written(out, "new", overwrite=True) == []
        files, rest = calls[:2], calls[2:]
        assert sorted(files) == [("sync", "HIDDEN.tmp/map.nii.gz"), ("sync", "HIDDEN.tmp/prediction.json")]
        assert rest == [
            ("sync", "HIDDEN.tmp"),
            ("rename", "out", "HIDDEN.old"),
            ("rename", "HIDDEN.tmp", "out"),
            ("sync", "."),
            ("rename", "HIDDEN.old", "HIDDEN.tmp"),
            ("remove", "HIDDEN.tmp"),
        ]

    def test_file_that_cannot_reach_the_disk_leaves_all_as_it_was(self, tmp_path, monkeypatch):
        def fail(_descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        out = fill(tmp_path / "out", "earlier")
        monkeypatch.setattr(publishing.os, "fsync", fail)
        with pytest.raises(OutputError):
            written(out, "new", overwrite=True)
        assert names(tmp_path) == ["out"]
        assert content(out) == "earlier"


class TestPlace:
    def test_parents_that_were_made_for_nothing_go_again(self, tmp_path):
        with pytest.raises(OutputError), KIND.reserve(tmp_path / "new" / "deep" / "out"):
            raise OutputError("The image is no image.")
        assert names(tmp_path) == []

    def test_other_errors_are_not_taken_for_those_of_the_disk(self, tmp_path):
        with pytest.raises(FileNotFoundError), KIND.reserve(tmp_path / "out"):
            raise FileNotFoundError("the CT")

    def test_name_of_a_file_is_refused(self, tmp_path):
        for name in ("seg.nii.gz", "SEG.NII", "a.nrrd", "report.json"):
            with pytest.raises(OutputError):
                KIND.check_name(tmp_path / name)
        KIND.check_name(tmp_path / "patient.1")

    def test_disk_of_its_own(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
        with pytest.raises(OutputError):
            KIND.check(tmp_path / "out")


@needs_posix
def test_interrupted_writing_leaves_nothing(tmp_path, writer):
    process = writer(tmp_path / "out")
    process.send_signal(signal.SIGINT)
    process.wait()
    assert names(tmp_path) == []
