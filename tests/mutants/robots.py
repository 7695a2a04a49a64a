"""Bugs of robots on MuJoCo's batch engine."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ENVIRONMENT, STATE = "robots/environment.py", "robots/state.py"
OF_ENVIRONMENT = "tests/robots/test_environment.py"
OF_STATE = "tests/robots/test_state.py"

MUTANTS = (
    Mutant(
        83,
        "a randomization that changes nothing passes",
        ENVIRONMENT,
        "if np.allclose(drawn[name], own, rtol=1e-6, atol=0):",
        "if not drawn and np.allclose(drawn[name], own, rtol=1e-6, atol=0):",
        (f"{OF_ENVIRONMENT}::test_a_mistake_is_named_before_anything_is_stepped",),
    ),
    Mutant(
        83,
        "a mass without what follows from it",
        ENVIRONMENT,
        "            self._batch.set_const(ids)",
        "            pass",
        (f"{OF_ENVIRONMENT}::test_what_follows_from_a_mass_is_calculated_again_for_each_robot",),
    ),
    Mutant(
        84,
        "a simulation that MuJoCo reset is learned from",
        ENVIRONMENT,
        "return lost | broken",
        "return lost",
        (
            f"{OF_ENVIRONMENT}::test_a_simulation_that_mujoco_resets_is_a_lost_row_of_a_named_environment",
        ),
    ),
    Mutant(
        85,
        "positions are one substep old",
        STATE,
        "return max(int(stage) for stage in needed)",
        "return min(int(stage) for stage in needed)",
        (f"{OF_STATE}::test_fields_are_those_of_now_after_a_step_and_not_one_substep_old",),
    ),
    Mutant(
        86,
        "gains in the order of the actuators",
        "robots/actuation.py",
        "self.actuators = np.array([by_joint[joint] for joint in self.joints])",
        "self.actuators = np.array(sorted(by_joint[joint] for joint in self.joints))",
        (
            "tests/robots/test_controls.py::test_actions_are_in_the_joints_order_whatever_the_actuators_is",
        ),
    ),
    Mutant(
        87,
        "exact said of other code",
        ENVIRONMENT,
        "    return digest.hexdigest()[:12]",
        '    return "0" * 12',
        ("tests/robots/test_resume.py::test_a_task_that_has_changed_is_not_called_exact",),
    ),
)
