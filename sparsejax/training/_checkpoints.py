"""Checkpoints that are complete or do not count: Orbax's files, with a checksum for each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sparsejax._optional import optional
from sparsejax.training._processes import barrier, broadcast_from_main, is_main_process

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_KEPT = 3
_DIGITS = 5  # of the place of a leaf in the tree, which precedes its path


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says what is still on disk."""


class Restored(NamedTuple):
    """A checkpoint read back.

    Attributes:
      step: the step after which it was written.
      state: the state.
      extra: the JSON values that were saved beside it.
    """

    step: int
    state: PyTree
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in a folder.

    Orbax writes each checkpoint to a temporary folder that it renames when complete; a file of
    SHA-256 sums follows. A checkpoint counts only if its sums are there and match; one that a crash
    interrupted at any moment, or that was damaged later, is passed over for the one before it. Of
    several processes each writes and reads its own part, and the main one writes the sums; all call
    the same methods in the same order, on a folder that all of them can reach.

    Args:
      folder: the folder, which is made if missing.
      keep: how many of the newest checkpoints are kept.
      every: steps between two checkpoints that `fit` writes; None is 10 epochs.

    Raises:
      ImportError: the package ``orbax-checkpoint`` is missing.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = _KEPT, every: int | None = None):
        self._ocp: Any = optional(
            "orbax.checkpoint", "orbax-checkpoint", "experiments", "Checkpoints needs"
        )
        self.folder, self.every = Path(folder).absolute(), every
        self._sums = self.folder / "sums"
        self._sums.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        self._opened: ocp.CheckpointManager | None = None

    @property
    def _manager(self) -> ocp.CheckpointManager:
        """Orbax's manager of the folder, opened when it is needed."""
        if self._opened is None:
            # Named handlers: without them Orbax warns, when it looks, that it knows no item's kind.
            self._opened = self._ocp.CheckpointManager(
                self.folder / "states",
                item_handlers={
                    "state": self._ocp.StandardCheckpointHandler(),
                    "extra": self._ocp.JsonCheckpointHandler(),
                },
                options=self._ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=True,
                ),
            )
        return self._opened

    def close(self) -> None:
        """Release what Orbax holds; the next call of another method opens it again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def steps(self) -> list[int]:
        """List the steps for which there is a checkpoint with its sums, oldest first."""
        return [s for s in sorted(self._manager.all_steps()) if self._sum_file(s).exists()]

    def save(self, step: int, state: PyTree, extra: dict[str, Any]) -> None:
        """Write the checkpoint of a step.

        Args:
          step: the number of steps taken.
          state: a pytree of arrays.
          extra: JSON values, kept beside the state.

        Raises:
          CheckpointError: the files could not be written (a full disk, say). Earlier checkpoints
            stay as they are.
        """
        try:
            if step in self._manager.all_steps():  # left by a run that died before the sums
                self._manager.delete(step)
            args = self._ocp.args
            parts = {"state": args.StandardSave(_by_path(state)), "extra": args.JsonSave(extra)}
            self._manager.save(step, args=args.Composite(**parts))
            if is_main_process():
                write_json(self._sum_file(step), _sums(self._step_folder(step)))
        except Exception as error:
            self._discard(step)
            last = self.steps()
            free = shutil.disk_usage(self.folder).free / 2**20
            kept = f"the last good one is of step {last[-1]}" if last else "there is none yet"
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder} "
                f"({free:,.0f} MiB free): {_first_line(error)}; {kept}. Free some space or choose "
                "another folder, then resume"
            ) from error
        barrier(f"checkpoint {step} has its sums")
        for file in self._sums.glob("*.json") if is_main_process() else ():
            if int(file.stem) not in self._manager.all_steps():
                file.unlink()

    def restore(self, like: PyTree) -> Restored | None:
        """Read the newest undamaged checkpoint.

        Args:
          like: a state of the structure, shapes, dtypes and shardings to read it with.

        Returns:
          The checkpoint, or None where there is none.

        Raises:
          CheckpointError: every checkpoint is damaged, or one holds another kind of state.
        """
        manager = self._manager  # opened in every process: they wait for each other there
        step = broadcast_from_main(self._newest_undamaged)
        if step < 0:
            return None
        manager.reload()  # the main process may have thrown damaged ones away
        return self._read(step, like)

    def arrays(self) -> dict[str, np.ndarray]:
        """Read the leaves of the newest undamaged checkpoint, without the code that made them.

        This is for a single process.

        Returns:
          The leaves by their paths (as ``jax.tree_util.keystr`` writes them) in the order of the
          tree, PRNG keys as their raw bits; empty where there is no checkpoint.

        Raises:
          CheckpointError: every checkpoint is damaged.
        """
        step = self._newest_undamaged()
        if step < 0:
            return {}
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = {
            name: jax.ShapeDtypeStruct(held.shape, held.dtype, sharding=here)
            for name, held in self._manager.item_metadata(step)["state"].items()
        }
        state = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(wanted))
        read = self._manager.restore(step, args=state)["state"]
        return {name[_DIGITS:]: np.asarray(read[name]) for name in sorted(read)}

    def _newest_undamaged(self) -> int:
        """The step of the newest undamaged checkpoint, or -1 where there is none."""
        steps = self.steps()
        for step in reversed(steps):
            damage = self._damage(step)
            if damage is None:
                return step
            warnings.warn(
                f"the checkpoint of step {step} in {self.folder} is damaged ({damage}); "
                "falling back to the one before it",
                RuntimeWarning,
                stacklevel=4,
            )
            self._discard(step)
        if steps:
            raise CheckpointError(f"every checkpoint in {self.folder} is damaged: steps {steps}")
        return -1

    def _read(self, step: int, like: PyTree) -> Restored:
        wanted = {name: _abstract(leaf) for name, leaf in _by_path(like).items()}
        held = self._manager.item_metadata(step)["state"]
        if held is not None and set(held.keys()) != set(wanted):
            odd = sorted(set(held.keys()) ^ set(wanted))
            raise CheckpointError(
                f"the checkpoint of step {step} in {self.folder} holds another kind of state; "
                f"it differs in {', '.join(odd[:5])}"
            )
        args = self._ocp.args
        parts = {"state": args.StandardRestore(wanted), "extra": args.JsonRestore()}
        read = self._manager.restore(step, args=args.Composite(**parts))
        leaves, treedef = jax.tree.flatten(like)
        restored = [
            jax.random.wrap_key_data(new, impl=jax.random.key_impl(old)) if _is_key(old) else new
            for old, new in zip(leaves, read["state"].values(), strict=True)
        ]
        return Restored(step, jax.tree.unflatten(treedef, restored), read["extra"])

    def _damage(self, step: int) -> str | None:
        """The damage to the files of a checkpoint, in words, or None."""
        try:
            expected = json.loads(self._sum_file(step).read_text())
        except (OSError, ValueError):
            return "its checksums cannot be read"
        found = _sums(self._step_folder(step))
        for name, value in expected.items():
            if name not in found:
                return f"{name} is missing"
            if found[name] != value:
                return f"{name} has changed"
        return None

    def _discard(self, step: int) -> None:
        if not is_main_process():
            return
        self._sum_file(step).unlink(missing_ok=True)
        shutil.rmtree(self._step_folder(step), ignore_errors=True)
        for partial in (self.folder / "states").glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)
        self._manager.reload()

    def _step_folder(self, step: int) -> Path:
        return self.folder / "states" / str(step)

    def _sum_file(self, step: int) -> Path:
        return self._sums / f"{step}.json"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: after a crash it is complete or not there.

    Args:
      path: the file; its folder is made if missing.
      value: JSON values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _by_path(state: PyTree) -> dict[str, jax.Array]:
    """The leaves of a state by path, in tree order; PRNG keys as their raw bits."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        f"{place:0{_DIGITS}d}{jax.tree_util.keystr(path)}": jax.random.key_data(leaf)
        if _is_key(leaf)
        else jnp.asarray(leaf)
        for place, (path, leaf) in enumerate(flat)
    }


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _sum(path) for path in files}


def _sum(path: Path) -> str:
    with open(path, "rb") as file:  # read in pieces: a file may be as large as the state
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
