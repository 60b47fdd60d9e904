"""What a pod's status means, as the versions of Kubernetes write it."""

from __future__ import annotations

from typing import Any

import pytest

from ropewalk.backends.kubernetes.reasons import Look, look, why_from_events, why_gone_from_events


def pod(phase: str = "Running", *, conditions: Any = (), deleted: bool = False, **status: Any) -> dict[str, Any]:
    meta = {"name": "w1", "deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {"name": "w1"}
    return {"metadata": meta, "status": {"phase": phase, "conditions": list(conditions), **status}}


def state(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "worker", "state": state}]


def ended(code: int, reason: str = "Error", **facts: Any) -> list[dict[str, Any]]:
    return state(terminated={"exitCode": code, "reason": reason, **facts})


class TestWaiting:
    def test_without_a_word_asks_for_events(self) -> None:
        assert look(pod("Pending")) == Look(False, waits=True)

    def test_for_a_machine(self) -> None:
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient memory",
        }
        seen = look(pod("Pending", conditions=[condition]))
        assert seen.reason is not None
        assert seen.reason.startswith("No machine has room for it: 0/3 nodes are available: 3 Insufficient memory.")
        assert "smaller nodes" in seen.reason
        assert not seen.waits

    @pytest.mark.parametrize("word", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"])
    def test_for_an_image(self, word: str) -> None:
        seen = look(pod("Pending", containerStatuses=state(waiting={"reason": word, "message": "no such tag"})))
        assert seen.reason is not None
        assert "cannot be pulled" in seen.reason
        assert "no such tag" in seen.reason
        assert "image_pull_secrets" in seen.reason

    def test_for_a_secret_that_is_missing(self) -> None:
        waiting = {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}
        seen = look(pod("Pending", containerStatuses=state(waiting=waiting)))
        assert 'secret "x" not found' in (seen.reason or "")

    def test_ends_when_it_runs(self) -> None:
        assert look(pod("Running", containerStatuses=state(running={}))) == Look(False)


class TestEnds:
    @pytest.mark.parametrize(
        ("code", "wanted"), [(0, 0), (1, 1), (69, 69), (137, -9), (143, -15), (139, -11), (255, 255)]
    )
    def test_have_the_status_or_signal(self, code: int, wanted: int) -> None:
        phase = "Failed" if code else "Succeeded"
        assert look(pod(phase, containerStatuses=ended(code))).exit_code == wanted

    def test_by_memory(self) -> None:
        seen = look(pod("Failed", containerStatuses=ended(137, "OOMKilled")), role="scheduler")
        assert "more scheduler_memory" in (seen.reason or "")

    @pytest.mark.parametrize(
        ("cause", "words"),
        [
            ("Evicted", "ran short of memory or disk"),
            ("Preempted", "higher priority"),
            ("NodeLost", "stopped answering"),
            ("NodeShutdown", "shut down"),
            ("OutOfcpu", "no room left"),
        ],
    )
    def test_by_what_the_machine_did(self, cause: str, words: str) -> None:
        seen = look(pod("Failed", reason=cause, message="The node was low on resource: memory."))
        assert words in (seen.reason or "")
        assert "Kubernetes says: The node was low on resource: memory." in (seen.reason or "")
        assert seen.exit_code is None

    @pytest.mark.parametrize(
        ("cause", "words"),
        [
            ("PreemptionByScheduler", "higher priority"),
            ("DeletionByTaintManager", "taken away"),
            ("EvictionByEvictionAPI", "drained"),
        ],
    )
    def test_by_a_disruption_as_newer_versions_say_it(self, cause: str, words: str) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": cause}
        seen = look(pod("Failed", conditions=[condition], containerStatuses=ended(143)), deleted=True)
        assert words in (seen.reason or "")
        assert seen.exit_code == -15

    def test_by_deletion(self) -> None:
        seen = look(pod("Running", containerStatuses=state(running={})), deleted=True)
        assert "was deleted in Kubernetes" in (seen.reason or "")

    def test_of_our_own_program_are_left_to_who_knows_its_statuses(self) -> None:
        assert look(pod("Failed", containerStatuses=ended(69))).reason is None

    @pytest.mark.parametrize("code", [126, 127])
    def test_of_an_image_without_python(self, code: int) -> None:
        message = 'exec: "python": executable file not found'
        seen = look(pod("Failed", containerStatuses=ended(code, "ContainerCannotRun", message=message)))
        assert message in (seen.reason or "")

    def test_that_nobody_saw_have_no_status(self) -> None:
        assert look(pod("Failed", containerStatuses=ended(137, "ContainerStatusUnknown"))).exit_code is None

    def test_before_any_container_was_made(self) -> None:
        seen = look(pod("Failed"))
        assert seen.gone
        assert seen.reason == "Its pod failed: nobody said why."


class TestEvents:
    def test_the_newest_that_explains_counts(self) -> None:
        events = [
            {"reason": "FailedMount", "type": "Warning", "message": "old", "lastTimestamp": "2026-01-01T00:00:00Z"},
            {"reason": "FailedMount", "type": "Warning", "message": "new", "lastTimestamp": "2026-01-01T00:01:00Z"},
            {"reason": "Scheduled", "type": "Normal", "message": "x", "lastTimestamp": "2026-01-01T00:02:00Z"},
        ]
        assert why_from_events(events) == "It cannot be started (FailedMount): new."

    def test_that_explain_nothing_are_left_out(self) -> None:
        assert why_from_events([{"reason": "Pulled", "type": "Normal"}, {}]) is None

    def test_tell_of_preemption(self) -> None:
        events = [{"reason": "Preempted", "message": "by team/urgent on node a", "eventTime": "2026-01-01T00:00:00Z"}]
        assert "by team/urgent on node a" in (why_gone_from_events(events) or "")
        assert why_from_events(events) is None

    def test_long_messages_are_cut(self) -> None:
        events = [{"reason": "FailedMount", "type": "Warning", "message": "x" * 5000}]
        assert len(why_from_events(events) or "") < 400


MESH = {"name": "istio-proxy", "state": {"running": {}}}


class TestContainersOfOthers:
    """Service meshes add containers to pods; kubelets sort what they say of them by name."""

    def test_run_on_and_the_node_is_gone_all_the_same(self) -> None:
        seen = look(pod("Running", containerStatuses=[MESH, *ended(137, "OOMKilled")]))
        assert (seen.gone, seen.exit_code) == (True, -9)
        assert "OOMKilled" in (seen.reason or "")

    def test_may_wait_while_the_node_runs(self) -> None:
        waiting = {**MESH, "state": {"waiting": {"reason": "ErrImagePull"}}}
        assert look(pod("Running", containerStatuses=[waiting, *state(running={})])) == Look(False)
