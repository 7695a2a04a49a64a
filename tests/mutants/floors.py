"""The floors that calculate, file by file, and the few cheap tests that hold each file.

A test that trains is named where nothing cheaper holds a file. A file that is not here is not changed by
`operators.py`; what is known to go wrong there is in the catalogue.
"""

from __future__ import annotations

_NETWORKS, _MEMORY = "tests/networks/test_networks.py", "tests/networks/test_memory.py"
_WITH_MEMORY = "tests/training/test_memory.py"
_ROLLOUT = ("tests/rollout/test_boundaries.py", "tests/rollout/test_collect.py")
_LOOP = "tests/training/test_loop.py"


def _update(*topics: str) -> tuple[str, ...]:
    return tuple(f"tests/update/test_{topic}.py" for topic in topics)


FLOORS: dict[str, dict[str, tuple[str, ...]]] = {
    "functional": {
        **{
            name: (f"tests/functional/test_{name}.py",)
            for name in (
                *("advantages", "diagnostics", "distributions", "moments", "schedules"),
                *("noise", "reflection", "shuffling", "surrogates", "trust_region"),
                "value_losses",
            )
        },
        "masking": (
            "tests/functional",
            "tests/agent/test_policy.py::test_a_number_that_is_not_finite_is_read_as_zero",
        ),
    },
    "networks": {
        "mlp": (_NETWORKS,),
        "memory": (_MEMORY,),
        "torso": (
            _NETWORKS,
            f"{_WITH_MEMORY}::test_the_value_behind_a_row_remembers_the_row",
        ),
        "actor_critic": (
            _NETWORKS,
            f"{_WITH_MEMORY}::test_the_value_behind_a_row_remembers_the_row",
        ),
    },
    "agent": {
        "agent": ("tests/agent/test_agent.py",),
        "description": ("tests/agent/test_description.py",),
        "inherit": ("tests/test_warm_start.py",),
        "normalizer": ("tests/agent/test_normalizer.py",),
        "policy": ("tests/agent/test_policy.py",),
        "saved": (
            "tests/services/test_policy_file.py",
            f"{_WITH_MEMORY}::test_a_loaded_policy_remembers_until_it_is_reset",
        ),
    },
    "rollout": {
        "rollout": _ROLLOUT,
        "collect": _ROLLOUT,
        "packing": ("tests/rollout/test_packing.py", *_ROLLOUT),
    },
    "update": {
        "batch": _update("batch", "sequences"),
        "epochs": _update("epochs"),
        "estimators": _update("estimators"),
        "executors": _update("executors"),
        "experience": _update("experience", "same_step"),
        "learners": (
            *_update("learners", "fixed_batch"),
            "tests/update/test_trpo.py::test_the_step_improves_inside_the_region",
        ),
        "measured": _update("measured"),
        "terms": _update("terms"),
        "update": _update("fixed_batch", "learners"),
    },
    "training": {
        "metrics": (
            "tests/training/test_metrics.py",
            f"{_LOOP}::test_metrics_of_an_iteration_are_the_documented_ones",
            "tests/training/test_overlap.py::test_lag_is_bounded_and_recorded_for_each_batch",
            "tests/training/test_evaluate.py::test_terms_of_the_reward_and_success_are_told_of_a_batch",
        ),
        "evaluate": ("tests/training/test_evaluate.py",),
    },
}
