"""A whole framework in one file: runs one task on a mezzo cluster to its end, prints how it ended and what it used.

The twin of ../rust-framework. Subscribe (and again when the stream breaks), take an offer that is large enough,
decline the others, launch, acknowledge each status, reconcile after a reconnect, tear down at the end. The stubs are
generated from the .proto files at each start, into a folder that goes with the process: there is nothing to install
but requirements.txt.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import threading
import time
import uuid

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "api" / "proto"
REFUSE_MS = 600_000  # offers that we have no use for: not again for this long
FAILOVER_MS = 60_000  # how long the master keeps our task while we are away
RECONNECT_AFTER_S = 0.5
REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)


def generate_stubs(folder):
    """Compiles the API into `folder` and makes it importable."""
    import grpc_tools
    from grpc_tools import protoc

    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    names = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("mezzo/v1/*.proto"))
    status = protoc.main(
        ["protoc", f"-I{PROTO}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}", *names]
    )
    if status != 0:
        sys.exit(f"error: {PROTO} does not compile")
    sys.path.insert(0, folder)


class Watchdog:
    """Cancels a stream that says nothing for too long: a master that is frozen or cut off closes none."""

    def __init__(self, stream, seconds):
        self.stream, self.seconds, self.timer = stream, seconds, None
        self.heard()

    def heard(self):
        self.stop()
        self.timer = threading.Timer(self.seconds, self.stream.cancel)
        self.timer.daemon = True
        self.timer.start()

    def stop(self):
        if self.timer:
            self.timer.cancel()


class Framework:
    def __init__(self, stub, api, types, arguments):
        self.stub, self.api, self.types, self.arguments = stub, api, types, arguments
        self.caller = api.Caller()  # empty until the master has named us
        self.task_id = f"example-{uuid.uuid4()}"  # a task id is never used twice
        self.launched_on = None
        self.last = None  # the status that ended our task
        self.ended = {
            types.TASK_FINISHED,
            types.TASK_FAILED,
            types.TASK_KILLED,
            types.TASK_ERROR,
            types.TASK_DROPPED,
            types.TASK_GONE,
            types.TASK_UNKNOWN,  # of a task that we know to have launched: the launch never arrived
        }

    def run(self, deadline):
        """Follows one stream after the other until the task has ended; returns its last status."""
        while True:
            try:
                return self.follow_stream(deadline)
            except grpc.RpcError as error:
                # Connecting again helps against a master that is away, not against one that says no.
                if error.code() in REFUSALS:
                    sys.exit(f"error: the master refused: {error.details()}")
                if time.monotonic() > deadline:
                    sys.exit("error: the task did not end in time")
                print(f"the stream broke ({error.details()}), connecting again", file=sys.stderr)
                time.sleep(RECONNECT_AFTER_S)

    def follow_stream(self, deadline):
        info = self.types.FrameworkInfo(
            framework_id=self.caller.framework_id, name="example-python-framework", failover_timeout_ms=FAILOVER_MS
        )
        left = max(0.0, deadline - time.monotonic())
        stream = self.stub.Subscribe(self.api.SubscribeRequest(framework=info), timeout=left)
        watchdog = Watchdog(stream, 30)
        try:
            for event in stream:
                watchdog.heard()
                kind = event.WhichOneof("event")
                if kind == "subscribed":
                    watchdog.seconds = 3 * max(event.subscribed.heartbeat_interval_ms, 1000) / 1000
                    self.subscribed(event.subscribed)
                elif kind == "offers":
                    self.use_offers(event.offers.offers)
                elif kind == "update":
                    self.updated(event.update)
                if self.last:  # while we are subscribed: a call without a stream is refused
                    self.stub.Teardown(self.api.TeardownRequest(caller=self.caller), timeout=10)
                    return self.last
        finally:
            watchdog.stop()
            stream.cancel()
        raise StreamClosed()

    def subscribed(self, subscribed):
        print(f"subscribed as {subscribed.framework_id}", flush=True)
        self.caller = self.api.Caller(framework_id=subscribed.framework_id, stream_id=subscribed.stream_id)
        if self.launched_on and not self.last:  # what happened to our task while we were away? The answer comes as an update.
            task = self.api.ReconcileRequest.TaskKey(task_id=self.task_id, agent_id=self.launched_on)
            self.stub.Reconcile(self.api.ReconcileRequest(caller=self.caller, tasks=[task]), timeout=10)

    def use_offers(self, offers):
        """Launches on the first offer that is large enough; declines everything else."""
        filters = self.types.Filters(refuse_ms=REFUSE_MS)
        unused = []
        for offer in offers:
            here = {resource.name: resource.scalar.millis for resource in offer.resources}
            fits = here.get("cpus", 0) >= self.arguments.cpu_millis
            fits = fits and here.get("mem", 0) >= self.arguments.memory * 1000
            if not fits or self.launched_on:
                unused.append(offer.offer_id)
                continue
            self.launched_on = offer.agent_id  # noted first: if the answer gets lost, reconciliation tells
            print(f"launches {self.task_id} on {offer.hostname}", flush=True)
            launch = self.api.Operation(launch=self.api.Operation.Launch(tasks=[self.task(offer.agent_id)]))
            self.stub.Accept(
                self.api.AcceptRequest(
                    caller=self.caller, offer_ids=[offer.offer_id], operations=[launch], filters=filters
                ),
                timeout=10,
            )
        if unused:
            request = self.api.DeclineRequest(caller=self.caller, offer_ids=unused, filters=filters)
            self.stub.Decline(request, timeout=10)

    def updated(self, status):
        """Acknowledges, or the agent would send the status again and again."""
        print(self.types.TaskState.Name(status.state), status.message, flush=True)
        if status.update_id:
            self.stub.Acknowledge(
                self.api.AcknowledgeRequest(
                    caller=self.caller,
                    agent_id=status.agent_id,
                    task_id=status.task_id,
                    update_id=status.update_id,
                ),
                timeout=10,
            )
        if status.task_id == self.task_id and status.state in self.ended and not self.last:
            self.last = status

    def task(self, agent_id):
        types = self.types
        return types.TaskInfo(
            task_id=self.task_id,
            name="example",
            agent_id=agent_id,
            resources=[
                types.Resource(name="cpus", scalar=types.Scalar(millis=self.arguments.cpu_millis)),
                types.Resource(name="mem", scalar=types.Scalar(millis=self.arguments.memory * 1000)),
            ],
            container=types.ContainerInfo(
                image=self.arguments.image, args=self.arguments.args, network=types.NETWORK_MODE_HOST
            ),
        )


class StreamClosed(grpc.RpcError):
    """The master ended the stream without an error, as it does when it stops."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "the master closed the stream"


