"""What can be compared: revisions of a repository from every place, cases, callables with children or threads."""

import colorsys
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantkit import compare_latency, state
from quantkit.errors import CaseFailed, InvalidSetting
from quantkit.latency import own, protocol, worker
from quantkit.latency.revision import checkout
from quantkit.latency.side import Host, Side, import_path
from tests.latency_stand import FEW, QUICK, committed, git, timed_module


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """These tests are of the protocol: what else runs on the machine is of no account."""
    monkeypatch.setenv("QUANTKIT_DISTURBED", "again")
    monkeypatch.setattr(state, "disturbances", lambda *_: ())


@pytest.fixture
def repository(tmp_path):
    """Two revisions of a module; in the second it takes twice as long on a clock of its own."""
    for seconds in ("0.001", "0.002"):
        committed(tmp_path / "code", {"timed_here.py": timed_module(seconds)}, seconds)
    return tmp_path / "code"


def test_two_revisions_are_compared_each_from_its_own_files(repository):
    with checkout("HEAD~1", repository) as old, checkout("main", repository) as new:
        sides = [own.named("timed_here:Call", name, at) for at, name in ((old, "old"), (new, "new"))]
        found = protocol.compare(*sides, rule=FEW, pace=QUICK)

    assert found.verdict == "slower" and found.speedup.value == pytest.approx(0.5)
    assert not old.files.exists() and not list(repository.glob(".git/worktrees/*"))


def test_a_revision_that_is_not_there_is_refused(repository):
    with pytest.raises(InvalidSetting, match="revision 'nowhere'"), checkout("nowhere", repository):
        pass


def test_the_command_compares_factories_of_revisions(repository, monkeypatch, capsys, tmp_path):
    from quantkit.cli import main

    monkeypatch.chdir(repository)
    monkeypatch.setenv("QUANTKIT_HOME", str(tmp_path / "home"))
    words = ["latency", "HEAD~1@timed_here:Call", "HEAD@timed_here:Call", "--json", str(tmp_path / "found.json")]

    status = main(words)

    said = capsys.readouterr().out
    assert status == 1 and "verdict: slower" in said and "0.500" in said
    assert json.loads((tmp_path / "found.json").read_text())["verdict"] == "slower"


@pytest.fixture
def project(plugins, home, monkeypatch):
    """A repository with the plug-ins of the tests; in its second revision their backend takes 2 ms longer a call."""
    folder = home / "project"
    shutil.copytree(os.environ["QUANTKIT_PLUGINS"], folder / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "fast")
    backend = folder / "plugins" / "backends" / "grid.py"
    code = backend.read_text()
    slow = code.replace(
        "    def run(self, fed):\n", "    def run(self, fed):\n        __import__('time').sleep(0.002)\n"
    )
    assert slow != code
    backend.write_text(slow)
    git(folder, "commit", "-am", "slow")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QUANTKIT_PLUGINS", "plugins")
    return folder


def test_a_case_is_compared_as_two_revisions_build_and_run_it(project, capsys):
    from quantkit.cli import main

    words = ["latency", "HEAD~1@tiny_plane-fp32-grid-cpu", "tiny_plane-fp32-grid-cpu"]

    assert main(words) == 1
    said = capsys.readouterr().out
    assert "tiny_plane-fp32-grid-cpu against HEAD~1@tiny_plane-fp32-grid-cpu" in said and "verdict: slower" in said


