"""Populations of searches: rounds, tickets, and what the tickets reach when they are trained."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh

from experiments.common import networks
from experiments.common.report import read_report
from experiments.common.runner import Recipe, Run, end
from experiments.data import Dataset, load
from experiments.tickets import report
from experiments.tickets.config import Config
from sparsejax import tickets
from sparsejax.deploy import load_sparse, save_sparse
from sparsejax.tickets import Method, Ticket
from sparsejax.training import Batches, StepFunction, TrainState, init_run_dir, write_json

_TRAINED_BY_NEXT_ROUND = ("imp", "imp_continued")
"""Methods whose next round trains the ticket of the one before."""


class Population(Run):
    """All members of a method in one program.

    ``result.json`` holds a row for each round and member, and is written after every round. The
    trained ticket of member m after n rounds is in ``round_n/member_m`` as any run ends.

    Args:
      folder: its own.
      dataset: the one it learns.
      settings: see `Config.settings`.
      resume: whether to continue what is in the folder.
      devices: how many devices members are sharded over; None for all that divide their number.
      vmap_size: how many members of a device are computed together.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        settings: dict[str, Any],
        resume: bool = False,
        devices: int | None = None,
        vmap_size: int | None = None,
    ):
        super().__init__(settings["method"], folder, settings, 0, resume)
        del self.settings["seed"]  # its members have their own
        self._dataset = dataset
        network = networks.trainable(
            settings["model"], dataset, settings["width"], settings["dtype"]
        )
        self._members = settings["members"]
        by_seed = {seed: network.init(seed) for seed in {int(m["seed"]) for m in self._members}}
        starts = [by_seed[int(member["seed"])] for member in self._members]
        self._initial, self._statistics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        seeds = jnp.asarray([member["seed"] for member in self._members])
        self._keys = jax.vmap(jax.random.key)(seeds)
        self._steps_per_epoch = len(dataset.train.labels) // settings["batch_size"]
        self._steps = settings["epochs"] * self._steps_per_epoch
        self._optimizer = _optimizer(settings, self._steps)
        self._loss = network.loss
        self._mistakes = jax.jit(network.mistakes)
        self._mesh = _mesh(len(self._members), devices)
        on_cpu = jax.default_backend() == "cpu"
        step_by_step = network.has_convolutions_of_xla and on_cpu
        self._loop = tickets.population_scan(self._mesh, vmap_size, unroll=step_by_step)
        # On an accelerator whole epochs are one program, so that there are few calls.
        self._steps_per_call = 1 if step_by_step else None if on_cpu else self._steps_per_epoch

    @property
    def title(self) -> str:
        """Its network, dataset, method and size."""
        s = self.settings
        return f"{s['model']} {s['dataset']} {s['method']}, {len(s['members'])} members"

    def headline(self, result: Mapping[str, Any]) -> str:
        """The densities after the last round."""
        rows = result["rows"]
        last = [row["density"] for row in rows if row["round"] == rows[-1]["round"]]
        return f"{min(last):.2%} to {max(last):.2%} left at the end"

    def done(self) -> bool:
        """Whether all rounds have ended."""
        return (self.folder / "result.json").exists() and (
            self.result()["ended"] and self.result()["settings"] == self.settings
        )

    def reportable(self) -> bool:
        """Whether a round has ended."""
        if not (self.folder / "result.json").exists():
            return False
        init_run_dir(self.folder / "search_0", self._comparable(), resume=True)
        return True

    def ensure(self) -> str:
        """Search, unless all rounds have ended and may be resumed."""
        if not (self.resume and self.done()):
            self.announce()
            self._search()
        return f"{self.title}: {self.headline(self.result())}"

    def masks(self, number: int) -> list[np.ndarray]:
        """The masks after a round, a leaf each: [members, ...]."""
        return jax.tree.leaves(load_sparse(self._round(number) / "masks.safetensors")["mask"])

    def epoch_seconds(self) -> float:
        """Seconds of an epoch of all members, once it is compiled."""
        state, step = self._start(), self._step()
        for epochs in (1, 2):
            start = time.perf_counter()
            state = jax.block_until_ready(
                self._train(None, step, state, 0, epochs * self._steps_per_epoch)
            )
        return time.perf_counter() - start

    def _start(self) -> TrainState:
        """The state before the first round."""
        hyper = {
            name: jnp.asarray([member[name] for member in self._members], jnp.float32)
            for name in self._members[0]
            if name != "seed"
        }
        return self._shard(
            tickets.init_population(
                self._method, self._initial, self._optimizer, self._keys, hyper, self._statistics
            )
        )

    def _step(self) -> StepFunction[TrainState]:
        rewind = self.settings["rewind_epochs"] * self._steps_per_epoch
        return tickets.search_step(self._method, self._loss, self._optimizer, rewind)

    def _search(self) -> None:
        state, step = self._start(), self._step()
        renew = self.settings.get("search_optimizer") != "continued"
        next_round = jax.jit(
            lambda state: tickets.next_population(self._method, state, self._optimizer, renew)
        )
        find = jax.jit(self._tickets)
        rows: list[dict[str, Any]] = []
        rounds = self.settings["rounds"]
        itself = self.settings["method"] in _TRAINED_BY_NEXT_ROUND
        last = rounds if itself else rounds - 1
        for number in range(last + 1):
            state = next_round(state) if number else state
            state = self._train(f"search_{number}", step, state, number)
            if itself:  # the round before found the mask of this one
                rows += self._evaluate(number, state)
            else:
                ticket = find(state)
                self._save_masks(number + 1, ticket)
                rows += self._evaluate(number + 1, self._trained(number, ticket))
            if itself and number < rounds:
                self._save_masks(number + 1, find(state))
            result = {"settings": self.settings, "rows": rows, "ended": number == last}
            write_json(self.folder / "result.json", result)

    def _method(self, hyper: Any) -> Method:
        name, settings = self.settings["method"], self.settings
        if name == "cs":
            return tickets.continuous_sparsification(
                self._steps,
                **hyper,
                rewind=settings["search_weights"] == "rewound",
                penalty_on=settings["penalty_on"],
                steps_per_stair=self._steps_per_epoch if settings["beta"] == "staircase" else None,
                restart_beta=1.0 if settings["search_gates"] == "reopened" else None,
            )
        if name == "l0":
            return tickets.stochastic_l0(**hyper)
        if name == "random":
            return tickets.random_pruning(**hyper)
        return tickets.magnitude_pruning(**hyper, rewind=name != "imp_continued")

    def _tickets(self, state: TrainState) -> Ticket:
        """The tickets of all members, as they are to be trained."""
        found = tickets.population_tickets(self._method, state)
        if self.settings.get("ticket_scale") == "folded":
            found = jax.vmap(tickets.fold_scale)(found)
        return found

    def _trained(self, number: int, ticket: Ticket) -> TrainState:
        """The tickets of a round, trained from where they are rewound to."""

        def training(hyper: Any) -> Method:
            return tickets.fixed_mask(hyper["mask"], hyper["scale"])

        rewound = self.settings.get("ticket_statistics") == "rewound"
        statistics = ticket.statistics if rewound else self._statistics
        hyper = {"mask": ticket.mask, "scale": ticket.scale}
        state = self._shard(
            tickets.init_population(
                training, ticket.params, self._optimizer, self._keys, hyper, statistics
            )
        )
        step = tickets.search_step(training, self._loss, self._optimizer)
        return self._train(f"train_{number + 1}", step, state, number)

    def _shard(self, state: TrainState) -> TrainState:
        """The members on their devices."""
        return state if self._mesh is None else tickets.shard_population(state, self._mesh)

    def _train(
        self,
        phase: str | None,
        step: StepFunction[TrainState],
        state: TrainState,
        number: int,
        steps: int | None = None,
    ) -> TrainState:
        """Train to the end of a round, or to ``steps``; kept in the folder of the phase, if any."""
        train = self._dataset.train
        images = {"image": train.images, "label": train.labels}
        return self.fit(
            step,
            state,
            Batches(images, self.settings["batch_size"], number),
            steps=steps or self._steps,
            phase=phase,
            config=self._comparable(),
            loop=self._loop,
            steps_per_call=self._steps_per_call,
            batch_axes=(),
        )

    def _comparable(self) -> dict[str, Any]:
        """The settings without the number of rounds, of which more can be asked for later."""
        return {name: value for name, value in self.settings.items() if name != "rounds"}

    def _evaluate(self, number: int, state: TrainState) -> list[dict[str, Any]]:
        """Save the network of every member under the mask of ``number`` rounds; return its row."""
        mask = state.search.mask
        scale = state.search.hyper.get("scale", jnp.ones(len(self._members)))
        weights = state.params["weights"]
        seen = jax.vmap(tickets.effective_params)(Ticket(mask, None, scale), weights)
        left = np.asarray(jax.vmap(tickets.num_nonzero)(mask))
        size = sum(m[0].size for m in jax.tree.leaves(mask))
        both = jax.device_get((seen, state.statistics))
        rows = []
        # One by one: computed together, their convolutions would be grouped, which is slow.
        for place, member in enumerate(self._members):
            params, statistics = jax.tree.map(lambda leaf, n=place: leaf[n], both)
            row = member | {
                "round": number,
                "search_epochs": number * self.settings["epochs"],
                "nonzeros": int(left[place]),
                "density": float(left[place] / size),
            }
            for split in ("validation", "test"):
                row[f"{split}_error"] = networks.error(
                    self._mistakes, (params, statistics), getattr(self._dataset, split)
                )
            rows.append(row)
            saved = params if statistics is None else networks.cifar_tree(params, statistics)
            end(self._round(number) / f"member_{place}", self._about() | row, saved)
        return rows

    def _about(self) -> dict[str, Any]:
        """The entries of a member's result.json that all members share."""
        settings = self.settings
        network = {"model": settings["model"]}
        if settings["model"] in networks.CIFAR_MODELS:
            network |= {"width": settings["width"], "dtype": settings["dtype"]}
        name = f"{settings['model']}_{settings['dataset']}_{settings['method']}"
        about = {name: settings[name] for name in ("model", "dataset")}
        return about | {"name": name, "network": network, "settings": self._comparable()}

    def _round(self, number: int) -> Path:
        return self.folder / f"round_{number}"

    def _save_masks(self, number: int, ticket: Ticket) -> None:
        """Write the masks of a round, and warn of members with a layer that is cut through."""
        for place in range(len(self._members)):
            one: Ticket = jax.tree.map(lambda leaf, at=place: leaf[at], ticket)
            tickets.check_ticket(one, one.params)
        self._round(number).mkdir(parents=True, exist_ok=True)
        masks = {"mask": ticket.mask, "scale": ticket.scale}
        save_sparse(self._round(number) / "masks.safetensors", masks)