def describe(status):
    how = {"code": f"exit code {status.exit.code}", "signal": f"killed by signal {status.exit.signal}"}
    told = how.get(status.exit.WhichOneof("how"), f"did not run: {status.message}")
    usage = status.usage
    cpu = f"{usage.cpu_total_us / 1e6:.3f} s" if usage.HasField("cpu_total_us") else "unknown"
    peak = f"{usage.memory_peak_bytes // 1024} KiB" if usage.HasField("memory_peak_bytes") else "unknown"
    return f"{told}; final usage: cpu {cpu}, memory peak {peak}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--master", default=os.environ.get("MEZZO_MASTER", "127.0.0.1:5050"), help="host:port")
    parser.add_argument("--image", required=True, help="the image to run")
    parser.add_argument("--cpu-millis", type=int, default=100, help="processors, in thousandths")
    parser.add_argument("--memory", type=int, default=32, help="MiB of memory")
    parser.add_argument("--deadline", type=float, default=300, help="give up after this many seconds")
    parser.add_argument("args", nargs="*", help="arguments of the task, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mezzo-stubs-") as folder:
        generate_stubs(folder)
        from mezzo.v1 import framework_pb2, framework_pb2_grpc, types_pb2

        with grpc.insecure_channel(arguments.master) as channel:
            stub = framework_pb2_grpc.FrameworkServiceStub(channel)
            framework = Framework(stub, framework_pb2, types_pb2, arguments)
            ended = framework.run(time.monotonic() + arguments.deadline)
    print(describe(ended))
    sys.exit(0 if ended.exit.WhichOneof("how") else 1)


if __name__ == "__main__":
    main()
