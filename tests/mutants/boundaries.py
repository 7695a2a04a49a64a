"""Bugs at the borders of episodes, and in what environments answer."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ADVANTAGES, MASKING = "functional/advantages.py", "functional/masking.py"
EXPERIENCE, ESTIMATORS = "update/experience.py", "update/estimators.py"
GYMNASIUM, ROLLOUT = "envs/gymnasium.py", "rollout/rollout.py"
OF_ADVANTAGES = "tests/functional/test_advantages.py"
OF_GYMNASIUM = "tests/envs/test_gymnasium.py"
OF_COLLECT = "tests/rollout/test_collect.py"
OF_BOUNDARIES = "tests/rollout/test_boundaries.py"
OF_LOOP = "tests/training/test_loop.py"
OF_UPDATE = "tests/update/test_update.py"
OF_ESTIMATORS = "tests/update/test_estimators.py"
OF_SAME_STEP = "tests/update/test_same_step.py"

_NEXT = "return values[1:] if exact else jnp.where(ended, values[:-1], values[1:])"
_OF_NEXT = (
    f"{OF_ESTIMATORS}::test_a_step_leads_to_the_next_observation_where_a_rollout_holds_the_last_ones",
    f"{OF_UPDATE}::test_the_value_of_the_true_last_observation_is_bootstrapped_at_a_time_limit",
)

MUTANTS = (
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
        GYMNASIUM,
        "reward[i], terminated[i], truncated[i] = answer[1:4]",
        "reward[i], terminated[i] = answer.reward, answer.terminated or answer.truncated",
        (f"{OF_GYMNASIUM}::test_a_time_limit_flags_truncation_alone",),
    ),
    Mutant(
        2,
        "bootstrapped with the value of the state before",
        ESTIMATORS,
        _NEXT,
        "return values[:-1]",
        _OF_NEXT,
    ),
    Mutant(
        3,
        "bootstrapped with the first observation of the next episode",
        EXPERIENCE,
        "next_values(values, ended, final_values, exact=exact),",
        "jnp.where(\n"
        "            experience.truncated,\n"
        "            jnp.concatenate([values[2:], values[-1:]]),\n"
        "            next_values(values, ended, final_values, exact=exact),\n"
        "        ),",
        _OF_NEXT[1:],
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
        "    rows = Rows(\n        experience.rewards,\n",
        "    rows = Rows(\n"
        "        experience.rewards + config.gamma * values[:-1] * experience.truncated,\n",
        _OF_NEXT[1:],
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
        EXPERIENCE,
        "weights=rollout.valid.astype(np.float32),",
        "weights=jnp.ones_like(rollout.rewards),",
        (
            "tests/update/test_experience.py::test_experience_is_the_rollout_as_networks_read_it",
            f"{OF_LOOP}::test_steps_count_experience_alone",
        ),
    ),
    Mutant(
        8,
        "no episode is ever counted",
        "training/metrics.py",
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
        ROLLOUT,
        "ended = step.terminated | step.truncated  # also where that row is no experience",
        "ended = step.terminated",
        (f"{OF_COLLECT}::test_episode_returns_and_lengths_equal_a_hand_count_across_rollouts",),
    ),
    Mutant(
        15,
        "the last observation is not normalized",
        EXPERIENCE,
        "observations=normalizer(rollout.observations),",
        "observations={\n"
        "            name: rows.at[-1].set(rollout.observations[name][-1].reshape(rows[-1].shape))\n"
        "            for name, rows in normalizer(rollout.observations).items()\n"
        "        },",
        (f"{OF_UPDATE}::test_the_critic_reads_the_last_observation_as_it_reads_the_others",),
    ),
    Mutant(
        15,
        "the last observation of a simulator that resets within the step is not normalized",
        EXPERIENCE,
        "final_observations=None if final is None else normalizer(final),",
        "final_observations=final,",
        (f"{OF_SAME_STEP}::test_last_observations_are_seen_through_the_normalizer_of_all_others",),
    ),
    Mutant(
        16,
        "the last value of a rollout is lost",
        ESTIMATORS,
        _NEXT,
        f"values = values.at[-1].set(0.0)\n    {_NEXT}",
        _OF_NEXT,
    ),
    Mutant(
        17,
        "environments get one another's actions",
        GYMNASIUM,
        "record.next_command(action[i], is_choice=is_choice)",
        "record.next_command(action[i - 1], is_choice=is_choice)",
        (f"{OF_GYMNASIUM}::test_the_reward_is_that_of_the_action_sent_also_after_resets",),
    ),
    Mutant(
        17,
        "the reset row's action is played in the new episode",
        GYMNASIUM,
        'return Command("reset")',
        'self.has_ended = False\n            return Command("step", action.copy())',
        (f"{OF_GYMNASIUM}::test_the_reward_is_that_of_the_action_sent_also_after_resets",),
    ),
    Mutant(
        18,
        "a flag for all environments is taken for one's own",
        GYMNASIUM,
        "number = as_number(flag)",
        "number = as_number(np.ravel(flag)[0])",
        (f"{OF_GYMNASIUM}::test_a_later_breach_names_the_environment_and_the_field",),
    ),
    Mutant(
        19,
        "EnvPool's truncation is dropped",
        "envs/envpool.py",
        "truncated=xp.asarray(truncated, bool) & valid,",
        "truncated=xp.asarray(truncated, bool) & valid & False,",
        ("tests/envs/test_envpool.py::test_a_time_limit_flags_truncation_alone",),
    ),
    Mutant(
        20,
        "every episode begins alike",
        "envs/jax_native.py",
        "fresh, first = jax.vmap(self._single.reset)(reset_keys)",
        "fresh, first = jax.vmap(self._single.reset)(jax.vmap(lambda k: jax.random.key(0))(keys))",
        ("tests/envs/test_jax_native.py",),
    ),
    # --- simulators that reset within the step, and their state
    Mutant(
        77,
        "rewards are handed over in one buffer, which the next step overwrites",
        GYMNASIUM,
        "reward = np.zeros(count, np.float32)\n",
        'reward = self.__dict__.setdefault("_reward", np.zeros(count, np.float32))\n'
        "        reward[:] = 0\n",
        (f"{OF_GYMNASIUM}::test_the_reward_is_that_of_the_action_sent_also_after_resets",),
    ),
    Mutant(
        78,
        "an infinite reward is no fault",
        ROLLOUT,
        'bad["reward"] = ~jnp.isfinite(step.reward)',
        'bad["reward"] = jnp.isnan(step.reward)',
        ("tests/training/test_divergence.py::test_no_reward_breaks_a_run[off-infinite]",),
    ),
    Mutant(
        78,
        "an infinite observation is no fault",
        ROLLOUT,
        "return jnp.isfinite(rows).all(axis=tuple(range(2, rows.ndim)))",
        "return ~jnp.isnan(rows).any(axis=tuple(range(2, rows.ndim)))",
        (
            f"{OF_BOUNDARIES}::"
            "test_a_last_observation_that_is_not_finite_spoils_the_row_that_it_ends_and_no_other",
        ),
    ),
    Mutant(
        78,
        "a Gymnasium environment may pay infinitely much",
        GYMNASIUM,
        "if not abs(number) <= _LARGEST:",
        "if np.isnan(number):",
        (f"{OF_GYMNASIUM}::test_a_later_breach_names_the_environment_and_the_field",),
    ),
    Mutant(
        81,
        "a simulator's state is narrowed to float32 where collecting begins",
        "rollout/collect.py",
        "            env_state = jax.tree.map(jnp.asarray, env_state)\n",
        "            env_state = jax.tree.map(\n"
        "                lambda x: jnp.asarray(x, jnp.float32)\n"
        "                if jnp.result_type(x) == jnp.float64\n"
        "                else jnp.asarray(x),\n"
        "                env_state,\n"
        "            )\n",
        (f"{OF_BOUNDARIES}::test_a_simulators_state_keeps_every_bit_from_its_reset_on",),
    ),
    Mutant(
        81,
        "a simulator's state is narrowed to float32 where it is loaded",
        "files.py",
        "with jax.enable_x64(array.dtype.itemsize == 8):  # what is 64 bits wide stays so",
        "with jax.enable_x64(False):",
        ("tests/test_files.py::test_numbers_of_64_bits_stay_so",),
    ),
    Mutant(
        82,
        "the next episode's first observation is bootstrapped where the last one is lost",
        ESTIMATORS,
        _NEXT,
        "return values[1:]",
        (
            f"{OF_ESTIMATORS}::test_an_episodes_end_whose_last_observation_is_lost_leads_to_the_one_before",
        ),
    ),
    Mutant(
        82,
        "the next episode's first observation is bootstrapped although the last one is handed over",
        ESTIMATORS,
        "return jnp.where(ended, final_values, values[1:])",
        "return values[1:]",
        (
            f"{OF_ESTIMATORS}::test_an_episodes_end_leads_to_its_last_observation_where_that_is_handed_over",
        ),
    ),
)