def _mesh(members: int, devices: int | None) -> Mesh | None:
    """The devices that members are sharded over: as many as divide their number."""
    there = len(jax.devices()) if devices is None else devices
    if there > len(jax.devices()) or (devices is not None and members % devices):
        raise ValueError(
            f"--devices must divide {members} members and be at most {len(jax.devices())}, the "
            f"devices there are; got {devices}"
        )
    count = max(n for n in range(1, there + 1) if members % n == 0)
    if count == 1:
        return None
    axes, chosen = (AxisType.Auto,), jax.devices()[:count]
    return jax.make_mesh((count,), ("members",), axis_types=axes, devices=chosen)


def _optimizer(settings: dict[str, Any], steps: int) -> optax.GradientTransformation:
    """SGD as published; only weights decay, gates do not."""
    of_round = optax.piecewise_constant_schedule(
        settings["learning_rate"], {steps * 2 // 3: 0.1, steps * 5 // 6: 0.1}
    )

    def rate(count: Any) -> Any:
        return of_round(count % steps)  # the count continues where the optimizer does

    def weights_alone(trained: Any) -> Any:
        return {
            name: jax.tree.map(lambda _, n=name: n == "weights", tree)
            for name, tree in trained.items()
        }

    return optax.chain(
        optax.add_decayed_weights(settings["weight_decay"], mask=weights_alone),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    )


def plan(config: Config) -> Iterator[Population]:
    """A population for each method."""
    with contextlib.suppress(RuntimeError):  # where JAX has started its devices are fixed
        # A processor is one device unless it is divided, here into its cores.
        jax.config.update("jax_num_cpu_devices", config.devices or os.cpu_count() or 1)
    report.check_comparable(read_report(config.report_folder)["rows"], config)
    dataset = load(config.task, config.data_dir)
    for method in config.methods():
        yield Population(
            config.folder / config.group / method, dataset, config.settings(method),
            config.resume, config.devices, config.vmap_size,
        )  # fmt: skip


RECIPE = Recipe(Config, plan, report.rows, report.parts, report.figures)
