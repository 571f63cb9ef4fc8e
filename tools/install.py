"""Install the package with the versions of the lock into a virtual environment; go on where an earlier run was cut off.

It needs nothing but Python and is written for old ones too, so that these can say that they are too old.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNFINISHED = ".installing"  # in the environment from the first change to the last
SIZES = re.compile(r"\.py[co]$|/__pycache__/")  # Python writes these again


def python_range() -> str:
    """Return the range of Python that pyproject.toml names, such as `>=3.11,<3.14`."""
    found = re.search(r'^requires-python\s*=\s*"(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert found is not None
    return found.group(1).replace(" ", "")


def in_range(version: tuple, allowed: str) -> bool:  # type: ignore[type-arg]
    """Return whether a version of Python, such as (3, 11), is in a range, such as `>=3.11,<3.14`."""
    for part in allowed.split(","):
        sign, text = re.match(r"(>=|<)([\d.]+)$", part).groups()  # type: ignore[union-attr]
        bound = tuple(int(number) for number in text.split("."))
        if (sign == ">=" and version[: len(bound)] < bound) or (sign == "<" and version[: len(bound)] >= bound):
            return False
    return True


def refusal(version: tuple, what: str) -> str:  # type: ignore[type-arg]
    """Return why this Python cannot be used, or nothing where it can be."""
    if in_range(version, python_range()):
        return ""
    given = ".".join(str(number) for number in version[:2])
    return f"{what} is Python {given}, but sortednet needs {python_range()}. "


# Before anything that older Pythons cannot read.
if refusal(sys.version_info[:2], sys.executable):
    sys.exit(
        "install: " + refusal(sys.version_info[:2], sys.executable) + "Name another: make install PYTHON=python3.11"
    )


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and install."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment; made where there is none")
    parser.add_argument("--lock", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--extras", default="dev", help="of pyproject.toml, joined by commas")
    parser.add_argument("pip", nargs="*", help="further options of pip, after `--`")
    given = parser.parse_args(arguments)
    try:
        install(given.venv.absolute(), given.lock, given.extras, given.pip)
    except KeyboardInterrupt:
        sys.exit("install: interrupted. Run the same command again: it goes on.")


def install(venv: Path, lock: Path, extras: str, options: list[str]) -> None:
    """Make the environment or mend it, then let pip install what the extras need.

    Args:
        venv: The environment's folder.
        lock: The file of exact versions.
        extras: Names of extras, joined by commas.
        options: Further options of pip.

    Raises:
        SystemExit: If the environment is of a Python outside the range, if the folder is something else, or if pip
            fails; with the locked version that could not be had, where that is why.
    """
    python = prepare(venv)
    site = answer(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    for name in damaged(Path(site)):
        print(f"install: {name} was not installed completely; it is installed again.")
    pip_works(python)
    build = [requirement for requirement in locked(lock) if requirement.startswith("setuptools==")]
    # Python compiles what is imported, when it is; all of torch and transformers would take a minute.
    common = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "-c", str(lock)]
    common += options
    if build:
        run_pip([*common, *build], lock)
    # Without isolation the package is built by the locked setuptools instead of today's.
    run_pip([*common, "--no-build-isolation", "-e", f"{ROOT}[{extras}]"], lock)
    (venv / UNFINISHED).unlink()


def interpreter(venv: Path) -> Path:
    """Return the path of the environment's Python."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prepare(venv: Path) -> Path:
    """Return the Python of the environment, which is made where there is none or where it does not run."""
    python = interpreter(venv)
    if (venv / UNFINISHED).exists():
        print(f"install: the last installation into {venv} was interrupted; this one goes on.")
    if not (venv / "pyvenv.cfg").exists() and any(path.is_file() for path in venv.rglob("*")):
        sys.exit(f"install: {venv} is not a virtual environment. Name another folder: make install VENV=.venv")
    version = answer(python, "import sys; print(*sys.version_info[:2])") if python.exists() else ""
    if version:
        reason = refusal(tuple(int(number) for number in version.split()), str(python))
        if reason:
            sys.exit(f"install: {reason}Delete {venv} and run the same command again.")
    else:
        # pip is installed later, so that the marker is there from the beginning.
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv)], check=True)
    (venv / UNFINISHED).touch()
    return python


def answer(python: Path, program: str) -> str:
    """Return what a program prints, or nothing where this Python does not run."""
    try:
        ended = subprocess.run([str(python), "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return ended.stdout.decode().strip()


def damaged(site: Path) -> list[str]:
    """Make pip forget the distributions whose files are not all there, and return their names.

    pip calls a distribution installed as soon as its metadata are there, and writes files before and after them. So a
    distribution is whole if its RECORD is there and every file of it has the size that it names.
    """
    names = []
    for folder in sorted(site.glob("*.dist-info")):
        if folder.name.startswith("~") or not whole(folder):
            names.append(folder.name[: -len(".dist-info")])
            shutil.rmtree(str(folder))
    for leftover in site.glob("~*"):  # what pip moved out of the way before it was stopped
        if leftover.is_dir():
            shutil.rmtree(str(leftover))
        else:
            leftover.unlink()
    return names


def whole(folder: Path) -> bool:
    """Return whether a distribution has its metadata and all files of its RECORD."""
    record = folder / "RECORD"
    if not (folder / "METADATA").exists() or not record.exists():
        return False
    with record.open(newline="", encoding="utf-8", errors="replace") as lines:
        rows = list(csv.reader(lines))
    if not rows or any(len(row) != 3 or not (row[2].isdecimal() or not row[2]) for row in rows):
        return False
    for name, _, size in rows:
        if SIZES.search(name):
            continue
        path = folder.parent / name
        if not path.exists() or (size and path.stat().st_size != int(size)):
            return False
    return True


def pip_works(python: Path) -> None:
    """Put pip into the environment where it does not run."""
    if answer(python, "import pip._internal.cli.main; print('yes')"):
        return
    ensurepip = [str(python), "-m", "ensurepip", "--upgrade", "--default-pip"]
    if subprocess.run(ensurepip, stdout=subprocess.PIPE).returncode:
        sys.exit(f"install: {sys.executable} has no ensurepip. Install its venv package (python3-venv on Debian).")


def locked(lock: Path) -> list[str]:
    """Return the requirements of the lock, such as `torch==2.13.0`, without markers."""
    lines = lock.read_text().splitlines()
    return [re.split(r"[\s;#]", line)[0] for line in lines if re.match(r"[\w.-]+==", line)]


def run_pip(command: list[str], lock: Path) -> None:
    """Run pip, show what matters of what it says, and explain a version that the registry lacks."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.decode(errors="replace"))
        if re.match(r"\s*(WARNING|ERROR|Downloading|Installing collected)", said[-1]):
            print(said[-1].rstrip(), flush=True)
    if process.wait():
        sys.exit("install: " + explanation("".join(said), lock))


def explanation(said: str, lock: Path) -> str:
    """Return in a sentence why pip failed, from what it said."""
    wanted = {normal(requirement.split("==")[0]): requirement for requirement in locked(lock)}
    names = re.findall(r"No matching distribution found for ([\w.-]+)|\(constraint\) ([\w.-]+)==", said)
    lacking = sorted({wanted[normal(name)] for name in map("".join, names) if normal(name) in wanted})
    if not lacking:
        return f"pip failed:\n{said}install: Mend what it says, and run the same command again: it goes on."
    return (
        f"pip did not get {', '.join(lacking)}. The registry lacks it for this Python, or does not answer, "
        "or pyproject.toml asks for another version. Make the lock again from what there is: make lock"
    )


def normal(name: str) -> str:
    """Return the name of a distribution as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
