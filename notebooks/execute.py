"""Execute notebooks in place: all those beside this file, or the ones named on the command line."""

import os
import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
SECONDS_PER_CELL = 900


def execute(path: Path) -> None:
    """Run every cell of the notebook from the top and store the outputs in it."""
    notebook = nbformat.read(path, as_version=4)
    # With no folder to search, the manager offers the one kernel that is this very interpreter.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=SECONDS_PER_CELL,
        resources={"metadata": {"path": str(HERE)}},
        record_timing=False,  # times of day would change the file at every run
    )
    # Figures belong in the notebook, whatever backend the caller has set.
    inline = "module://matplotlib_inline.backend_inline"
    client.execute(env={**os.environ, "MPLBACKEND": inline}, cleanup_kc=True)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata.get("language_info", {}).pop("version", None)

    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    part.replace(path)


def main(names: list[str]) -> int:
    """Return 0 where every notebook ran to its end; one that failed keeps its old outputs."""
    paths = [Path(name).resolve() for name in names] or sorted(HERE.glob("*.ipynb"))
    failed = 0
    for path in paths:
        print(path.name, flush=True)
        try:
            execute(path)
        except CellExecutionError as error:
            failed += 1
            print(error, file=sys.stderr)
    print(f"{len(paths) - failed} of {len(paths)} notebooks executed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
