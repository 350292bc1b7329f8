"""What is saved of a run that fails, and the line that says how it goes on."""

from __future__ import annotations

import time

from anefast.errors import Failure
from anefast.run_state import RunState


class Rescue(RunState):
    """A run that may fail: in a call of the device, in a callback, or by its watchdog."""

    def rescue(self) -> str:
        """Saves the last whole update before the run ends. Says what was saved and where.

        The micro-steps of the update under way are left out, one of them being half done; a resumed
        run repeats them.
        """
        self.failed = True
        p = self.progress
        p.micro, p.loss_sum, p.loss_tokens, self.health = 0, 0.0, 0, {}
        if self.together.apart:
            kept = f"; the last checkpoint is {self.saved}" if self.saved else ""
            return f"Update {p.step} is not saved, as it is in parts on all ranks{kept}"
        try:
            if self.unfinished is not None:  # as far as it is known; resuming writes it again
                self.run.log(self.unfinished, {"step": p.step, "time": time.time()})
            self.save(settles=False)
        except (OSError, ValueError, Failure) as error:
            kept = f"; the last checkpoint is {self.saved}" if self.saved else ""
            return f"Saving update {p.step} failed too: {error}{kept}"
        again = f"anefast train --resume {self.run.path}"
        return f"Update {p.step} is saved; continue with: {again}"

    def _keep(self, error: BaseException) -> None:
        """Saves the last whole update before `error` goes on, and notes on it where that is."""
        if not self.whole:
            told = f"update {self.progress.step + 1} was half made and nothing was saved"
        else:
            told = self.rescue()
        told = f"[train] {told[0].lower()}{told[1:]}"
        error.add_note(told)
        self.say(f"stopped by {type(error).__name__}: {told}")

    def _from_sound(self) -> str:
        """The checkpoint from which a diverged run may begin again."""
        name = self.soundness.newest
        return f"; --init {self.run.path / name} begins before it went wrong" if name else ""

    def _abandon(self) -> str:
        """`rescue` for a watchdog, on its thread: the one that trains is in a call that never
        returns, so nothing changes what is saved."""
        if not self.whole:
            kept = f"; the last checkpoint is {self.saved}" if self.saved else ""
            return f"Update {self.progress.step + 1} was half made and is not saved{kept}."
        said = self.rescue()
        self.run.sync()
        return said

    def _last_good(self) -> str:
        """A line on what is left of a run whose device gave wrong values."""
        if self.saved is None:
            return "No checkpoint of this run was made from them."
        return (
            f"Updates after the checkpoint {self.saved} may be wrong and are not saved; continue "
            f"from it with: anefast train --resume {self.run.path}"
        )
