"""One update loop for every table of learners: estimate advantages, then let each learner move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from surefoot import functional as F
from surefoot.config import Config
from surefoot.networks import Actor, Critic
from surefoot.update.batch import Batch, make_batch
from surefoot.update.epochs import Learner
from surefoot.update.executors import Executors, resolve
from surefoot.update.experience import Experience, catch_up, estimate_advantages
from surefoot.update.learners import (
    Learners,
    LearnerSpec,
    begin_update,
    go_further,
    keep_if_finite,
    learner_specs,
    make_learner,
    owned,
    rescale_values,
)
from surefoot.update.measured import Metrics, Steps, summarize


class Estimated(NamedTuple):
    """A batch with what its critic makes of it; every part may still be a future.

    Attributes:
        experience: the batch, with the log-probabilities of the policy that the update begins with where
            an older one may have collected it.
        estimates: advantages, targets and values.
        carry: what the critic carried into row 0; `()` without memory.
    """

    experience: Any
    estimates: Any
    carry: Any


class Updater:
    """The compiled programs of an update.

    Args:
        config: the options.
        executors: where the programs run.
        exact: whether the last observation at a time limit is known (`EnvSpec.exact_truncation`).
        augment_by: the mirror image of what networks read and do, if it is to be learned from as well.

    Attributes:
        specs: the learners' table.
        main: the name of the learner that owns the actor.
        programs: the update of each learner by name: (learner, rate, batch, key) -> learner, metrics.
    """

    def __init__(
        self,
        config: Config,
        executors: Executors,
        *,
        exact: bool,
        augment_by: F.PolicyReflection | None = None,
    ) -> None:
        self.config, self.executors, self._augment_by = config, executors, augment_by
        self.specs = learner_specs(config, executors)
        self._first, self._last = self.specs[0], self.specs[-1]
        self.main = self._first.name

        def estimate(learner: Learner, carry: Any, experience: Experience) -> Any:
            critic = learner.params.values()
            return estimate_advantages(critic, carry, experience, config, exact=exact)

        self._estimate_in = estimate
        self._estimate = jax.jit(estimate)
        self._catch_up = jax.jit(
            lambda learner, experience: catch_up(learner.params.policy(), experience)
        )
        schedule = {"linear": F.linear, "cosine": F.cosine}.get(config.learning_rate_schedule)
        self._schedule = schedule and jax.jit(schedule)
        self.programs = {spec.name: jax.jit(self._program(spec)) for spec in self.specs}
        self._turns = jax.jit(self._turns_program)

    def init(self, actor: Actor, critic: Critic) -> Learners:
        """Learners that have taken no step."""
        return {
            spec.name: make_learner(
                owned(spec, actor, critic, self.config), self.config, spec.learning_rate
            )
            for spec in self.specs
        }

    def actor(self, learner: Any) -> Actor:
        """The actor of the learner named `main`; waits for it."""
        return resolve(learner).params.policy()

    def critic(self, learners: Learners) -> Critic:
        """The critic; waits for its learner."""
        return resolve(learners[self._last.name]).params.values()

    def estimate_advantages(
        self, learners: Learners, carry: Any, experience: Experience
    ) -> tuple[Estimated, Any]:
        """What the critic makes of a batch, and what it carries into the next one."""
        batch: Any = experience
        if self.config.lag:
            batch = self._first.executor.submit(self._catch_up, learners[self.main], experience)
        estimates, onward = self._last.executor.submit(
            self._estimate, learners[self._last.name], carry, batch, parts=2
        )
        return Estimated(batch, estimates, carry), onward

    def update(
        self, learners: Learners, batch: Estimated, key: jax.Array, rates: Mapping[str, Any]
    ) -> tuple[Learners, tuple[Any, ...]]:
        """Every learner moved on a batch.

        Args:
            learners: by name; may be futures.
            batch: the batch.
            key: random stream of the shuffling.
            rates: the learners' step sizes now; None keeps the one a learner has.

        Returns:
            The learners and their metrics, in mappings of which no two hold the same name.
        """
        if self.config.takes_turns:
            *moved, metrics = self._first.executor.submit(
                self._turns, learners, rates, batch, key, parts=len(self.specs) + 1
            )
            return dict(zip(self.programs, moved, strict=True)), (metrics,)
        # whoever has a thread goes first: the others hold this one until they are done
        keys = self._keys(key)
        order = sorted(self.specs, key=lambda spec: spec.executor is self.executors.main)
        done = {
            spec.name: spec.executor.submit(
                self.programs[spec.name],
                *(learners[spec.name], rates[spec.name], batch, keys[spec.name]),
                parts=2,
            )
            for spec in order
        }
        after = {spec.name: done[spec.name][0] for spec in self.specs}
        return after, tuple(done[spec.name][1] for spec in self.specs)

    def learning_rates(self, progress: Any) -> dict[str, Any]:
        """Each learner's step size at a share of the run; None: the KL decides."""

        def rate(spec: LearnerSpec) -> Any:
            start = spec.learning_rate
            return start if self._schedule is None else self._schedule(progress, start, 0.0)

        return {spec.name: rate(spec) if spec.scheduled else None for spec in self.specs}

    def _keys(self, key: jax.Array) -> dict[str, jax.Array]:
        if len(self.specs) == 1:
            return {self.main: key}
        return dict(zip(self.programs, jax.random.split(key, len(self.specs)), strict=True))

    def _rows(self, began: Learner, batch: Estimated) -> Batch:
        return make_batch(began.params, *batch, self.config, self._augment_by)

    def _program(self, spec: LearnerSpec) -> Any:
        def program(learner: Learner, rate: Any, batch: Estimated, key: jax.Array) -> Any:
            learner = self._begin(learner, rate)
            began = self._rescaled(learner, batch)
            if self.config.recompute_advantages and not spec.has_actor:
                moved = self._anew({spec.name: began}, batch, key)[spec.name]
            else:
                rows = self._rows(began, batch)
                moved = spec.step(spec.terms, began, rows, key, num_epochs=spec.num_epochs)
            return self._finished(spec, learner, began, batch, *moved)

        return program

    def _turns_program(
        self, learners: Learners, rates: Mapping[str, Any], batch: Estimated, key: jax.Array
    ) -> Any:
        """All epochs of all learners as one program."""
        learners = {name: self._begin(x, rates[name]) for name, x in learners.items()}
        began = {name: self._rescaled(x, batch) for name, x in learners.items()}
        moved = self._anew(began, batch, key)
        finished = {
            s.name: self._finished(s, learners[s.name], began[s.name], batch, *moved[s.name])
            for s in self.specs
        }
        metrics = {name: x for _, own in finished.values() for name, x in own.items()}
        return *(learner for learner, _ in finished.values()), metrics

    def _anew(
        self, began: Mapping[str, Learner], batch: Estimated, key: jax.Array
    ) -> dict[str, tuple[Learner, Metrics, Steps]]:
        """Epochs of these learners, the critic among them, in turn; each time the batch is estimated anew."""
        specs = [spec for spec in self.specs if spec.name in began]
        turns = specs[0].num_epochs

        def turn(now: Any, turn_key: jax.Array) -> Any:
            fresh, _ = self._estimate_in(now[self._last.name], batch.carry, batch.experience)
            # value clipping stays around the values from before the update
            fresh = batch._replace(estimates=fresh._replace(values=batch.estimates.values))
            keys, moved = self._keys(turn_key), {}
            for s in specs:
                rows, epochs = self._rows(began[s.name], fresh), s.num_epochs // turns
                moved[s.name] = s.step(s.terms, now[s.name], rows, keys[s.name], num_epochs=epochs)
            return {name: m[0] for name, m in moved.items()}, {n: m[1:] for n, m in moved.items()}

        after, every = jax.lax.scan(turn, began, jax.random.split(key, turns))
        return {s.name: (after[s.name], *summarize(*every[s.name])) for s in specs}

    def _begin(self, learner: Learner, rate: Any) -> Learner:
        return begin_update(learner, rate, restart_adam=self.config.restart_adam)

    def _rescaled(self, learner: Learner, batch: Estimated) -> Learner:
        return rescale_values(learner, batch.estimates.targets, batch.experience.weights)

    def _finished(
        self,
        spec: LearnerSpec,
        before: Learner,
        began: Learner,
        batch: Estimated,
        after: Learner,
        metrics: Metrics,
        steps: Steps,
    ) -> tuple[Learner, dict[str, jax.Array]]:
        """A learner at the end of an update, and its metrics by name; `before` where it is refused."""
        numbers = {name: x.value for name, x in metrics.items()}
        numbers[spec.grad_norm] = steps.grad_norm
        if spec.has_actor:  # the KL stops the actor alone
            numbers["optim/step_fraction"] = steps.fraction
        after = spec.step.end(after, self._rows(began, batch))
        after = go_further(began, after, self.config.outer_step)
        return keep_if_finite(before, after, steps), numbers
