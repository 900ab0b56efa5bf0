//! Writes `resourceLimits`.
//!
//! Pure.

use mezzo_api::model::CpuPinning;
use serde_json::{Map, Value, json};

use super::scalar;
use crate::app::spec::{App, Limit};

/// The object; `None` when there is nothing to say.
pub(super) fn limits(app: &App) -> Option<Value> {
    let mut out = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    };
    for (name, limit) in [("cpus", app.cpu_limit), ("mem", app.mem_limit)] {
        let value = limit.map(|limit| match limit {
            Limit::Unlimited => "unlimited".into(),
            Limit::Of(value) => scalar(value),
        });
        put(name, value);
    }
    let more = &app.limits;
    put("memHigh", more.memory_high_mb.map(Value::from));
    put("memLow", more.memory_low_mb.map(Value::from));
    put("swap", more.swap_mb.map(Value::from));
    put("pids", app.pids_limit.map(Value::from));
    put("ioWeight", more.io_weight.map(Value::from));
    put(
        "cpuPinning",
        (more.cpu_pinning == CpuPinning::Exclusive).then(|| "exclusive".into()),
    );
    let io_max: Vec<Value> = more
        .io_max
        .iter()
        .map(|limit| {
            let mut entry = Map::new();
            entry.insert("device".into(), limit.device.to_string().into());
            for (name, rate) in [
                ("readBytesPerSecond", limit.read_bytes_per_sec),
                ("writeBytesPerSecond", limit.write_bytes_per_sec),
                ("readsPerSecond", limit.reads_per_sec),
                ("writesPerSecond", limit.writes_per_sec),
            ] {
                if let Some(rate) = rate {
                    entry.insert(name.into(), rate.into());
                }
            }
            Value::Object(entry)
        })
        .collect();
    put("ioMax", (!io_max.is_empty()).then(|| io_max.into()));
    let or_unlimited = |value: Option<u64>| value.map_or("unlimited".into(), Value::from);
    let rlimits: Vec<Value> = more
        .rlimits
        .iter()
        .map(|limit| {
            json!({
                "name": limit.name,
                "soft": or_unlimited(limit.soft),
                "hard": or_unlimited(limit.hard),
            })
        })
        .collect();
    put("rlimits", (!rlimits.is_empty()).then(|| rlimits.into()));
    let huge_pages: Vec<Value> = more
        .huge_pages
        .iter()
        .map(|pages| json!({"pageKb": pages.page_kb, "limitMb": pages.limit_mb}))
        .collect();
    put(
        "hugePages",
        (!huge_pages.is_empty()).then(|| huge_pages.into()),
    );
    (!out.is_empty()).then_some(Value::Object(out))
}