def test_a_revision_that_cannot_build_a_case_is_one_line(project, capsys):
    from quantkit.cli import main

    (project / "plugins" / "backends" / "grid.py").write_text("import nowhere\n")
    git(project, "commit", "-am", "broken")
    git(project, "checkout", "HEAD~1", ".")
    (project / "quantkit").mkdir()
    (project / "quantkit" / "__init__.py").touch()
    git(project, "add", "-A")
    git(project, "commit", "-m", "another quantkit")

    assert main(["latency", "HEAD~1@tiny_plane-fp32-grid-cpu", "tiny_plane-fp32-grid-cpu"]) == 2
    broken = capsys.readouterr().err
    assert main(["latency", "HEAD@tiny_plane-fp32-grid-cpu", "tiny_plane-fp32-grid-cpu"]) == 2
    older = capsys.readouterr().err

    assert "cannot be built at HEAD~1: " in broken and "nowhere" in broken and "Traceback" not in broken
    assert "HEAD has a quantkit that does not know this comparison" in older and "module:factory" in older


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing", "timed_here:Call"], "a case is MODEL-METHOD-BACKEND-TARGET"),
        (["fmnist_cnn-fp31-onnxruntime-cpu", "timed_here:Call"], "no method named 'fp31'"),
        (["timed_here:Call", "timed_here:Cal", "--limit", "2"], "AttributeError"),
        (["timed_here:Call", "nowhere:make"], "ModuleNotFoundError"),
        (["timed_here:Call", "timed_here:Call", "--limit", "0"], "--limit must be a positive number"),
        (["timed_here:Call", "timed_here:Call", "--alpha", "2"], "alpha must be between 0 and 1"),
        (["timed_here:Call", "timed_here:Call", "--alpha", "1e-300"], "alpha must be between 0 and 1"),
        (["timed_here:Call", "timed_here:Call", "--floor", "0.6"], "the floor must be at least 0 and below 0.1"),
    ],
)
def test_wrong_words_are_one_line(repository, monkeypatch, capsys, words, said):
    from quantkit.cli import main

    monkeypatch.chdir(repository)

    assert main(["latency", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_the_command_writes_json_of_a_machine_too_busy_to_measure(repository, monkeypatch, capsys, tmp_path):
    from quantkit.cli import main

    monkeypatch.chdir(repository)
    monkeypatch.setenv("QUANTKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(state, "disturbances", lambda *_: ("others took 80 % of a core",))
    file = tmp_path / "found.json"

    assert main(["latency", "HEAD@timed_here:Call", "HEAD@timed_here:Call", "--json", str(file)]) == 3

    assert "verdict: inconclusive: the machine is busy" in capsys.readouterr().out
    assert json.loads(file.read_text())["reference_s"] is None


def test_an_artifact_is_a_side(tmp_path, monkeypatch):
    from quantkit.latency.artifact import side_of
    from quantkit.pipeline.settings import Settings
    from quantkit.records import Case

    monkeypatch.setenv("QUANTKIT_HOME", str(tmp_path))
    case = Case("fmnist_cnn", "fp32", "onnxruntime", "cpu")

    side = side_of(case, Settings(), lambda line: None)
    with Host(side) as host:
        load = host.load(side)
        seconds = load.time(0.0, 10, 10)
        load.end()

    assert len(seconds) == 10 and 0 < min(seconds) < 1 and Path(side.spec[3]).is_dir()


def latency(*words):
    from quantkit.cli import main

    return main(["latency", *words])


def test_a_revision_from_a_sub_directory_is_the_same_place_in_it(home, monkeypatch):
    """`git archive` of a sub-directory packs that part alone, under other names."""
    for seconds in ("0.001", "0.002"):
        committed(home / "code", {"part/timed_here.py": timed_module(seconds), "top.py": ""})
    monkeypatch.chdir(home / "code" / "part")

    assert latency("HEAD~1@timed_here:Call", "HEAD@timed_here:Call") == 1
    with checkout("HEAD~1") as at:
        assert (at.here, at.moved("../top.py")) == (at.files / "part", at.files / "top.py")
        assert at.path[0] == str(at.here) and at.moved("/etc") == Path("/etc")


def test_a_case_from_a_sub_directory_takes_the_plug_ins_of_its_revision(project, monkeypatch, capsys):
    (project / "deep").mkdir()
    (project / "deep" / "kept").touch()
    git(project, "add", "-A")
    git(project, "commit", "-m", "a folder")
    monkeypatch.chdir(project / "deep")
    monkeypatch.setenv("QUANTKIT_PLUGINS", "../plugins")

    assert latency("HEAD~1@tiny_plane-fp32-grid-cpu", "tiny_plane-fp32-grid-cpu") == 2, "it has no such folder"
    assert "has no folder deep" in capsys.readouterr().err
    (project / "plugins" / "backends" / "grid.py").write_text(
        (project / "plugins" / "backends" / "grid.py").read_text().replace("0.002", "0.006")
    )
    assert latency("HEAD@tiny_plane-fp32-grid-cpu", "tiny_plane-fp32-grid-cpu") == 1
    assert "HEAD holds no quantkit: the installed one builds and runs it" in capsys.readouterr().err


def test_a_case_is_built_by_the_quantkit_of_the_revision_wherever_one_stands(plugins, home, monkeypatch):
    from quantkit.latency.artifact import side_at
    from quantkit.pipeline.plan import case_of
    from quantkit.pipeline.settings import Settings

    build = "def build_to(case, threads, out): open(out, 'w').write(__file__)\n"
    files = {"quantkit/__init__.py": "", "quantkit/latency/__init__.py": "", "quantkit/latency/artifact.py": build}
    committed(home / "code", files | {"part/kept": ""})
    monkeypatch.chdir(home / "code" / "part")

    with checkout("HEAD") as at:
        side = side_at(at, case_of("tiny_plane-fp32-grid-cpu"), Settings(), lambda line: None)
        built_by = side.spec[3][3]

        assert side.spec[:3] == ("of", str(at.files), str(at.tree)) and side.path[0] == str(at.files)
        assert built_by == str(at.files / "quantkit" / "latency" / "artifact.py")


@pytest.mark.parametrize("how", ["environment", "import path"])
def test_the_module_of_a_revision_is_taken_though_the_working_tree_is_on_the_path(home, monkeypatch, how):
    """A src layout, installed for development or with PYTHONPATH=src."""
    for seconds in ("0.001", "0.002"):
        committed(home / "code", {"src/timed_src.py": timed_module(seconds)})
    monkeypatch.chdir(home / "code")
    if how == "environment":
        monkeypatch.setenv("PYTHONPATH", "src")
    monkeypatch.syspath_prepend(str(home / "code" / "src"))

    assert latency("HEAD~1@timed_src:Call", "HEAD@timed_src:Call") == 1


def test_a_module_that_came_from_elsewhere_is_refused(home, monkeypatch, capsys):
    """An installation for development may find modules by a finder of its own: then nothing is compared."""
    committed(home / "code", {"src/timed_found.py": timed_module("0.001"), "here.py": "import timed_found\nmake = 0\n"})
    outside = home / "outside"
    outside.mkdir()
    (outside / "timed_found.py").write_text(timed_module("0.001"))
    monkeypatch.chdir(home / "code")
    monkeypatch.syspath_prepend(str(outside))

    assert latency("HEAD@timed_found:Call", "HEAD@timed_found:Call") == 2
    said = capsys.readouterr().err
    assert f"module timed_found came from {outside / 'timed_found.py'}" in said and "Traceback" not in said


def test_modules_of_the_working_tree_beside_the_factory_are_refused(tmp_path, monkeypatch):
    tree, files = tmp_path / "tree", tmp_path / "files"
    for folder in (tree, files):
        folder.mkdir()
        (folder / "beside_it.py").touch()
    (files / "made_here.py").write_text("import beside_it\n\ndef make():\n    return print\n")
    monkeypatch.setattr(sys, "path", [str(files), *sys.path])
    spec = ("factory", "made_here:make")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tree / "beside_it.py"), raising=False)
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])  # as some libraries name it
    made = worker.made_of(str(files), str(tree), spec)
    monkeypatch.setattr(sys.modules["beside_it"], "__file__", str(tree / "beside_it.py"))

    assert made[0] is print
    with pytest.raises(ImportError, match="module beside_it came from the working tree"):
        worker.made_of(str(files), str(tree), spec)


