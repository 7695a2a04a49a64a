"""Bugs of running statistics and of what they divide."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MOMENTS, MASKING = "functional/moments.py", "functional/masking.py"
LOOP, NORMALIZER = "training/loop.py", "agent/normalizer.py"
OF_MOMENTS = "tests/functional/test_moments.py"
OF_NORMALIZER = "tests/agent/test_normalizer.py"
OF_UPDATE = "tests/update/test_update.py"
OF_POLICY_FILE = "tests/services/test_policy_file.py"

_SCALER = "after = RewardScaler(moments, accumulators, self.enabled, self.clip, self.gamma)"

MUTANTS = (
    Mutant(
        22,
        "the normalizer is not saved with the policy",
        "agent/saved.py",
        "        save_arrays(staging / WEIGHTS, policy)\n",
        "        fresh = policy.spec().template().normalizer\n"
        "        kept = Policy(policy.actor, fresh, policy.torso, policy.action)\n"
        "        save_arrays(staging / WEIGHTS, kept)\n",
        (f"{OF_POLICY_FILE}::test_loaded_policy_acts_as_the_trained_one",),
    ),
    Mutant(
        24,
        "statistics move between acting and learning",
        LOOP,
        "        scaler, rewards = scaler(rollout)\n",
        "        scaler, rewards = scaler(rollout)\n"
        "        acted_on = {name: rows[:-1] for name, rows in rollout.observations.items()}\n"
        "        normalizer = normalizer.update(acted_on, rollout.valid)\n",
        (f"{OF_UPDATE}::test_statistics_see_valid_rows_alone_and_only_after_the_update",),
    ),
    Mutant(
        25,
        "statistics are fed the next observations",
        LOOP,
        "normalizer = normalizer.update(before, rollout.valid)",
        "normalizer = normalizer.update("
        "{name: rows[1:] for name, rows in rollout.observations.items()}, rollout.valid)",
        (f"{OF_UPDATE}::test_the_normalizer_has_seen_what_the_policy_saw",),
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
        NORMALIZER,
        "name: update_moments(self.moments[name], x, weights=weights)",
        "name: update_moments(self.moments[name], x[:, :1], weights=weights[:, :1])",
        (f"{OF_UPDATE}::test_statistics_see_valid_rows_alone_and_only_after_the_update",),
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
        "update/experience.py",
        _SCALER,
        _SCALER.replace("accumulators", "jnp.zeros_like(accumulators)"),
        (
            "tests/update/test_experience.py::"
            "test_rewards_are_divided_by_the_spread_of_the_discounted_return_by_hand",
        ),
    ),
    Mutant(
        34,
        "the normalizer ignores the mask",
        NORMALIZER,
        "update_moments(self.moments[name], x, weights=weights)",
        "update_moments(self.moments[name], x, weights=0 * weights + 1)",
        (f"{OF_NORMALIZER}::test_masked_rows_do_not_count_whatever_they_hold",),
    ),
    Mutant(
        35,
        "an observation key that is not in the space is dropped",
        "envs/gymnasium.py",
        "if set(observation) != set(self._groups):",
        "if not set(self._groups) <= set(observation):",
        ("tests/envs/test_gymnasium.py::test_a_later_breach_names_the_environment_and_the_field",),
    ),
    Mutant(
        36,
        "observations are normalized twice",
        NORMALIZER,
        "name: normalize(x, moments[name], clip=self.spec.clip) for name, x in flat.items()",
        "name: normalize(\n"
        "                normalize(x, moments[name], clip=self.spec.clip),\n"
        "                self.moments[name],\n"
        "                clip=self.spec.clip,\n"
        "            )\n"
        "            for name, x in flat.items()",
        (f"{OF_NORMALIZER}::test_features_are_the_named_groups_in_the_named_order",),
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
)
