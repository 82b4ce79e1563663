"""Eight processes that write runs and versions at once; a script, not a test.

Usage: writers.py SERVER HF_FOLDER SCRATCH
"""

import json
import multiprocessing
import shutil
import sys
from pathlib import Path

from clinscale import registry

WRITERS, METRICS, VERSIONS = 8, 10, 2


def write(number, uri, hf_folder, scratch, start):
    tracking = registry.connect(uri)
    start.wait()
    run = registry.start_run(
        tracking,
        experiment=registry.Experiment.SWEEP,
        name=f"writer-{number}",
        tags={registry.Tag.KIND: "crowd"},
        params={"number": number},
    )
    with run:
        for step in range(METRICS):
            run.log({"loss": float(step)}, step=step)
        digests = []
        for made in range(VERSIONS):
            folder = shutil.copytree(hf_folder, Path(scratch) / f"{number}-{made}")
            (folder / "README.md").write_text(f"# version {made} of writer {number}")
            digests.append(registry.register(tracking, run.id, folder, name="crowd", tags={}).digest)
    return {"run": run.id, "digests": digests}


def main():
    uri, hf_folder, scratch = sys.argv[1:]
    registry.connect(uri)  # loads MLflow once, before the processes are forked
    context = multiprocessing.get_context("fork")
    answers, start = context.SimpleQueue(), context.Barrier(WRITERS)
    writers = [
        context.Process(target=lambda n=number: answers.put(write(n, uri, hf_folder, scratch, start)))
        for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    said = []
    for writer in writers:
        writer.join()
    while not answers.empty():
        said.append(answers.get())
    (Path(scratch) / "said.json").write_text(json.dumps(said))  # MLflow talks on stdout
    return max(abs(writer.exitcode) for writer in writers)


if __name__ == "__main__":
    sys.exit(main())
