"""Silent bugs that other libraries had, each as a change of one line or a few of ours.

`line` is the row of docs/silent-bugs.md. `old` occurs exactly once in `file` (below src/surefoot); the
tests named must fail when it is replaced by `new`.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One bug: where, what, and which tests are to find it."""

    line: int
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


ADVANTAGES, MOMENTS, MASKING = (f"functional/{x}.py" for x in ("advantages", "moments", "masking"))
EXPERIENCE, EPOCHS, PPO = (f"update/{x}.py" for x in ("experience", "epochs", "ppo"))
LOOP, METRICS = "training/loop.py", "training/metrics.py"
OF_ADVANTAGES = "tests/functional/test_advantages.py"
OF_MOMENTS = "tests/functional/test_moments.py"
OF_UPDATE = "tests/update/test_update.py"
OF_LOOP = "tests/training/test_loop.py"
OF_COLLECT = "tests/rollout/test_collect.py"
OF_GYMNASIUM = "tests/envs/test_gymnasium.py"
OF_POLICY_FILE = "tests/services/test_policy_file.py"
OF_CHECKPOINTS = "tests/services/test_checkpoints.py"
OF_DISTRIBUTIONS = "tests/functional/test_distributions.py"

CATALOGUE = (
    # --- episode boundaries
    Mutant(
        1,
        "truncation taken for termination",
        ADVANTAGES,
        "bootstraps=lax.stop_gradient(jnp.where(terminated, 0.0, next_values)),",
        "bootstraps=lax.stop_gradient(jnp.where(terminated | truncated, 0.0, next_values)),",
        (OF_ADVANTAGES,),
    ),
    Mutant(
        1,
        "a Gymnasium time limit told as termination",
        "envs/gymnasium.py",
        "reward[i], terminated[i], truncated[i] = answer[1:4]",
        "reward[i], terminated[i] = answer.reward, answer.terminated or answer.truncated",
        (f"{OF_GYMNASIUM}::test_a_time_limit_flags_truncation_alone",),
    ),
    Mutant(
        2,
        "bootstrapped with the value of the state before",
        EXPERIENCE,
        "values, next_values = all_values[:-1], all_values[1:]",
        "values, next_values = all_values[:-1], all_values[:-1]",
        (OF_UPDATE,),
    ),
    Mutant(
        3,
        "bootstrapped with the first observation of the next episode",
        EXPERIENCE,
        "values, next_values = all_values[:-1], all_values[1:]",
        "values, next_values = all_values[:-1], all_values[1:]\n"
        "    after = jnp.concatenate([all_values[2:], all_values[-1:]])\n"
        "    next_values = jnp.where(experience.truncated, after, next_values)",
        (OF_UPDATE,),
    ),
    Mutant(
        4,
        "advantages leak across a truncation",
        ADVANTAGES,
        "continues=valid & next_valid & ~(terminated | truncated),",
        "continues=valid & next_valid & ~terminated,",
        (OF_ADVANTAGES,),
    ),
    Mutant(
        5,
        "bootstrapped twice at a time limit",
        EXPERIENCE,
        "rows = (experience.rewards, values, next_values,",
        "twice = experience.rewards + config.gamma * values * experience.truncated\n"
        "    rows = (twice, values, next_values,",
        (OF_UPDATE,),
    ),
    Mutant(
        6,
        "both flags: bootstrapped although terminated",
        ADVANTAGES,
        "bootstraps=lax.stop_gradient(jnp.where(terminated, 0.0, next_values)),",
        "bootstraps=lax.stop_gradient(jnp.where(terminated & ~truncated, 0.0, next_values)),",
        (OF_ADVANTAGES,),
    ),
    Mutant(
        7,
        "reset rows are trained on",
        LOOP,
        "weights=rollout.valid.astype(np.float32),",
        "weights=jnp.ones_like(rollout.rewards),",
        (f"{OF_LOOP}::test_steps_count_experience_alone",),
    ),
    Mutant(
        8,
        "no episode is ever counted",
        METRICS,
        "    ended = rollout.ended & rollout.valid\n",
        "    ended = rollout.ended & ~rollout.valid\n",
        (f"{OF_LOOP}::test_metrics_of_an_iteration_are_the_documented_ones",),
    ),
    Mutant(
        10,
        "the masked mean divides by the number of rows",
        MASKING,
        "return jnp.sum(weights * x) / jnp.where(total > 0.0, total, 1.0)",
        "return jnp.sum(weights * x) / x.size",
        ("tests/functional/test_surrogates.py",),
    ),
    Mutant(
        11,
        "episode counters run on behind a time limit",
        "rollout/rollout.py",
        "ended = step.terminated | step.truncated  # also where that row is no experience",
        "ended = step.terminated",
        (f"{OF_COLLECT}::test_episode_returns_and_lengths_equal_a_hand_count_across_rollouts",),
    ),
    Mutant(
        15,
        "the last observation is not normalised",
        LOOP,
        "critic_features=normalizer.features(rollout.observations, self.agent.critic_groups),",
        "critic_features=normalizer.features(rollout.observations, self.agent.critic_groups)"
        ".at[-1].set(jnp.concatenate([rollout.observations[g][-1]"
        " for g in self.agent.critic_groups], axis=-1)),",
        (OF_UPDATE,),
    ),
    Mutant(
        16,
        "the last value of a rollout is lost",
        EXPERIENCE,
        "values, next_values = all_values[:-1], all_values[1:]",
        "values, next_values = all_values[:-1], all_values[1:].at[-1].set(0.0)",
        (OF_UPDATE,),
    ),
    Mutant(
        17,
        "environments get one another's actions",
        "envs/gymnasium.py",
        "orders = [story.next_order(rows[i]) for i, story in enumerate(self._stories)]",
        "orders = [story.next_order(rows[i - 1]) for i, story in enumerate(self._stories)]",
        (OF_GYMNASIUM,),
    ),
    Mutant(
        17,
        "the reset row's action is played in the new episode",
        "envs/gymnasium.py",
        'return Order("reset")',
        'self.has_ended = False\n            return Order("step", action.copy())',
        (OF_GYMNASIUM,),
    ),
    Mutant(
        18,
        "a flag for all environments is taken for one's own",
        "envs/gymnasium.py",
        'if np.size(flag) != 1 or np.asarray(flag).dtype.kind not in "biu":',
        'if np.asarray(flag).dtype.kind not in "biu":',
        (OF_GYMNASIUM,),
    ),
    Mutant(
        19,
        "EnvPool's truncation is dropped",
        "envs/envpool.py",
        "truncated=xp.asarray(truncated, bool) & valid,",
        "truncated=xp.asarray(truncated, bool) & valid & False,",
        ("tests/envs/test_envpool.py", "tests/envs/test_contract.py"),
    ),
    Mutant(
        20,
        "every episode begins alike",
        "envs/jax_native.py",
        "fresh, first = jax.vmap(self._single.reset)(reset_keys)",
        "fresh, first = jax.vmap(self._single.reset)(jax.vmap(lambda k: jax.random.key(0))(keys))",
        ("tests/envs/test_jax_native.py",),
    ),
    # --- normalisation
    Mutant(
        22,
        "the normaliser is not saved with the policy",
        "services/policy_file.py",
        "    save_arrays(folder / WEIGHTS, policy)\n",
        "    fresh = make_normalizer({n: m.mean.shape[0] for n, m in used.items()}, "
        "enabled=True, clip=10.0)\n"
        "    save_arrays(folder / WEIGHTS, eqx.tree_at(lambda p: p.normalizer.moments, policy, "
        "fresh.moments))\n",
        (OF_POLICY_FILE,),
    ),
    Mutant(
        24,
        "statistics move between acting and learning",
        LOOP,
        "before = {name: rows[:-1] for name, rows in rollout.observations.items()}\n",
        "before = {name: rows[:-1] for name, rows in rollout.observations.items()}\n"
        "        normalizer = normalizer.update(before, rollout.valid)\n",
        (f"{OF_LOOP}::test_metrics_of_an_iteration_are_the_documented_ones", OF_UPDATE),
    ),
    Mutant(
        25,
        "statistics are fed the next observations",
        LOOP,
        "normalizer = normalizer.update(before, rollout.valid)",
        "normalizer = normalizer.update("
        "{name: rows[1:] for name, rows in rollout.observations.items()}, rollout.valid)",
        (OF_UPDATE,),
    ),
    Mutant(
        27,
        "a merge counts one side twice",
        MOMENTS,
        "count_low = a.count_low + b.count_low\n",
        "count_low = a.count_low + b.count_low + b.count_low\n",
        (OF_MOMENTS,),
    ),
    Mutant(
        29,
        "the count is a float32 and stops at 2^24",
        MOMENTS,
        "count_low = a.count_low + b.count_low\n",
        "count_low = (as_float(a.count_low) + as_float(b.count_low)).astype(jnp.uint32)\n",
        (OF_MOMENTS,),
    ),
    Mutant(
        30,
        "statistics are those of the first environment",
        "networks/normalizer.py",
        "name: update_moments(self.moments[name], observation[name], weights=weights)",
        "name: update_moments(self.moments[name], observation[name][:, :1], "
        "weights=weights[:, :1])",
        (f"{OF_LOOP}::test_normaliser_counts_exactly_the_experience",),
    ),
    Mutant(
        31,
        "a NaN poisons the statistics",
        MOMENTS,
        "valid = valid.reshape(num_rows) & finite",
        "valid = valid.reshape(num_rows)",
        (OF_MOMENTS,),
    ),
    Mutant(
        32,
        "an epsilon of zero is accepted",
        MASKING,
        "if isinstance(value, (int, float, np.number)) and not value > 0:",
        "if isinstance(value, (int, float, np.number)) and not value >= 0:",
        ("tests/functional",),
    ),
    Mutant(
        33,
        "the running return goes on behind an episode's end",
        MOMENTS,
        "return returns, jnp.where(ended, 0.0, returns)",
        "return returns, returns",
        (OF_MOMENTS,),
    ),
    Mutant(
        33,
        "the running return is not kept between rollouts",
        EXPERIENCE,
        "after = RewardScaler(moments, accumulators, self.enabled, self.clip, self.gamma)",
        "after = RewardScaler("
        "moments, jnp.zeros_like(accumulators), self.enabled, self.clip, self.gamma)",
        (OF_UPDATE,),
    ),
    Mutant(
        34,
        "the normaliser ignores the mask",
        "networks/normalizer.py",
        "observation[name], weights=weights)",
        "observation[name], weights=jnp.ones_like(weights))",
        ("tests/networks/test_networks.py",),
    ),
    Mutant(
        35,
        "an observation key that is not in the space is dropped",
        "envs/gymnasium.py",
        "if set(observation) != set(self._groups):",
        "if not set(self._groups) <= set(observation):",
        (OF_GYMNASIUM,),
    ),
    Mutant(
        36,
        "observations are normalised twice",
        "networks/normalizer.py",
        "normalize(observation[name], self.moments[name], clip=self.clip)\n",
        "normalize(normalize(observation[name], self.moments[name], clip=self.clip), "
        "self.moments[name], clip=self.clip)\n",
        ("tests/networks/test_networks.py",),
    ),
    Mutant(
        37,
        "the variance is a difference of squares",
        MOMENTS,
        "variance = jnp.sum(jnp.square(jnp.where(mask, shifted - offset, 0.0)), axis=0) / total",
        "variance = jnp.sum(jnp.square(jnp.where(mask, rows, 0.0)), axis=0) / total"
        " - jnp.square(shift + offset)",
        (OF_MOMENTS,),
    ),
    # --- policy, loss, schedules
    Mutant(
        38,
        "the clipped action is stored",
        "rollout/collect.py",
        "return Act(raw, distribution.log_prob(raw), env_action)",
        "return Act(jnp.clip(raw, -1, 1), distribution.log_prob(raw), env_action)",
        (OF_COLLECT,),
    ),
    Mutant(
        38,
        "the log-probability is that of the clipped action",
        "rollout/collect.py",
        "return Act(raw, distribution.log_prob(raw), env_action)",
        "return Act(raw, distribution.log_prob("
        "jnp.clip(raw, -1, 1) if raw.dtype.kind == 'f' else raw), env_action)",
        (OF_COLLECT,),
    ),
    Mutant(
        39,
        "the squashed density lacks its Jacobian",
        "functional/distributions.py",
        "return self._gaussian().log_prob(raw) - _log_sech2(raw).sum(-1)",
        "return self._gaussian().log_prob(raw)",
        (OF_DISTRIBUTIONS,),
    ),
    Mutant(
        39,
        "the Jacobian is infinite at saturation",
        "functional/distributions.py",
        "return self._gaussian().log_prob(raw) - _log_sech2(raw).sum(-1)",
        "return self._gaussian().log_prob(raw) - jnp.log(1.0 - jnp.tanh(raw) ** 2).sum(-1)",
        (OF_DISTRIBUTIONS,),
    ),
    Mutant(
        40,
        "a loaded policy scales its actions otherwise",
        "services/policy_file.py",
        'narrow = dataclasses.replace(action, dtype="float32" if wanted.kind == "f" else "int32")',
        'narrow = dataclasses.replace(action, dtype="float32" if wanted.kind == "f" else "int32", '
        "low=tuple(-1.0 for _ in action.low), high=tuple(1.0 for _ in action.high))",
        (OF_POLICY_FILE,),
    ),
    Mutant(
        41,
        "the deterministic policy is not the mean",
        "functional/distributions.py",
        '        """Return `mean`."""\n        return self.mean\n',
        '        """Return `mean`."""\n        return self.mean + self.std\n',
        (OF_DISTRIBUTIONS, OF_COLLECT),
    ),
    Mutant(
        42,
        "the standard deviation has no floor",
        "functional/distributions.py",
        "return float(min_std) + jnp.exp(",
        "return 0.0 * float(min_std) + jnp.exp(",
        (OF_DISTRIBUTIONS,),
    ),
    Mutant(
        42,
        "an update that is not finite is applied",
        EPOCHS,
        "return jax.tree.map(partial(jnp.where, sound), after, refused)",
        "return after",
        (f"{OF_LOOP}::test_updates_that_diverge_are_not_applied_and_the_run_ends_after_a_few",),
    ),
    Mutant(
        43,
        "a state-dependent standard deviation does not start at the configured one",
        "networks/actor_critic.py",
        "log_std = log_std + offset",
        "log_std = offset",
        ("tests/networks/test_networks.py",),
    ),
    Mutant(
        44,
        "the KL has the wrong sign",
        "functional/diagnostics.py",
        "return masked_mean(jnp.expm1(log_ratio) - log_ratio, weights)",
        "return masked_mean(jnp.expm1(-log_ratio) + log_ratio, weights)",
        ("tests/functional/test_diagnostics.py",),
    ),
    Mutant(
        44,
        "the clip fraction counts one side",
        "functional/diagnostics.py",
        "outside = jnp.abs(jnp.expm1(log_ratio)) > as_float(clip_epsilon)",
        "outside = jnp.expm1(log_ratio) > as_float(clip_epsilon)",
        ("tests/functional/test_diagnostics.py",),
    ),
    Mutant(
        44,
        "the explained variance is not centred",
        "functional/diagnostics.py",
        "total = masked_mean(jnp.square(masked_deviations(returns, weights)), weights)",
        "total = masked_mean(jnp.square(returns), weights)",
        ("tests/functional/test_diagnostics.py",),
    ),
    Mutant(
        44,
        "a maximum is reported as a mean",
        EPOCHS,
        'if name.endswith("_max"):',
        'if name.endswith("_maximum"):',
        ("tests/update/test_epochs.py",),
    ),
    Mutant(
        45,
        "the learning rate never anneals",
        LOOP,
        "progress = jnp.asarray(step, jnp.float32) / float(config.total_steps)",
        "progress = jnp.asarray(0 * step, jnp.float32) / float(config.total_steps)",
        (f"{OF_LOOP}::test_learning_rate_is_annealed_over_the_step_budget",),
    ),
    Mutant(
        45,
        "the annealed rate is not the optimiser's",
        EPOCHS,
        "return learner._replace(learning_rate=rate)",
        "return learner",
        (f"{OF_LOOP}::test_the_annealed_rate_reaches_the_optimiser", "tests/update/test_epochs.py"),
    ),
    Mutant(
        46,
        "the adapted rate is not carried to the next minibatch",
        EPOCHS,
        "params=params, opt_state=opt_state, learning_rate=learning_rate, stopped=stopped\n",
        "params=params, opt_state=opt_state, stopped=stopped\n",
        ("tests/update/test_epochs.py",),
    ),
    Mutant(
        48,
        "the schedule restarts when a run goes on",
        LOOP,
        "learning_rates=self.learning_rates(state.step),",
        "learning_rates=self.learning_rates(state.step % 256),",
        (f"{OF_LOOP}::test_the_annealed_rate_reaches_the_optimiser",),
    ),
    Mutant(
        49,
        "lambda is not forwarded",
        EXPERIENCE,
        "advantages = F.gae(*rows, **options, gae_lambda=config.gae_lambda)",
        "advantages = F.gae(*rows, **options)",
        (f"{OF_LOOP}::test_every_option_changes_what_is_learned", OF_UPDATE),
    ),
    Mutant(
        49,
        "gamma is not forwarded",
        EXPERIENCE,
        'options = {"gamma": config.gamma, "weights": experience.weights}',
        'options = {"gamma": 0.99, "weights": experience.weights}',
        (f"{OF_LOOP}::test_every_option_changes_what_is_learned", OF_UPDATE),
    ),
    Mutant(
        50,
        "an observation group without a reader is dropped silently",
        "training/agent.py",
        "if name not in actor_groups and name not in critic_groups:",
        "if False:",
        ("tests/training/test_agent.py",),
    ),
    Mutant(
        51,
        "an environment gets the actions of all to change in place",
        "envs/gymnasium.py",
        'return Order("step", action.copy() if action.ndim else action.item())',
        'return Order("step", action if action.ndim else action.item())',
        (OF_GYMNASIUM,),
    ),
    Mutant(
        52,
        "observations are kept by reference",
        "envs/gymnasium.py",
        "array = np.array(value)  # a copy: environments may reuse their buffers",
        "array = np.asarray(value)",
        (OF_GYMNASIUM,),
    ),
    Mutant(
        53,
        "the update is compiled anew each time",
        LOOP,
        "normalizer, scaler, experience, metrics = self._digest(\n",
        "normalizer, scaler, experience, metrics = jax.jit(lambda *a: self._digest_rollout(*a))(\n",
        (f"{OF_LOOP}::test_everything_is_compiled_in_the_first_iterations_and_never_again",),
    ),
    Mutant(
        54,
        "half precision slips in",
        MASKING,
        "return jnp.asarray(x, dtype=jnp.float32)",
        "return jnp.asarray(x, dtype=jnp.bfloat16)",
        ("tests/functional/test_surrogates.py",),
    ),
    Mutant(
        54,
        "double precision slips in",
        MASKING,
        "return jnp.asarray(x, dtype=jnp.float32)",
        "return jnp.asarray(x)",
        ("tests/functional/test_surrogates.py", OF_ADVANTAGES),
    ),
    Mutant(
        56,
        "a minibatch of one row makes NaN",
        ADVANTAGES,
        "std = jnp.sqrt(masked_mean(jnp.square(deviations), weights))",
        "std = jnp.sqrt(jnp.sum(jnp.square(deviations)) / (jnp.sum(weights) - 1.0))",
        (OF_ADVANTAGES,),
    ),
    Mutant(
        57,
        "the KL stop lets the step through",
        EPOCHS,
        "return jax.tree.map(choose, refused, moved), (*seen, moved.stopped)",
        "return moved, (*seen, moved.stopped)",
        ("tests/update/test_epochs.py",),
    ),
    Mutant(
        59,
        "success is read on every row",
        METRICS,
        "told = told & ended\n",
        "told = told & rollout.valid\n",
        (f"{OF_LOOP}::test_success_is_what_the_last_step_of_an_episode_says",),
    ),
    # --- checkpoints, seeds, configuration, use
    Mutant(
        60,
        "the best is forgotten when a run goes on",
        "services/checkpoints.py",
        "self._best = after.best if after else None",
        "self._best = None",
        (f"{OF_CHECKPOINTS}::test_the_best_of_before_the_interruption_stays_the_best",),
    ),
    Mutant(
        61,
        "an array that is missing is made up",
        "files.py",
        "    if set(arrays) != set(wanted):\n",
        "    arrays = {n: np.zeros(*reversed(expected[n])) for n in expected} | arrays\n"
        "    if not set(wanted) <= set(arrays):\n",
        ("tests/test_files.py",),
    ),
    Mutant(
        62,
        "the newest is found by name",
        "services/checkpoints.py",
        "return sorted(((int(m.group(1)), path) for m, path in named if m), reverse=True)",
        "return sorted(((int(m.group(1)), path) for m, path in named if m), "
        "key=lambda x: x[1].name.lstrip('step-0'), reverse=True)",
        (f"{OF_CHECKPOINTS}::test_the_newest_is_found_by_number_among_junk",),
    ),
    Mutant(
        63,
        "where every checkpoint is damaged a run begins anew",
        "services/checkpoints.py",
        "if here and newest is None:",
        "if False:",
        (f"{OF_CHECKPOINTS}::test_where_all_are_damaged_it_stops_and_nothing_is_begun_anew",),
    ),
    Mutant(
        63,
        "a damaged checkpoint is used",
        "services/checkpoints.py",
        '        if checksum(file)["sha256"] != entry.get("sha256"):\n',
        "        if False:\n",
        (f"{OF_CHECKPOINTS}::test_what_is_damaged_is_named_and_the_one_before_is_used",),
    ),
    Mutant(
        64,
        "a run goes on one iteration late",
        "services/checkpoints.py",
        'return state._replace(key=random["training"], collector=collector)',
        'return state._replace(key=random["training"], collector=collector, '
        "iteration=state.iteration + 1)",
        (f"{OF_CHECKPOINTS}::test_a_run_goes_on_as_if_nothing_had_happened",),
    ),
    Mutant(
        66,
        "numbers lose digits on their way to the disk",
        "files.py",
        'return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")',
        'x = np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")\n'
        '    return x.astype(np.float16).astype(x.dtype) if x.dtype.kind == "f" else x',
        ("tests/test_files.py",),
    ),
    Mutant(
        67,
        "all environments have one seed",
        "envs/tasks.py",
        "seeds = [int(child.generate_state(1)[0] >> 1) for child in seed.spawn(num_envs)]",
        "seeds = [int(seed.generate_state(1)[0] >> 1)] * num_envs",
        ("tests/envs/test_tasks.py", "tests/envs/test_contract.py"),
    ),
    Mutant(
        67,
        "neighbouring seeds share streams",
        "training/state.py",
        "np.random.SeedSequence(seed).spawn(5)",
        "[np.random.SeedSequence(seed + k) for k in range(5)]",
        (f"{OF_LOOP}::test_streams_of_neighbouring_seeds_share_nothing",),
    ),
    Mutant(
        68,
        "the environments' seed is not the run's",
        "training/stage.py",
        "seed=make_streams(self._config.seed, step).environments,",
        "seed=__import__('numpy').random.SeedSequence(),",
        (f"{OF_LOOP}::test_same_seed_same_bytes",),
    ),
    Mutant(
        69,
        "an unknown option is ignored",
        "errors.py",
        "        if name not in known:\n            raise UserError(",
        "        if False:\n            raise UserError(",
        ("tests/test_config.py",),
    ),
    Mutant(
        70,
        "a saved policy has a normaliser of its own making",
        "services/policy_file.py",
        '"normalizer": {"enabled": policy.normalizer.enabled, "clip": policy.normalizer.clip},',
        '"normalizer": {"enabled": False, "clip": policy.normalizer.clip},',
        (OF_POLICY_FILE,),
    ),
    Mutant(
        71,
        "observation groups are read in another order",
        "networks/normalizer.py",
        "            for name in groups\n",
        "            for name in sorted(groups)\n",
        ("tests/networks/test_networks.py",),
    ),
    Mutant(
        71,
        "a policy is played where its observations do not fit",
        "services/policy_file.py",
        "            if not single and array.shape[1:] != code.shape:\n",
        "            if False:\n",
        (OF_POLICY_FILE,),
    ),
    Mutant(
        72,
        "short episodes are favoured",
        "training/evaluate.py",
        "yield Played(rollout, rollout.valid & (before < quota))",
        "yield Played(rollout, rollout.valid)",
        ("tests/training/test_evaluate.py",),
    ),
)
