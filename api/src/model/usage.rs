//! Measured use, as the kernel accounts it. A field that is `None` could not be told on that machine.

use serde::{Deserialize, Serialize};

use super::{FrameworkId, TaskId};

/// Of one container, from its cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Unix milliseconds.
    pub sampled_at_ms: u64,
    /// Processor time since the start, in microseconds.
    pub cpu_total_us: Option<u64>,
    /// In user mode.
    pub cpu_user_us: Option<u64>,
    /// In the kernel.
    pub cpu_system_us: Option<u64>,
    /// Everything charged, page cache included.
    pub memory_bytes: Option<u64>,
    /// The largest `memory_bytes` so far.
    pub memory_peak_bytes: Option<u64>,
    /// Anonymous memory.
    pub memory_anon_bytes: Option<u64>,
    /// Page cache.
    pub memory_file_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processes killed for the memory limit.
    pub oom_kills: Option<u64>,
    /// Time kept from running by the cpu limit.
    pub throttled_us: Option<u64>,
    /// Read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Written to block devices.
    pub io_write_bytes: Option<u64>,
    /// The part of `cpu_total_us` that making the container took.
    pub cpu_start_us: Option<u64>,
    /// Periods of the cpu limit in which something wanted to run.
    pub cpu_periods: Option<u64>,
    /// Of those, the ones in which the limit was used up.
    pub cpu_throttled_periods: Option<u64>,
    /// Times that memory was taken back for the soft limit.
    pub memory_high_events: Option<u64>,
    /// Times that memory was taken back for the hard limit.
    pub memory_max_events: Option<u64>,
    /// Time in which something waited for a processor.
    pub cpu_pressure_some_us: Option<u64>,
    /// Time in which all that had something to do waited for a processor.
    pub cpu_pressure_full_us: Option<u64>,
    /// Time in which something waited for memory.
    pub memory_pressure_some_us: Option<u64>,
    /// Time in which all that had something to do waited for memory.
    pub memory_pressure_full_us: Option<u64>,
    /// Time in which something waited for block devices.
    pub io_pressure_some_us: Option<u64>,
    /// Time in which all that had something to do waited for block devices.
    pub io_pressure_full_us: Option<u64>,
    /// Received on the network interfaces of the container's own network, loopback left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_rx_bytes: Option<u64>,
    /// Packets received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_rx_packets: Option<u64>,
    /// Packets that came damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_rx_errors: Option<u64>,
    /// Packets that came and could not be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_rx_dropped: Option<u64>,
    /// Sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_tx_bytes: Option<u64>,
    /// Packets sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_tx_packets: Option<u64>,
    /// Packets that could not be sent for an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_tx_errors: Option<u64>,
    /// Packets that were thrown away before they were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_tx_dropped: Option<u64>,
    /// What cannot simply be taken back: `memory_bytes` less the page cache not used lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_working_set_bytes: Option<u64>,
    /// Kernel memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kernel_bytes: Option<u64>,
    /// Network buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_sock_bytes: Option<u64>,
    /// Page cache not used lately, which the kernel takes back first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_inactive_file_bytes: Option<u64>,
    /// Times that the memory limit was met and nothing more could be taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_oom_events: Option<u64>,
    /// Read operations of block devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_ops: Option<u64>,
    /// Write operations of block devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_write_ops: Option<u64>,
    /// What the writable layer, the sandbox and the logs take on the machine's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

/// Of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskUsage {
    /// Whose.
    pub framework_id: FrameworkId,
    /// Which.
    pub task_id: TaskId,
    /// The sample.
    pub usage: Usage,
}

/// Of a whole machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUsage {
    /// Unix milliseconds.
    pub sampled_at_ms: u64,
    /// Busy since the previous sample, in thousandths of one processor.
    pub cpu_millis: Option<u64>,
    /// Installed.
    pub memory_total_bytes: Option<u64>,
    /// Total less what the kernel calls available.
    pub memory_used_bytes: Option<u64>,
    /// Of the file system that holds the agent's state.
    pub disk_total_bytes: Option<u64>,
    /// Of the same.
    pub disk_used_bytes: Option<u64>,
    /// Agent, launcher and keepers.
    pub agent_memory_bytes: Option<u64>,
    /// The agent's own processor time since its start.
    pub agent_cpu_total_us: Option<u64>,
}