def test_a_virtual_environment_in_the_repository_is_no_part_of_the_revision(home, monkeypatch):
    committed(home / "code", {"src/a.py": "", "old/b.py": "", ".gitignore": ".venv"})
    (home / "code" / ".venv" / "lib").mkdir(parents=True)
    committed(home / "code", {"new/c.py": ""})
    tree = home / "code"
    monkeypatch.chdir(tree)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["src", "new", ".venv/lib", "/nowhere"]))

    with checkout("HEAD~1") as at:
        found = at.environment["PYTHONPATH"].split(os.pathsep)

    assert found == [*map(str, (at.files, at.files / "src", at.files / "new", tree / ".venv/lib")), "/nowhere"]


def test_links_that_lead_outside_are_unpacked_as_they_are(home):
    (home / "code").mkdir()
    (home / "code" / "data").symlink_to("/nowhere/data")
    (home / "code" / "up").symlink_to("../../up")
    committed(home / "code", {"a.py": ""})

    with checkout("HEAD", home / "code") as at:
        assert str((at.files / "data").readlink()) == "/nowhere/data" and (at.files / "up").is_symlink()


def test_without_git_it_says_so(repository, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(InvalidSetting, match="git cannot be run"), checkout("HEAD", repository):
        pass


def test_the_working_directory_is_searched_from_a_prompt_too(tmp_path, monkeypatch):
    """An interpreter that reads from a prompt or -c has '' for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/usr/lib/nowhere.zip", "__editable__.some.finder"])

    assert import_path() == (str(tmp_path), "/usr/lib/nowhere.zip", "__editable__.some.finder")


def test_the_modules_of_a_script_are_imported_once():
    def call():
        return colorsys.rgb_to_hls(0, 0, 0)

    call.__module__ = "__main__"

    assert "colorsys" in own._side(call, "candidate", False).modules


def failing_child():
    subprocess.run(["false"], check=True)


def asking_child():
    assert os.system("exit 3") >> 8 == 3


def working_child():
    subprocess.run([sys.executable, "-S", "-c", "while __import__('time').process_time() < 0.3: pass"], check=True)


def test_what_is_timed_can_ask_how_its_processes_ended():
    with pytest.raises(CaseFailed, match="CalledProcessError"):
        compare_latency(asking_child, failing_child, rule=FEW, pace=QUICK)


def test_processor_time_of_children_is_its_own():
    """Else each comparison of what starts processes would find the machine busy."""
    side = own._side(working_child, "candidate", False)
    with Host(side) as host:
        load = host.load(side)
        load.time(0.0, 1, 1)
        load.end()

    assert load.cpu_s >= 0.3


POOLED = """
from concurrent.futures import ThreadPoolExecutor
POOL = ThreadPoolExecutor(1)
assert POOL.submit(abs, 1).result() == 1
class Call:
    now = 0.0
    def clock(self): return self.now
    def __call__(self): self.now += POOL.submit(abs, 0.001).result()
class Slow(Call):
    def __call__(self): self.now += POOL.submit(abs, 0.002).result()
"""


def test_a_module_that_starts_threads_gets_a_process_for_every_load(tmp_path, monkeypatch):
    """A fork would lack the pool's thread, and wait for it for ever."""
    (tmp_path / "pooled.py").write_text(POOLED)
    monkeypatch.chdir(tmp_path)
    sides, said = [own.named("pooled:Call"), own.named("pooled:Slow")], []

    found = protocol.compare(*sides, rule=FEW, pace=QUICK, say=said.append)

    assert found.verdict == "slower" and found.speedup.value == pytest.approx(0.5)
    assert len([line for line in said if "every load is a process of its own" in line]) == 1


@pytest.mark.parametrize("module", ["numpy", "onnxruntime", "torch"])
def test_ordinary_imports_do_not_stop_forks(module):
    pytest.importorskip(module)
    side = Side("ordinary", ("factory", "time:localtime"), modules=(module,))
    with Host(side) as host:
        assert host._forks


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(repository, monkeypatch, capsys, home):
    monkeypatch.chdir(repository)
    monkeypatch.setattr(protocol, "compare", lambda *_, **__: pytest.fail("measured"))
    (home / "file").touch()

    for place in (home / "file" / "found.json", home):
        assert latency("timed_here:Call", "timed_here:Call", "--json", str(place)) == 2
        assert f"cannot write {place}" in capsys.readouterr().err


def test_the_confidence_is_said_as_it_is(repository, monkeypatch, capsys, home):
    monkeypatch.chdir(repository)

    assert latency("timed_here:Call", "timed_here:Call", "--alpha", "0.001") == 0
    assert "(99.9%, all looks together)" in capsys.readouterr().out
