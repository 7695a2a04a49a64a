"""Bugs of the policy, of losses, steps and schedules."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ADVANTAGES, MASKING = "functional/advantages.py", "functional/masking.py"
DIAGNOSTICS, DISTRIBUTIONS = "functional/diagnostics.py", "functional/distributions.py"
BATCH, EPOCHS, LEARNERS = (f"update/{name}.py" for name in ("batch", "epochs", "learners"))
ESTIMATORS, TERMS = "update/estimators.py", "update/terms.py"
LOOP, GYMNASIUM = "training/loop.py", "envs/gymnasium.py"
POLICY, SAVED = "agent/policy.py", "agent/saved.py"
OF_ADVANTAGES = "tests/functional/test_advantages.py"
OF_SURROGATES = "tests/functional/test_surrogates.py"
OF_DIAGNOSTICS = "tests/functional/test_diagnostics.py"
OF_DISTRIBUTIONS = "tests/functional/test_distributions.py"
OF_COLLECT = "tests/rollout/test_collect.py"
OF_POLICY_FILE = "tests/services/test_policy_file.py"
OF_LOOP = "tests/training/test_loop.py"
OF_GYMNASIUM = "tests/envs/test_gymnasium.py"
OF_BATCH, OF_EPOCHS, OF_TERMS = (
    f"tests/update/test_{name}.py" for name in ("batch", "epochs", "terms")
)
OF_LEARNERS, OF_ESTIMATORS = "tests/update/test_learners.py", "tests/update/test_estimators.py"

_ACT = "return Act(raw, distribution.log_prob(raw), env_action), carry"
_STD = "std = jnp.sqrt(masked_mean(jnp.square(deviations), weights))"
_PROGRESS = "progress = jnp.asarray(state.step, jnp.float32) / float(self.config.total_steps)"

MUTANTS = (
    Mutant(
        38,
        "the clipped action is stored",
        POLICY,
        _ACT,
        "return Act(raw.clip(-1, 1), distribution.log_prob(raw), env_action), carry",
        (
            f"{OF_COLLECT}::"
            "test_the_stored_action_is_the_unclipped_one_and_the_environment_got_the_clipped_one",
        ),
    ),
    Mutant(
        38,
        "the log-probability is that of the clipped action",
        POLICY,
        _ACT,
        'clipped = raw.clip(-1, 1) if raw.dtype.kind == "f" else raw\n'
        "        return Act(raw, distribution.log_prob(clipped), env_action), carry",
        (f"{OF_COLLECT}::test_the_stored_log_probs_are_those_of_the_stored_raw_actions",),
    ),
    Mutant(
        39,
        "the squashed density lacks its Jacobian",
        DISTRIBUTIONS,
        "return self._gaussian().log_prob(raw) - _log_sech2(raw).sum(-1)",
        "return self._gaussian().log_prob(raw)",
        (OF_DISTRIBUTIONS,),
    ),
    Mutant(
        39,
        "the Jacobian is infinite at saturation",
        DISTRIBUTIONS,
        "return self._gaussian().log_prob(raw) - _log_sech2(raw).sum(-1)",
        "return self._gaussian().log_prob(raw) - jnp.log(1.0 - jnp.tanh(raw) ** 2).sum(-1)",
        (OF_DISTRIBUTIONS,),
    ),
    Mutant(
        40,
        "a loaded policy scales its actions otherwise",
        SAVED,
        "        spec.check()\n",
        "        spec.check()\n"
        "        from dataclasses import replace\n"
        "        ends = {name: (end,) * len(spec.action.low) for name, end in "
        '(("low", -1.0), ("high", 1.0))}\n'
        "        spec = replace(spec, action=replace(spec.action, **ends))\n",
        (f"{OF_POLICY_FILE}::test_loaded_policy_acts_as_the_trained_one",),
    ),
    Mutant(
        41,
        "the deterministic policy is not the mean",
        DISTRIBUTIONS,
        '        """Return `mean`."""\n        return self.mean\n',
        '        """Return `mean`."""\n        return self.mean + self.std\n',
        (OF_DISTRIBUTIONS,),
    ),
    Mutant(
        42,
        "the standard deviation has no floor",
        DISTRIBUTIONS,
        "return float(min_std) + jnp.exp(",
        "return 0.0 * float(min_std) + jnp.exp(",
        (OF_DISTRIBUTIONS,),
    ),
    Mutant(
        42,
        "an update that is not finite is applied",
        LEARNERS,
        "return jax.tree.map(partial(jnp.where, sound), after, skipped)",
        "return after",
        (f"{OF_LEARNERS}::test_an_update_that_diverged_is_taken_back_and_the_step_size_halved",),
    ),
    Mutant(
        43,
        "a state-dependent standard deviation does not start at the configured one",
        "networks/actor_critic.py",
        "log_std = log_std + offset",
        "log_std = offset",
        (
            "tests/networks/test_networks.py::"
            "test_a_state_dependent_std_starts_at_the_configured_one_and_then_depends",
        ),
    ),
    Mutant(
        44,
        "the KL has the wrong sign",
        DIAGNOSTICS,
        "return masked_mean(jnp.expm1(log_ratio) - log_ratio, weights)",
        "return masked_mean(jnp.expm1(-log_ratio) + log_ratio, weights)",
        (OF_DIAGNOSTICS,),
    ),
    Mutant(
        44,
        "the clip fraction counts one side",
        DIAGNOSTICS,
        "outside = jnp.abs(jnp.expm1(log_ratio)) > as_float(clip_epsilon)",
        "outside = jnp.expm1(log_ratio) > as_float(clip_epsilon)",
        (OF_DIAGNOSTICS,),
    ),
    Mutant(
        44,
        "the explained variance is not centred",
        DIAGNOSTICS,
        "total = masked_mean(jnp.square(masked_deviations(returns, weights)), weights)",
        "total = masked_mean(jnp.square(returns), weights)",
        (OF_DIAGNOSTICS,),
    ),
    Mutant(
        44,
        "a maximum is reported as a mean",
        "update/measured.py",
        'if measured.reduce == "max":',
        'if measured.reduce == "maximum":',
        ("tests/update/test_measured.py",),
    ),
    Mutant(
        45,
        "the learning rate never anneals",
        LOOP,
        _PROGRESS,
        _PROGRESS.replace("state.step", "0 * state.step"),
        (f"{OF_LOOP}::test_learning_rate_is_annealed_over_the_step_budget",),
    ),
    Mutant(
        45,
        "the annealed rate is not the optimizer's",
        LEARNERS,
        "return learner._replace(learning_rate=rate)",
        "return learner",
        (
            f"{OF_LEARNERS}::"
            "test_begin_update_sets_the_scheduled_learning_rate_or_keeps_the_adapted_one",
        ),
    ),
    Mutant(
        46,
        "the adapted rate is not carried to the next minibatch",
        EPOCHS,
        "params=params, opt_state=opt_state, learning_rate=learning_rate, stopped=stopped\n",
        "params=params, opt_state=opt_state, stopped=stopped\n",
        (
            f"{OF_EPOCHS}::"
            "test_the_adapted_rate_is_that_of_the_step_and_of_the_minibatches_behind_it",
        ),
    ),
    Mutant(
        48,
        "the schedule restarts when a run goes on",
        LOOP,
        _PROGRESS,
        _PROGRESS.replace("state.step", "state.step % 256"),
        (f"{OF_LOOP}::test_learning_rate_is_annealed_over_the_step_budget",),
    ),
    # --- options that do nothing
    Mutant(
        49,
        "lambda is not forwarded",
        ESTIMATORS,
        "lam = options.gae_lambda",
        "lam = 0.95",
        (f"{OF_ESTIMATORS}::test_advantages_and_targets_by_hand",),
    ),
    Mutant(
        49,
        "gamma is not forwarded",
        ESTIMATORS,
        'return {"gamma": options.gamma, "weights": rows.weights}',
        'return {"gamma": 0.99, "weights": rows.weights}',
        (f"{OF_ESTIMATORS}::test_the_discount_is_that_of_the_options",),
    ),
    Mutant(
        49,
        "the value loss has no weight",
        TERMS,
        "return self.coef * loss, loss",
        "return loss, loss",
        (f"{OF_TERMS}::test_the_value_term_is_half_the_mean_squared_error_times_its_weight",),
    ),
    Mutant(
        49,
        "the weight of an older policy's rows is left out",
        TERMS,
        "advantages = advantages * batch.importance",
        "advantages = advantages * 1.0",
        (f"{OF_TERMS}::test_the_importance_of_a_row_multiplies_its_advantage",),
    ),
    Mutant(
        49,
        "advantages are not normalized over the batch",
        BATCH,
        'if config.advantage_normalization == "batch":',
        "if False:",
        (f"{OF_BATCH}::test_advantages_are_normalized_over_the_batch_where_that_is_asked_for",),
    ),
    Mutant(
        50,
        "an observation group without a reader is dropped silently",
        "agent/agent.py",
        "if name not in actor_groups and name not in critic_groups:",
        "if False:",
        ("tests/agent/test_agent.py::test_a_group_nobody_reads_is_an_error_that_names_it",),
    ),
    Mutant(
        51,
        "an environment gets the actions of all to change in place",
        GYMNASIUM,
        'return Command("step", action.item() if is_choice else np.array(action))',
        'return Command("step", action.item() if is_choice else action)',
        (f"{OF_GYMNASIUM}::test_an_environment_may_change_its_action_in_place_and_nobody_elses",),
    ),
    Mutant(
        52,
        "observations are kept by reference",
        GYMNASIUM,
        "array = np.array(value)  # a copy: environments may reuse their buffers",
        "array = np.asarray(value)",
        (f"{OF_GYMNASIUM}::test_observations_are_copied_out_of_the_environments_buffers",),
    ),
    Mutant(
        53,
        "the update is compiled anew each time",
        LOOP,
        "normalizer, scaler, gathered = self._make_experience(\n",
        "normalizer, scaler, gathered = jax.jit(lambda *a: self._experience_program(*a))(\n",
        (f"{OF_LOOP}::test_everything_is_compiled_in_the_first_iterations_and_never_again",),
    ),
    Mutant(
        54,
        "half precision slips in",
        MASKING,
        "return jnp.asarray(x, dtype=jnp.float32)",
        "return jnp.asarray(x, dtype=jnp.bfloat16)",
        (OF_SURROGATES,),
    ),
    Mutant(
        54,
        "double precision slips in",
        MASKING,
        "return jnp.asarray(x, dtype=jnp.float32)",
        "return jnp.asarray(x)",
        (OF_SURROGATES, OF_ADVANTAGES),
    ),
    Mutant(
        56,
        "a minibatch of one row makes NaN",
        ADVANTAGES,
        _STD,
        "std = jnp.sqrt(jnp.sum(jnp.square(deviations)) / (jnp.sum(weights) - 1.0))",
        (OF_ADVANTAGES,),
    ),
    Mutant(
        57,
        "the KL stop lets the step through",
        EPOCHS,
        "return jax.tree.map(choose, stays, moved), (*seen, moved.stopped)",
        "return moved, (*seen, moved.stopped)",
        (f"{OF_EPOCHS}::test_kl_stop_refuses_the_step_that_exceeds_it_and_all_later_ones",),
    ),
    Mutant(
        57,
        "the KL stop has no factor",
        LEARNERS,
        "_STOP_FACTOR = 1.5",
        "_STOP_FACTOR = 1.0",
        (
            "tests/update/test_fixed_batch.py::"
            "test_the_kl_stops_the_actor_at_one_and_a_half_times_the_target",
        ),
    ),
    Mutant(
        59,
        "success is read on every row",
        "training/metrics.py",
        "finite = finite & ended\n",
        "finite = finite & rollout.valid\n",
        (f"{OF_LOOP}::test_success_is_what_the_last_step_of_an_episode_says",),
    ),
    # --- minibatches and learners
    Mutant(
        74,
        "the remainder of a minibatch of rows is dropped",
        BATCH,
        "lambda x: x[order].reshape(count, size // count, *x.shape[1:])",
        "lambda x: x[order].reshape(count, size // count, *x.shape[1:])[:, :-1]",
        (f"{OF_BATCH}::test_minibatches_hold_every_row_once",),
    ),
    Mutant(
        75,
        "the advantage of a row that is alone is 0 / 0",
        ADVANTAGES,
        "return deviations / (jnp.maximum(std, as_float(min_std)) + as_float(epsilon))",
        "return deviations / jnp.maximum(std, as_float(min_std))",
        (f"{OF_ADVANTAGES}::test_equal_advantages_become_exactly_zero",),
    ),
    Mutant(
        76,
        "a trunk that actor and critic share is stepped by each of them",
        LEARNERS,
        "if config.is_joint:",
        "if config.joint_loss:",
        (f"{OF_LEARNERS}::test_together_they_are_one_learner_on_the_total_loss",),
    ),
    Mutant(
        78,
        "an infinite loss is applied",
        LEARNERS,
        "*(jnp.isfinite(x).all() for x in (steps.loss, steps.grad_norm, *numbers)),",
        "*(~jnp.isnan(x).any() for x in (steps.loss, steps.grad_norm, *numbers)),",
        (f"{OF_LEARNERS}::test_an_update_that_diverged_is_taken_back_and_the_step_size_halved",),
    ),
)
