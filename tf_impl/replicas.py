"""The workers of a run in several processes, and how long one may be silent.

TensorFlow ends a run of `MultiWorkerMirroredStrategy` when a worker has sent no heartbeat for 10 s,
which is less than a busy machine may keep a process waiting. No public function of TensorFlow 2.20
sets that time; the strategy leaves settings that are there before it in place.
"""

import tensorflow as tf
from official.common import distribute_utils
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

SILENCE_MS = 120_000
"""A worker that sends no heartbeat for so long is taken for dead, and the run ends."""


def join(worker_hosts: str, task_index: int) -> None:
    """Lets this process be one of the workers; must come before TensorFlow's first operation.

    Args:
        worker_hosts: `host:port` of every worker, separated by commas. Empty where the environment
            variable `TF_CONFIG` says it, or where this process is alone.
        task_index: Which of them this process is.

    Raises:
        ValueError: several hosts and no index.
    """
    distribute_utils.configure_cluster(worker_hosts, task_index)
    cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    jobs = [job for job in ("chief", "worker") if job in cluster.jobs]
    if jobs:
        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader=f"/job:{jobs[0]}/replica:0/task:0",
            heartbeat_timeout_in_ms=SILENCE_MS,
            coordinated_jobs=[
                coordination_config_pb2.CoordinatedJob(name=job, num_tasks=cluster.num_tasks(job))
                for job in jobs
            ],
        )
