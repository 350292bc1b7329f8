"""Several runs of one command, one process after another: `--seeds 3` and `--sweep points.toml`.

points.py reads which settings differ, runs.py is the folder of the runs and works through them,
child.py is what each run's process does, table.py compares them. A run of a sweep is a run like any
other: `anefast train` with the flags that it differs in.
"""

from anefast.cli import say
from anefast.errors import Failure
from anefast.sweep.runs import Sweep
from anefast.sweep.runs import begin as begin
from anefast.sweep.runs import sweep_in as sweep_in
from anefast.sweep.table import lines


def work(sweep: Sweep) -> None:
    """Trains the runs left of a sweep, and prints how all compare.

    Failure if all of them failed.
    """
    completed = sweep.work()
    runs = sweep.runs()
    say(*lines(sweep, runs))
    done = sum(run.done for run in runs)
    if not completed:
        say(f"stopped: {done} of {len(runs)} runs are done")
        say(f"continue with: anefast train --resume {sweep.folder}")
        return
    say(f"try: anefast report {sweep.folder}")
    if not done:
        raise Failure(
            f"[sweep] none of {len(runs)} runs ended well; the first: {runs[0].failure()} "
            f"Hint: --resume {sweep.folder} tries them again."
        )
