"""Stage ``warmstart``: the starting captioner, ``models/base``.

python -m steps.warmstart
"""

from __future__ import annotations

from steps._stage import StageError, main, stage


def body() -> None:
    """Train it (or adopt a pinned checkpoint) and write its folder; goes on where an interrupted run stopped."""
    with stage("warmstart") as s:
        # torch reads the number of threads, which `stage` sets, when it is imported
        from balcap.records_io import read_references, read_samples
        from balcap.warmstart import WarmstartError, run

        samples = read_samples("data/images", "train")
        references = read_references("data/references.parquet")
        try:
            with s.output("models/base") as out:
                run(s.params.warmstart, samples, references, s.work, out, s.run.log)
        except WarmstartError as error:
            raise StageError(str(error)) from None


if __name__ == "__main__":
    main(body)
