"""`tools/install.py`: the lock is installed, from any state of the environment, or the error says what to do."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "install.py"
LOCK = ROOT / "constraints.txt"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = tool()

BACKEND = '''"""A build backend of one editable wheel."""
import os, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "sortednet-0.1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        info = "sortednet-0.1.dist-info/"
        wheel.writestr("sortednet.pth", os.getcwd())
        wheel.writestr(info + "METADATA", METADATA)
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        names = ["sortednet.pth", info + "METADATA", info + "WHEEL", info + "RECORD"]
        wheel.writestr(info + "RECORD", "".join(name + ",,\\n" for name in names))
    return name

METADATA = """Metadata-Version: 2.1
Name: sortednet
Version: 0.1
Requires-Dist: alpha>=1
Provides-Extra: dev
"""
'''


def add_wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """Write a wheel of one module, whose version it holds."""
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": f"VERSION = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)


class Project:
    """A project of the same layout with two tiny dependencies, alpha and beta, and a folder as the registry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venv = folder / "venv"
        self.site = self.venv / f"lib/python3.{sys.version_info[1]}/site-packages"
        self.registry = folder / "registry"
        self.lock = folder / "constraints.txt"
        for name in ("tools", "registry"):
            (folder / name).mkdir()
        shutil.copy(TOOL, folder / "tools")
        (folder / "backend.py").write_text(BACKEND)
        (folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "sortednet"\nversion = "0.1"\nrequires-python = ">=3.11,<3.14"\n'
            'dependencies = ["alpha>=1"]\n[project.optional-dependencies]\ndev = []\n'
        )
        add_wheel(self.registry, "alpha", "1.0", "beta>=1")
        add_wheel(self.registry, "beta", "1.0")
        add_wheel(self.registry, "alpha", "2.0", "beta>=1")
        self.lock.write_text(
            "# by make lock\nalpha==1.0  # via sortednet\nbeta==1.0 ; python_version > '3'  # via alpha\n"
        )

    def install(self, *options: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
        command = [sys.executable, str(self.folder / "tools/install.py"), "--venv", str(self.venv), *options]
        pip = ["--lock", str(self.lock), "--", "--no-index", "--find-links", str(self.registry)]
        return subprocess.run([*command, *pip], capture_output=True, text=True, env=environment, check=False)

    def version(self, name: str) -> str:
        program = f"import {name}; print({name}.VERSION)"
        return subprocess.run(
            [str(self.venv / "bin/python"), "-c", program], capture_output=True, text=True, check=False
        ).stdout.strip()

    def assert_complete(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.returncode == 0, done.stderr
        assert self.version("alpha") == "1.0"
        assert self.version("beta") == "1.0"
        assert not (self.venv / ".installing").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was installed once, in an environment whose making had been cut off."""
    project = Project(tmp_path_factory.mktemp("project"))
    (project.venv / "bin").mkdir(parents=True)
    (project.venv / "pyvenv.cfg").write_text("version = 3.11.1\n")
    (project.venv / "bin/python").symlink_to("/nonexistent/python")
    project.assert_complete(project.install())
    return project


def test_python_outside_the_range_is_refused(tmp_path: Path) -> None:
    """Another range plays another Python."""
    project = Project(tmp_path)
    text = (tmp_path / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text.replace(">=3.11,<3.14", ">=3.8,<3.11"))
    done = project.install()
    assert done.returncode == 1
    given = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert (
        f"is Python {given}, but sortednet needs >=3.8,<3.11. Name another: make install PYTHON=python3" in done.stderr
    )
    assert not project.venv.exists()


@pytest.mark.parametrize(
    ("version", "allowed"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False), ((2, 7), False)]
)
def test_range_holds_its_lower_bound_alone(version: tuple[int, int], allowed: bool) -> None:
    assert install.in_range(version, ">=3.11,<3.14") is allowed


def test_environment_of_a_python_outside_the_range_is_refused(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (project.venv / "bin").mkdir(parents=True)
    (project.venv / "pyvenv.cfg").write_text("version = 3.9.1\n")
    (project.venv / "bin/python").write_text("#!/bin/sh\necho 3 9\n")
    (project.venv / "bin/python").chmod(0o755)
    done = project.install()
    assert done.returncode == 1
    assert "is Python 3.9, but sortednet needs >=3.11,<3.14. Delete " in done.stderr


def test_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.venv.mkdir()
    (project.venv / "thesis.tex").write_text("mine")
    done = project.install()
    assert done.returncode == 1
    assert "is not a virtual environment. Name another folder: make install VENV=.venv" in done.stderr
    assert (project.venv / "thesis.tex").read_text() == "mine"


def test_locked_version_is_installed_although_a_newer_one_is_there(installed: Project) -> None:
    assert installed.version("alpha") == "1.0"


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_locked_version_that_the_registry_lacks_is_named(name: str, installed: Project) -> None:
    for path in installed.site.glob("[ab][le][pt]*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lock = installed.lock.read_text()
    installed.lock.write_text(lock.replace(f"{name}==1.0", f"{name}==1.5"))
    failed = installed.install()
    assert failed.returncode == 1
    assert failed.stderr.strip() == (
        f"install: pip did not get {name}==1.5. The registry lacks it for this Python, or does not answer, "
        "or pyproject.toml asks for another version. Make the lock again from what there is: make lock"
    )
    installed.lock.write_text(lock)
    done = installed.install()
    installed.assert_complete(done)
    assert f"the last installation into {installed.venv} was interrupted; this one goes on." in done.stdout


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: Could not find a version that satisfies the requirement Torch>=2 (from versions: none)\n"
        "ERROR: No matching distribution found for Torch>=2\n",
        "The conflict is caused by:\n    peft 1 depends on torch\n    The user requested (constraint) torch==2.13.0\n",
    ],
)
def test_what_pip_says_of_a_missing_version_is_understood(said: str, tmp_path: Path) -> None:
    lock = tmp_path / "constraints.txt"
    lock.write_text("torch==2.13.0  # via sortednet\n")
    assert "did not get torch==2.13.0. The registry lacks it" in install.explanation(said, lock)


def test_other_failures_of_pip_are_shown_whole(tmp_path: Path) -> None:
    lock = tmp_path / "constraints.txt"
    lock.write_text("torch==2.13.0\n")
    said = "ERROR: No space left on device\n"
    assert install.explanation(said, lock) == (
        "pip failed:\nERROR: No space left on device\n"
        "install: Mend what it says, and run the same command again: it goes on."
    )


def test_interrupted_installation_goes_on(installed: Project) -> None:
    """What pip believes to be there, and is not: metadata without modules, half of pip, what a removal left."""
    (installed.site / "beta-1.0.dist-info/RECORD").unlink()
    (installed.site / "alpha.py").unlink()
    (installed.site / "~eta").mkdir()
    shutil.rmtree(installed.site / "pip/_internal")
    (installed.venv / ".installing").touch()
    done = installed.install()
    installed.assert_complete(done)
    for name in ("alpha-1.0", "beta-1.0"):
        assert f"{name} was not installed completely; it is installed again." in done.stdout


def test_whole_environment_stays_as_it_is(installed: Project) -> None:
    before = (installed.site / "beta.py").stat()
    done = installed.install()
    installed.assert_complete(done)
    assert (installed.site / "beta.py").stat().st_ino == before.st_ino
    assert "again" not in done.stdout


def site_of(folder: Path) -> Path:
    """Write a site-packages with one whole distribution as pip leaves it, and return it."""
    info = folder / "beta-1.0.dist-info"
    (folder / "__pycache__").mkdir()
    info.mkdir()
    (folder / "beta.py").write_text("VERSION = '1.0'\n")
    (info / "METADATA").write_text("Name: beta\nVersion: 1.0\n")
    rows = "beta.py,sha256=x,16\n__pycache__/beta.cpython-311.pyc,,\nbeta-1.0.dist-info/METADATA,sha256=y,24\n"
    (info / "RECORD").write_text(rows + "beta-1.0.dist-info/RECORD,,\n")
    return folder


def test_whole_distribution_is_left_alone(tmp_path: Path) -> None:
    """Modules that Python compiled, or not, do not count."""
    site = site_of(tmp_path)
    assert install.damaged(site) == []
    assert (site / "beta-1.0.dist-info/RECORD").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("beta-1.0.dist-info/RECORD", None),
        ("beta-1.0.dist-info/RECORD", ""),
        ("beta-1.0.dist-info/RECORD", "beta.py,sha256=x,16\nbeta-1.0.dist-info/META"),
        ("beta-1.0.dist-info/RECORD", "beta.py,sha256=x,1é"),
        ("beta-1.0.dist-info/METADATA", None),
        ("beta-1.0.dist-info/METADATA", "Name"),
        ("beta.py", None),
        ("beta.py", "VERSI"),
    ],
)
def test_distribution_that_is_not_whole_is_forgotten(file: str, text: str | None, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    if text is None:
        (site / file).unlink()
    else:
        (site / file).write_text(text)
    assert install.damaged(site) == ["beta-1.0"]
    assert not (site / "beta-1.0.dist-info").exists()
    assert install.damaged(site) == []


def test_what_an_interrupted_removal_left_is_removed(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    (site / "~eta-1.0.dist-info").mkdir()
    (site / "~eta").mkdir()
    (site / "~eta.py").touch()
    install.damaged(site)
    assert not list(site.glob("~*"))
    assert (site / "beta.py").exists()


def test_lock_names_one_exact_version_of_a_package_on_each_line() -> None:
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9][a-z0-9.-]*==[0-9][\w.]*( ; [^#]+)?( +# via .+)?$", line), line


def test_lock_names_no_place_and_no_local_version() -> None:
    text = LOCK.read_text()
    for word in ("://", "file:", "--", "+cpu", " @ ", "/"):
        assert word not in text, word


def test_lock_holds_every_package_that_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {install.normal(re.match(r"[\w.-]+", line).group()) for line in wanted} - {"sortednet"}
    assert names <= {line.split("==")[0] for line in install.locked(LOCK)}
