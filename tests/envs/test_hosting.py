"""Host environments that raise, hang, die or answer wrongly: named, lost with their episode, borne."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from tests.helpers import TINY, Recorder, extended, few, without_times
from tests.rollout.test_collect import begin, policy_for

from surefoot.envs import Environment, Hosting, Step, make_environment
from surefoot.envs.gymnasium import GymnasiumEnvironment
from surefoot.envs.hosting import Command, EnvError, InProcess
from surefoot.envs.workers import Workers
from surefoot.rollout import make_collector
from surefoot.training import train

SEEDS = [10, 11, 12]
LENGTH = 6  # of an episode
AT = 3  # the step at which the environment of seed 11 goes wrong
HERE = Hosting()
APART = Hosting(workers=2, timeout=1.0)


def robot(
    what: str = "nothing", *, bad: tuple[int, ...] = (11,), at: int = AT, numbers: int = 2
) -> type:
    """A class made here, so that it goes to a worker by value: counts its steps, pays its action."""

    class Robot(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (numbers,), np.float32)
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        first = 0
        time = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.first = self.first if seed is None else seed
            self.time = 0
            return self.observe(), {}

        def step(self, action: Any) -> Any:
            self.time += 1
            row = [self.observe(), float(action[0]), False, self.time == LENGTH, {"junk": object()}]
            if self.time == at and (not bad or self.first in bad):
                self.go_wrong(row)
            return tuple(row)

        def observe(self) -> Any:
            both = [self.first, self.time]
            return np.array(both if numbers == 2 else [both[0] + both[1] / 10], np.float32)

        def go_wrong(self, row: list[Any]) -> None:
            if what == "raise":
                raise RuntimeError("joint 3 is beyond its limit")
            if what == "hang":
                time.sleep(60.0)
            elif what == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif what == "exit":
                os._exit(3)
            elif what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "nan":
                row[0] = np.array([np.nan, 0.0], np.float32)
            elif what == "infinite reward":
                row[1] = np.inf
            elif what == "shape":
                row[0] = np.zeros(3, np.float32)
            elif what == "text":
                row[0] = np.array(["a", "b"])
            elif what == "four values":
                row.pop()
            elif what == "print":
                print("noise " * 10_000, flush=True)

    return Robot


def start_env(make: Callable[[], gymnasium.Env], hosting: Hosting) -> Environment:
    return GymnasiumEnvironment(make, 3, seeds=SEEDS, name="ours:Robot", hosting=hosting)


def play(env: Environment, steps: int) -> Step:
    """Rows [T, N], every environment paid its own number."""
    rows = []
    with contextlib.closing(env):
        state, _ = env.reset(jax.random.key(0))
        for t in range(steps):
            action = np.array([[t], [t + 100], [t + 200]], np.float32)
            state, step = env.step(state, action)
            rows.append(step)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def test_each_environment_that_is_made_anew_gets_a_seed_of_its_own() -> None:
    seeds: list[Any] = []

    class Fails(robot()):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            seeds.append(seed)
            return super().reset(seed=seed)

        def step(self, action: Any) -> Any:
            if len(seeds) > 2 * len(SEEDS):  # not as it is tried out
                raise RuntimeError("joint 3 is beyond its limit")
            return super().step(action)

    env = start_env(Fails, HERE._replace(on_failure="restart"))
    env.log_to(lambda _: None)
    state, _ = env.reset(jax.random.key(0))
    made = len(seeds)
    for _ in range(6):
        state, _ = env.step(state, np.zeros((3, 1), np.float32))
        seeds += [None] if len(seeds) == made else []  # from here on they fail
    env.close()
    anew = [seed for seed in seeds[made:] if seed is not None]
    assert len(anew) >= 6
    assert len({*anew, *SEEDS}) == len(anew) + len(SEEDS)


@pytest.fixture(scope="module")
def healthy() -> Step:
    return play(start_env(robot(), HERE), 20)


ANYWHERE = {
    "raise": "raised RuntimeError: joint 3 is beyond its limit",
    "nan": "observation 'observation': component [0] is nan",
    "infinite reward": "reward: inf; it must be finite",
    "shape": "shape (3,), its space says (2,)",
    "text": "not numeric",
    "four values": "must return (observation, reward, terminated, truncated, info)",
}
WORKERS_ONLY = {
    "hang": "gave no answer within 1 s",
    "stop": "gave no answer within 1 s",
    "exit": "died: its process ended with exit code 3",
    "killed": "died: its process was ended by SIGKILL (out of memory?)",
}
CASES = [
    *[(what, HERE) for what in ANYWHERE],
    *[(what, APART) for what in ANYWHERE | WORKERS_ONLY],
]
CORE = [("raise", HERE), ("hang", APART)]
every_case = pytest.mark.parametrize(
    ("what", "hosting"),
    [case if case in CORE else extended(*case) for case in CASES],
    ids=[f"{what}-{'apart' if hosting.workers else 'here'}" for what, hosting in CASES],
)


@every_case
def test_it_is_named_with_seed_step_and_reason(what: str, hosting: Hosting) -> None:
    with pytest.raises(ValueError, match=r"ours:Robot, environment 1 \(seed 11\)") as caught:
        play(start_env(robot(what), hosting), 20)
    said = str(caught.value)
    assert f"step {AT} (step {AT} of its episode)" in said
    assert (ANYWHERE | WORKERS_ONLY)[what] in said
    # the environment's own traceback: the line that raised
    assert ("in go_wrong" in said) == (what == "raise")


@every_case
def test_restart_makes_it_anew_and_leaves_the_others_as_they_were(
    what: str, hosting: Hosting, healthy: Step
) -> None:
    env = start_env(robot(what), hosting._replace(on_failure="restart"))
    said: list[str] = []
    env.log_to(said.append)
    rows = play(env, 20)
    assert len(said) == 1
    assert "environment 1 (seed 11)" in said[0]
    assert said[0].endswith("Its episode is left out; it is made anew")
    lost = AT - 1
    assert (rows.truncated[lost, 1], rows.terminated[lost, 1]) == (True, False)
    assert not rows.valid[lost : lost + 2, 1].any()  # the step that failed, and the new beginning
    assert rows.reward[lost, 1] == 0.0
    shown = rows.observation["observation"]
    assert np.isfinite(shown).all()
    np.testing.assert_array_equal(shown[lost, 1], shown[lost - 1, 1])  # the last one that is known
    assert shown[lost + 1, 1, 0] not in SEEDS  # another seed: the same one might fail again
    np.testing.assert_array_equal(shown[lost + 1 :, 1, 1], (np.arange(20 - AT) % (LENGTH + 1)))
    for i in (0, 2):
        for ours, theirs in zip(jax.tree.leaves(rows), jax.tree.leaves(healthy), strict=True):
            np.testing.assert_array_equal(ours[:, i], theirs[:, i])


@pytest.mark.parametrize("error", [RuntimeError("no bus"), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("hosting", [HERE, APART], ids=["here", "apart"])
def test_one_that_cannot_be_closed_either_is_made_anew(
    hosting: Hosting, error: BaseException
) -> None:
    class Stuck(robot("raise")):
        def close(self) -> None:
            if self.first == SEEDS[1]:
                raise error

    env = start_env(Stuck, hosting._replace(on_failure="restart"))
    said: list[str] = []
    env.log_to(said.append)
    rows = play(env, 20)
    assert len(said) == 1
    assert said[0].endswith("Its episode is left out; it is made anew")
    assert rows.valid[AT + 1, 1]


def test_the_instance_that_workers_leave_unused_may_fail_to_close() -> None:
    here = os.getpid()

    class Stuck(robot()):
        def close(self) -> None:
            if os.getpid() == here:
                raise SystemExit(1)

    with pytest.warns(UserWarning, match="Stuck could not be closed, .*: raised SystemExit: 1"):
        env = make_environment(Stuck, 3, seed=np.random.SeedSequence(0), hosting=APART)
    env.close()


@pytest.mark.parametrize(
    ("what", "hosting"),
    few(2, [("raise", HERE), ("raise", APART), ("hang", APART), ("killed", APART)]),
)
def test_quarantine_leaves_it_out_from_then_on(what: str, hosting: Hosting, healthy: Step) -> None:
    env = start_env(robot(what), hosting._replace(on_failure="quarantine"))
    said: list[str] = []
    env.log_to(said.append)
    rows = play(env, 20)
    assert "so is the environment from here on; 2 are left" in said[0]
    assert rows.valid[: AT - 1, 1].all()
    assert not rows.valid[AT - 1 :, 1].any()
    np.testing.assert_array_equal(np.flatnonzero(rows.truncated[:, 1]), [AT - 1])
    assert np.isfinite(rows.observation["observation"]).all()
    for i in (0, 2):
        for ours, theirs in zip(jax.tree.leaves(rows), jax.tree.leaves(healthy), strict=True):
            np.testing.assert_array_equal(ours[:, i], theirs[:, i])


def test_when_all_are_out_the_run_ends() -> None:
    env = start_env(robot("raise", bad=()), Hosting(on_failure="quarantine"))
    env.log_to(lambda text: None)
    with pytest.raises(ValueError, match=r"environment 2.*(?s:.)*That was the last of 3"):
        play(env, 20)


@pytest.mark.parametrize("hosting", [HERE, APART], ids=["here", "apart"])
def test_one_that_fails_again_and_again_ends_the_run(hosting: Hosting) -> None:
    env = start_env(robot("raise", bad=(), at=2), hosting._replace(on_failure="restart"))
    said: list[str] = []
    env.log_to(said.append)
    with pytest.raises(ValueError, match="It failed 6 times without finishing an episode"):
        play(env, 60)
    assert len(said) == 15  # five times each of three


def test_failures_with_finished_episodes_between_them_are_borne() -> None:
    class Now(robot()):
        episodes = 0

        def reset(self, **kwargs: Any) -> Any:
            type(self).episodes += 1
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            if self.episodes % 2 == 0:
                raise RuntimeError("every other episode")
            return super().step(action)

    env = GymnasiumEnvironment(
        Now, 1, seeds=[1], name="ours:Now", hosting=Hosting(on_failure="restart")
    )
    said: list[str] = []
    env.log_to(said.append)
    env.reset(jax.random.key(0))
    for _ in range(120):
        env.step(None, np.zeros((1, 1), np.float32))
    assert len(said) > 10
    assert "every other episode" in said[-1]


def test_environments_that_share_a_process_are_lost_with_it_and_come_back() -> None:
    hosting = Hosting(workers=1, timeout=5.0, on_failure="restart")
    env = start_env(robot("exit"), hosting)
    said: list[str] = []
    env.log_to(said.append)
    rows = play(env, 20)
    lost = AT - 1
    assert rows.valid[lost, 0]  # had answered before the process died
    np.testing.assert_array_equal(rows.truncated[lost : lost + 2], [[0, 1, 1], [1, 0, 0]])
    assert [line.split(",")[1] for line in said] == [
        f" environment {i} (seed {SEEDS[i]})" for i in (1, 2, 0)
    ]
    assert "was lost with its process: environment 1 died" in said[1]
    assert rows.valid[lost + 3 : lost + 3 + LENGTH - 1].all()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_give_the_very_rows_of_one_process(workers: int, healthy: Step) -> None:
    rows = play(start_env(robot("print"), Hosting(workers=workers)), 20)
    for ours, theirs in zip(jax.tree.leaves(rows), jax.tree.leaves(healthy), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    backend = Workers(robot(), 1, workers=1, timeout=10.0, name="ours:Robot")
    backend.do([Command("make", 7)])
    worker = backend._workers[0]
    # a command of an earlier call, whose answer nobody waited for
    worker.send((backend._sequence, [(0, "step", np.array([111.0], np.float32))]))
    ((observation, reward, *_),) = backend.do([Command("step", np.array([222.0], np.float32))])
    backend.close()
    assert reward == 222.0
    np.testing.assert_array_equal(observation, [7, 2])


@pytest.mark.parametrize("apart", [False, True])
def test_one_that_cannot_be_made_anew_is_a_failure_too(apart: bool, tmp_path: Path) -> None:
    made = tmp_path / "made"

    def make() -> gymnasium.Env:
        if made.exists():
            raise OSError("the licence server is gone")
        made.touch()
        return robot()()

    there = Workers(make, 1, workers=1, timeout=10.0, name="ours") if apart else InProcess(make)
    assert not any(isinstance(came, EnvError) for came in there.do([Command("make", 1)]))
    (failed,) = there.do([Command("make", 2)])
    there.close()
    assert isinstance(failed, EnvError)
    assert failed.what == "raised OSError: the licence server is gone"
    assert "in make" in failed.trace


def test_workers_leave_no_files_open_and_no_processes() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    env = start_env(robot("exit", bad=(), at=LENGTH), Hosting(1, on_failure="restart"))
    env.log_to(lambda text: None)
    env.reset(jax.random.key(0))
    before = open_files()
    failed = 0
    for _ in range(100):
        *_, step = env.step(None, np.zeros((3, 1), np.float32))
        failed += int((step.truncated & ~step.valid).sum())
        if failed == 15:  # one more, and it gives up
            break
    assert failed == 15
    assert open_files() <= before
    env.close()
    assert not env._backend._workers[0].is_running
    assert open_files() < before


@pytest.mark.parametrize("what", [extended("nothing"), "hang"])
def test_workers_end_with_the_process_that_started_them(what: str, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from surefoot.envs.workers import Workers\n"
        "from surefoot.envs.hosting import Command\n"
        "from tests.envs.test_hosting import robot\n"
        f"backend = Workers(robot({what!r}, bad=(), at=1), 1, workers=1, timeout=600.0, name='x')\n"
        "backend.do([Command('make', 1)])\n"
        "print(backend._workers[0]._process.pid, flush=True)\n"
        "backend.do([Command('step', np.zeros(1))])\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        time.sleep(0.5)
        run.kill()
    patience = time.monotonic() + 20.0
    while _is_running(worker) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not _is_running(worker)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_cannot_be_sent_to_a_worker_is_refused() -> None:
    import threading

    lock = threading.Lock()

    def make() -> gymnasium.Env:
        with lock:
            return robot()()

    with pytest.raises(ValueError, match=r"ours cannot be sent to a worker process \(TypeError"):
        Workers(make, 1, workers=1, timeout=1.0, name="ours")


@pytest.mark.parametrize("hosting", [HERE, APART], ids=["here", "apart"])
def test_one_that_cannot_be_made_at_all_is_refused_with_its_traceback(hosting: Hosting) -> None:
    def make() -> gymnasium.Env:
        raise OSError("no such robot")

    with pytest.raises(ValueError, match="cannot be made: raised OSError: no such robot") as caught:
        start_env(make, hosting)
    assert str(caught.value).startswith("ours:Robot cannot be made")
    assert "in make" in str(caught.value)


# --- what training makes of it


@pytest.mark.parametrize("hosting", [HERE, APART], ids=["here", "apart"])
def test_no_row_of_a_lost_episode_is_experience(hosting: Hosting) -> None:
    env = start_env(robot("raise"), hosting._replace(on_failure="restart"))
    env.log_to(lambda text: None)
    policy = policy_for(env.spec, "gaussian", std=0.5, scale=0.01)
    _state, rollout = make_collector(env, num_steps=12)(
        policy, begin(env, policy), jax.random.key(1)
    )
    env.close()
    valid = np.asarray(rollout.valid)
    # env 1: three rows lost, the new beginning, an episode, its reset row, another beginning
    expected = np.ones((12, 3), bool)
    expected[[6], :] = False
    expected[:, 1] = True
    expected[[0, 1, 2, 3, 10], 1] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(rollout.masked, [0, AT - 1, 0])
    assert not any(np.asarray(rows).any() for rows in rollout.faults.values())  # nothing was NaN
    np.testing.assert_array_equal(rollout.episode_lengths[9, 1], LENGTH)  # counted from the new one


def flaky() -> type:
    """Fails once in about 30 steps, in each of the ways that one process can bear."""

    class Flaky(robot(numbers=1)):
        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            chance = self.np_random.random()
            if chance < 0.02:
                raise RuntimeError("a bad contact")
            if chance < 0.03:
                observation = observation * np.nan
            if chance < 0.04:
                reward = 1e300 * 1e300
            return observation, reward, *rest

    return Flaky


@pytest.mark.parametrize("policy", ["restart", "quarantine"])
def test_training_bears_it_and_counts_it(policy: str) -> None:
    heard = Recorder()
    config = TINY.replace(on_env_failure=policy, total_steps=2000 if policy == "restart" else 100)
    state, _ = train(flaky(), config, hooks=[heard])
    assert state.step >= config.total_steps
    lost = sum(row["rollout/lost_episodes"] for row in heard.rows)
    assert lost >= (20 if policy == "restart" else 1)
    told = [note for note in heard.notes if "Its episode is left out" in note]
    assert len(told) == lost
    leaves = jax.tree.leaves(state.learners["actor"].params)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.extended
def test_training_with_workers_is_training_without() -> None:
    runs = []
    for workers in (0, 2):
        heard = Recorder()
        config = TINY.replace(env_workers=workers)
        state, _ = train(robot(numbers=1), config, hooks=[heard])
        rows = [without_times(row) for row in heard.rows]
        runs.append((rows, jax.tree.leaves(state.learners["actor"].params)))
    assert runs[0][0] == runs[1][0]
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_failing_ends_training_with_the_report() -> None:
    heard = Recorder()
    with pytest.raises(ValueError, match=r"a bad contact|is nan|reward: inf"):
        train(flaky(), TINY.replace(total_steps=10_000), hooks=[heard])
    assert heard.rows  # what came before was learned from


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        ("CartPole-v1", {"env_workers": 2}, r"env_workers = 2 is for gymnasium:ID"),
        ("probe:constant", {"on_env_failure": "restart"}, r"on_env_failure = 'restart' is for"),
        ("gymnax:CartPole-v1", {"env_workers": 1}, r"env_workers = 1 is for gymnasium:ID"),
        ("gymnasium:CartPole-v1", {"env_workers": 5}, r"env_workers = 5 is more than num_envs = 4"),
        ("gymnasium:CartPole-v1", {"env_timeout": 3.0}, r"env_timeout = 3.0 needs env_workers"),
        (
            "gymnasium:CartPole-v1",
            {"env_workers": 1, "env_timeout": -1.0},
            r"env_timeout = -1.0 is out of range",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(task: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(task, TINY.replace(**changes))


def test_a_registered_task_runs_in_workers() -> None:
    env = make_environment(
        "gymnasium:CartPole-v1",
        2,
        seed=np.random.SeedSequence(0),
        options={"max_episode_steps": 7},
        hosting=Hosting(2),
    )
    alone = make_environment(
        "gymnasium:CartPole-v1",
        2,
        seed=np.random.SeedSequence(0),
        options={"max_episode_steps": 7},
    )
    for made in (env, alone):
        made.reset(jax.random.key(0))
    for _ in range(20):
        action = np.ones(2, np.int64)
        ours, theirs = env.step(None, action)[1], alone.step(None, action)[1]
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    for made in (env, alone):
        made.close()


def test_a_worker_is_light() -> None:
    """It imports neither JAX nor what of Surefoot needs it: a second and 200 MB for each process."""

    class Loaded(robot()):
        def step(self, action: Any) -> Any:
            light = {
                "surefoot",
                *(f"surefoot.{name}" for name in ("errors", "host_process", "processes")),
            }
            heavy = {name for name in sys.modules if name.split(".")[0] in ("jax", "surefoot")}
            assert heavy <= light, heavy - light
            return super().step(action)

    play(start_env(Loaded, APART), 3)


def test_a_stopped_worker_is_given_up_however_large_the_message() -> None:
    backend = Workers(robot(), 1, workers=1, timeout=1.0, name="ours:Robot")
    backend.do([Command("make", 7)])
    worker = backend._workers[0]
    os.kill(worker._process.pid, signal.SIGSTOP)
    (lost,) = backend.do([Command("step", np.zeros(2**20, np.float32))])
    assert isinstance(lost, EnvError)
    assert lost.what == "gave no answer within 1 s"
    assert not worker.is_running
    (again, _info) = backend.do([Command("make", 8)])[0]
    np.testing.assert_array_equal(again, [8, 0])
    backend.close()


def test_large_actions_reach_a_worker() -> None:
    backend = Workers(robot(), 1, workers=1, timeout=20.0, name="ours:Robot")
    backend.do([Command("make", 7)])
    for paid in (1.0, 2.0):
        ((_, reward, *_),) = backend.do([Command("step", np.full(2**20, paid, np.float32))])
        assert reward == paid
    backend.close()
