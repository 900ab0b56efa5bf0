//! Compiles `proto/` with protox, so that no `protoc` is needed on the machine, and hands the descriptors on for
//! server reflection.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 11] = [
    "mezzo/v1/groups.proto",
    "mezzo/v1/limits.proto",
    "mezzo/v1/reservations.proto",
    "mezzo/v1/types.proto",
    "mezzo/v1/operations.proto",
    "mezzo/v1/oversubscription.proto",
    "mezzo/v1/framework.proto",
    "mezzo/v1/agent.proto",
    "mezzo/v1/operating.proto",
    "mezzo/v1/operator.proto",
    "mezzo/v1/node.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("mezzo.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Seldom there, and half a kilobyte large where it is not.
        .boxed(".mezzo.v1.TaskStatus.usage")
        // More than a kilobyte, which lists of tasks move as they grow.
        .boxed(".mezzo.v1.Task.info")
        // As the model has them.
        .btree_map(".mezzo.v1.TaskInfo.labels")
        .btree_map(".mezzo.v1.ContainerInfo.network_labels")
        // Each stream has room for a message in several places: with the large ones apart, a quarter of a kilobyte each.
        .boxed(".mezzo.v1.AgentMessage.message.register")
        .boxed(".mezzo.v1.AgentMessage.message.status")
        .boxed(".mezzo.v1.AgentMessage.message.pools")
        .boxed(".mezzo.v1.MasterMessage.message.operation")
        // A master writes its tasks straight from its books.
        .extern_path(".mezzo.v1.MasterMessage.Launch", "crate::convert::Launch")
        .extern_path(
            ".mezzo.v1.ListTasksResponse",
            "crate::convert::ListTasksResponse",
        )
        .codec_path("crate::codec::ThriftyCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
