"""Bugs of robots on MuJoCo's batch engine."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ENVIRONMENT, STATE = "robots/environment.py", "robots/state.py"
ACTUATION = "robots/actuation.py"
OF_CONTROLS, OF_CHECKS = "tests/robots/test_controls.py", "tests/robots/test_checks.py"
OF_ENVIRONMENT = "tests/robots/test_environment.py"
OF_STATE = "tests/robots/test_state.py"

MUTANTS = (
    Mutant(
        83,
        "a randomization that changes nothing passes",
        ENVIRONMENT,
        "if not found[name].any():",
        "if not found:",
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
    Mutant(
        90,
        "a damping ratio times the gear squared",
        ACTUATION,
        "actuator.biasprm[:3] *= (gear, gear**2, 1.0 if is_ratio else gear**2)",
        "actuator.biasprm[:3] *= (gear, gear**2, gear**2)",
        (f"{OF_CONTROLS}::test_a_gear_changes_units_and_not_how_a_servo_moves",),
    ),
    Mutant(
        91,
        "filters begin at 0",
        ENVIRONMENT,
        'state["act"] = self.controls.settled(ctrl) if start.act is None else start.act',
        'state["act"] = jnp.zeros(robot.model.na)',
        (f"{OF_CONTROLS}::test_activations_begin_settled",),
    ),
    Mutant(
        92,
        "a start that is not finite begins somewhere else",
        ENVIRONMENT,
        "            if not odd:\n                break",
        "            break",
        (f"{OF_CHECKS}::test_a_start_that_is_not_finite_is_drawn_again_and_told",),
    ),
    Mutant(
        93,
        "a field is known by its text",
        ENVIRONMENT,
        "{said(getattr(task, field.name))}",
        "{getattr(task, field.name)!r}",
        (f"{OF_CHECKS}::test_the_fingerprint_is_that_of_the_fields_values",),
    ),
    Mutant(
        94,
        "geoms that a sensor measures are left out",
        "robots/looks.py",
        "sensor.type in _SEEING for sensor",
        "sensor.type in _SEEING[:1] for sensor",
        (
            "tests/robots/test_model.py::test_what_only_looks_is_left_out_and_the_robot_weighs_the_same",
        ),
    ),
    Mutant(
        95,
        "an actuator that nobody drives holds its joint",
        ACTUATION,
        'and {*kinds} <= {self.kind, "velocity", "torque"}:',
        "and True:",
        (f"{OF_CONTROLS}::test_actuators_that_would_fight_are_refused",),
    ),
    Mutant(
        88,
        "a clock's offset is left where it is",
        "envs/contract.py",
        "rows = rows.astype(np.float64) - np.reshape(self.origin, self.shape)",
        "rows = rows.astype(np.float32)",
        ("tests/envs/test_origins.py::test_what_a_component_does_is_seen_wherever_it_does_it",),
    ),
    Mutant(
        89,
        "a bound that means none is one",
        "envs/contract.py",
        "_NO_BOUND = 1e30",
        "_NO_BOUND = math.inf",
        ("tests/envs/test_spaces.py::test_bounds_that_no_actuator_has_count_as_none",),
    ),
)
