"""What the environment says of workers and TPUs, and what is said of it when it is wrong."""

from __future__ import annotations

import json

import pytest

from pseudoseg_tf.assembly import create_strategy
from pseudoseg_tf.config import RuntimeConfig
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.workers import check_cluster

HOSTS = ["host1:2222", "host2:2222"]


def config(tasks: object, **task: object) -> str:
    return json.dumps({"cluster": tasks, "task": task})


@pytest.mark.parametrize(
    "text",
    [
        config({"worker": HOSTS}, type="worker", index=1),
        config({"worker": HOSTS[:1]}, type="worker", index=0),
        config({"chief": HOSTS[:1], "worker": HOSTS[1:]}, type="chief", index=0),
    ],
)
def test_clusters(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    check_cluster()


@pytest.mark.parametrize(
    "text",
    [
        "{bad",
        "[]",
        "{}",
        config({"worker": HOSTS}, type="worker", index=2),
        config({"worker": HOSTS}, type="worker", index=-1),
        config({"worker": HOSTS}, type="worker", index="first"),
        config({"worker": HOSTS}, type="chief", index=0),
        config({"worker": HOSTS, "chief": []}, type="worker", index=0),
        config({"worker": "host1:2222"}, type="worker", index=0),
        config({"worker": ["host1"]}, type="worker", index=0),
        config({"worker": HOSTS}),
    ],
)
def test_what_is_no_cluster_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG must be such as") as refused:
        create_strategy(RuntimeConfig(strategy="multi_worker"))
    assert text in str(refused.value)


def test_workers_need_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="the variable TF_CONFIG is missing"):
        create_strategy(RuntimeConfig(strategy="multi_worker"))


def test_a_tpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TPU_NAME", "COLAB_TPU_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"runtime\.tpu: found '', where TensorFlow finds no TPU \("):
        create_strategy(RuntimeConfig(strategy="tpu"))
