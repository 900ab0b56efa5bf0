//! Usage samples: all fields are plain numbers, nothing can be wrong with them.

use super::{Invalid, Problems};
use crate::{
    model::{NodeUsage, TaskUsage, Usage},
    proto,
};

macro_rules! both_ways {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl From<proto::$name> for $name {
            fn from(from: proto::$name) -> Self {
                Self { $($field: from.$field),* }
            }
        }

        impl From<$name> for proto::$name {
            fn from(from: $name) -> Self {
                Self { $($field: from.$field),* }
            }
        }
    };
}

both_ways!(Usage {
    sampled_at_ms,
    cpu_total_us,
    cpu_user_us,
    cpu_system_us,
    memory_bytes,
    memory_peak_bytes,
    memory_anon_bytes,
    memory_file_bytes,
    pids,
    oom_kills,
    throttled_us,
    io_read_bytes,
    io_write_bytes,
    cpu_start_us,
    cpu_periods,
    cpu_throttled_periods,
    memory_high_events,
    memory_max_events,
    cpu_pressure_some_us,
    cpu_pressure_full_us,
    memory_pressure_some_us,
    memory_pressure_full_us,
    io_pressure_some_us,
    io_pressure_full_us,
    network_rx_bytes,
    network_rx_packets,
    network_rx_errors,
    network_rx_dropped,
    network_tx_bytes,
    network_tx_packets,
    network_tx_errors,
    network_tx_dropped,
    memory_working_set_bytes,
    memory_kernel_bytes,
    memory_sock_bytes,
    memory_inactive_file_bytes,
    memory_oom_events,
    io_read_ops,
    io_write_ops,
    disk_bytes,
});

both_ways!(NodeUsage {
    sampled_at_ms,
    cpu_millis,
    memory_total_bytes,
    memory_used_bytes,
    disk_total_bytes,
    disk_used_bytes,
    agent_memory_bytes,
    agent_cpu_total_us,
});

impl TryFrom<proto::TaskUsage> for TaskUsage {
    type Error = Invalid;

    fn try_from(from: proto::TaskUsage) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let framework_id = problems.take("framework_id", from.framework_id.parse());
        let task_id = problems.take("task_id", from.task_id.parse());
        let usage = from.usage.unwrap_or_default().into();
        problems.finish(
            framework_id
                .zip(task_id)
                .map(|(framework_id, task_id)| Self {
                    framework_id,
                    task_id,
                    usage,
                }),
        )
    }
}

impl From<TaskUsage> for proto::TaskUsage {
    fn from(from: TaskUsage) -> Self {
        Self {
            framework_id: from.framework_id.into(),
            task_id: from.task_id.into(),
            usage: Some(from.usage.into()),
        }
    }
}
