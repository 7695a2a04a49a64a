"""Bugs of checkpoints, seeds, options, and of what is done with a policy."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CHECKPOINTS, FILES, SAVED = "services/checkpoints.py", "files.py", "agent/saved.py"
ENVIRONMENTS = "training/environments.py"
OF_CHECKPOINTS = "tests/services/test_checkpoints.py"
OF_ENVIRONMENTS = "tests/training/test_environments.py"
OF_POLICY_FILE = "tests/services/test_policy_file.py"
OF_FILES = "tests/test_files.py"

MUTANTS = (
    Mutant(
        60,
        "the best is forgotten when a run goes on",
        CHECKPOINTS,
        "self._best = after.best if after else None",
        "self._best = None",
        (f"{OF_CHECKPOINTS}::test_the_best_of_before_the_interruption_stays_the_best",),
    ),
    Mutant(
        61,
        "an array that is missing is made up",
        FILES,
        "    if set(arrays) != set(wanted):\n",
        "    arrays = {n: np.zeros(*reversed(expected[n])) for n in expected} | arrays\n"
        "    if not set(wanted) <= set(arrays):\n",
        (f"{OF_FILES}::test_arrays_that_do_not_fit_are_named",),
    ),
    Mutant(
        62,
        "the newest is found by name",
        "services/step_folders.py",
        "return sorted(((int(m.group(1)), path) for m, path in named if m), reverse=True)",
        "return sorted(((int(m.group(1)), path) for m, path in named if m), "
        "key=lambda x: x[1].name.lstrip('step-0'), reverse=True)",
        (f"{OF_CHECKPOINTS}::test_the_newest_is_found_by_number_among_junk",),
    ),
    Mutant(
        63,
        "where every checkpoint is damaged a run begins anew",
        CHECKPOINTS,
        "if here and newest is None:",
        "if False:",
        (f"{OF_CHECKPOINTS}::test_where_all_are_damaged_it_stops_and_nothing_is_begun_anew",),
    ),
    Mutant(
        63,
        "a damaged checkpoint is used",
        CHECKPOINTS,
        '        if checksum(file)["sha256"] != entry.get("sha256"):\n',
        "        if False:\n",
        (f"{OF_CHECKPOINTS}::test_what_is_damaged_is_named_and_the_one_before_is_used",),
    ),
    Mutant(
        64,
        "a run goes on one iteration late",
        CHECKPOINTS,
        'return state._replace(key=random["training"], collector=collector)',
        'return state._replace(key=random["training"], collector=collector, '
        "iteration=state.iteration + 1)",
        (f"{OF_CHECKPOINTS}::test_a_run_goes_on_as_if_nothing_had_happened",),
    ),
    Mutant(
        66,
        "numbers lose digits on their way to the disk",
        FILES,
        'return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")',
        'x = np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")\n'
        '    return x.astype(np.float16).astype(x.dtype) if x.dtype.kind == "f" else x',
        (f"{OF_FILES}::test_a_tree_comes_back_bit_by_bit",),
    ),
    Mutant(
        67,
        "all environments have one seed",
        "envs/tasks.py",
        "seeds = [int(child.generate_state(1)[0] >> 1) for child in seed.spawn(num_envs)]",
        "seeds = [int(seed.generate_state(1)[0] >> 1)] * num_envs",
        (
            "tests/envs/test_contract.py::"
            "test_first_observations_are_distinct_in_a_run_and_disjoint_across_seeds",
        ),
    ),
    Mutant(
        67,
        "neighbouring seeds share streams",
        "training/state.py",
        "np.random.SeedSequence(seed).spawn(5)",
        "[np.random.SeedSequence(seed + k) for k in range(5)]",
        ("tests/training/test_loop.py::test_streams_of_neighbouring_seeds_share_nothing",),
    ),
    Mutant(
        68,
        "the environments' seed is not the run's",
        ENVIRONMENTS,
        "seed=make_streams(self._config.seed, step).environments,",
        "seed=__import__('numpy').random.SeedSequence(),",
        (f"{OF_ENVIRONMENTS}::test_seeds_follow_from_the_runs_seed_and_the_step",),
    ),
    Mutant(
        69,
        "an unknown option is ignored",
        "errors.py",
        "        if name not in known:\n            raise UserError(",
        "        if False:\n            raise UserError(",
        ("tests/test_config.py::test_every_option_misspelt_by_one_letter_gets_its_name_suggested",),
    ),
    Mutant(
        70,
        "a saved policy has a normalizer of its own making",
        "agent/policy.py",
        "normalizer=normalizer.spec,",
        "normalizer=NormalizerSpec(False, normalizer.spec.clip),",
        (f"{OF_POLICY_FILE}::test_loaded_policy_acts_as_the_trained_one",),
    ),
    Mutant(
        71,
        "observation groups are read in another order",
        "networks/torso.py",
        "parts = [inputs[name] for name in self.groups]",
        "parts = [inputs[name] for name in sorted(self.groups)]",
        (
            "tests/agent/test_normalizer.py::test_features_are_the_named_groups_in_the_named_order",
            "tests/networks/test_networks.py::"
            "test_a_torso_reads_the_named_groups_in_the_named_order_and_no_other",
        ),
    ),
    Mutant(
        71,
        "a policy is played where its observations do not fit",
        SAVED,
        "            if not single and array.shape[1:] != spec.shape:\n",
        "            if False:\n",
        (f"{OF_POLICY_FILE}::test_a_wrong_observation_is_refused_with_both_numbers",),
    ),
    Mutant(
        72,
        "short episodes are favoured",
        "training/evaluate.py",
        "counted = rollout.valid & (before < quota)",
        "counted = rollout.valid",
        ("tests/training/test_evaluate.py::test_short_episodes_are_not_favoured",),
    ),
    Mutant(
        80,
        "a clock says whether environments begin anew",
        ENVIRONMENTS,
        ".get(options.exact_resume, spec.cheap_to_make)",
        '.get(options.exact_resume, __import__("time").process_time() < 60.0)',
        (
            f"{OF_ENVIRONMENTS}::"
            "test_whether_environments_begin_anew_follows_from_options_and_task_alone",
        ),
    ),
)
