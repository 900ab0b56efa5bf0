//! `resourceLimits` of app files: what is accepted, how it is written back, and how each mistake is named.

use mezzo_api::model::CpuPinning;
use mezzo_scheduler::app::{App, merge, parse_app};
use mezzo_scheduler::check_app_json;
use serde_json::{Value, json};

fn with(limits: Value) -> Value {
    let base =
        json!({"id": "/web", "cpus": 1, "mem": 64, "container": {"docker": {"image": "web:1"}}});
    merge(&base, &json!({"resourceLimits": limits}))
}

fn accepted(value: &Value) -> App {
    let (app, report) = parse_app(value, None);
    assert!(report.unknown.is_empty(), "{:?}", report.unknown);
    app.unwrap_or_else(|| panic!("{value}: {:?}", report.errors))
}

#[test]
fn every_limit_is_read_and_written_back() {
    let limits = json!({
        "cpus": "unlimited", "mem": 128, "memHigh": 96, "memLow": 16, "swap": 0, "pids": 50, "ioWeight": 200,
        "ioMax": [{"device": "/var/lib", "writeBytesPerSecond": 1_048_576}, {"device": "8:0", "readsPerSecond": 10}],
        "cpuPinning": "exclusive",
        "rlimits": [{"name": "nofile", "soft": 1024, "hard": "unlimited"}],
        "hugePages": [{"pageKb": 2048, "limitMb": 64}],
    });
    let app = accepted(&with(limits.clone()));
    assert_eq!(app.limits.cpu_pinning, CpuPinning::Exclusive);
    assert_eq!((app.limits.swap_mb, app.pids_limit), (Some(0), Some(50)));
    assert_eq!(app.limits.rlimits[0].hard, None);
    let written = app.to_json();
    assert_eq!(written["resourceLimits"], limits);
    assert_eq!(accepted(&written), app);
    // Another limit is another configuration.
    let mut changed = written;
    changed["resourceLimits"]["memHigh"] = json!(97);
    assert!(!accepted(&changed).same_config(&app));
}

#[test]
fn unlimited_memory_is_marathons_word() {
    let app = accepted(&with(json!({"mem": "unlimited", "memHigh": 4096})));
    assert_eq!(
        app.to_json()["resourceLimits"],
        json!({"mem": "unlimited", "memHigh": 4096})
    );
}

#[test]
fn each_mistake_is_named_with_its_path() {
    for (limits, path) in [
        (json!([]), "/resourceLimits"),
        (json!({"cpus": 0.5}), "/resourceLimits/cpus"),
        (json!({"mem": "infinite"}), "/resourceLimits/mem"),
        (json!({"memHigh": 65}), "/resourceLimits/memHigh"),
        (json!({"memLow": 1.5}), "/resourceLimits/memLow"),
        (
            json!({"mem": "unlimited", "swap": 1}),
            "/resourceLimits/swap",
        ),
        (json!({"pids": 0}), "/resourceLimits/pids"),
        (json!({"ioWeight": 10_001}), "/resourceLimits/ioWeight"),
        (json!({"cpuPinning": "yes"}), "/resourceLimits/cpuPinning"),
        (
            json!({"ioMax": [{"writesPerSecond": 1}]}),
            "/resourceLimits/ioMax(0)/device",
        ),
        (
            json!({"ioMax": [{"device": "sda", "writesPerSecond": 1}]}),
            "/resourceLimits/ioMax(0)/device",
        ),
        (
            json!({"ioMax": [{"device": "8:0"}]}),
            "/resourceLimits/ioMax(0)",
        ),
        (
            json!({"ioMax": [{"device": "8:0", "writesPerSecond": 4_294_967_296u64}]}),
            "/resourceLimits/ioMax(0)/writesPerSecond",
        ),
        (
            json!({"rlimits": [{"name": "files", "soft": 1, "hard": 1}]}),
            "/resourceLimits/rlimits(0)/name",
        ),
        (
            json!({"rlimits": [{"name": "nofile", "soft": 2, "hard": 1}]}),
            "/resourceLimits/rlimits(0)/soft",
        ),
        (
            json!({"rlimits": [{"name": "core"}, {"name": "RLIMIT_CORE"}]}),
            "/resourceLimits/rlimits(1)",
        ),
        (
            json!({"hugePages": [{"pageKb": 2000, "limitMb": 1}]}),
            "/resourceLimits/hugePages(0)/pageKb",
        ),
        (
            json!({"hugePages": [{"pageKb": 2048}]}),
            "/resourceLimits/hugePages(0)/limitMb",
        ),
    ] {
        let report = check_app_json(&with(limits.clone()));
        let mut paths: Vec<&str> = report.errors.iter().map(|p| p.path.as_str()).collect();
        // Without a rate because the rate is wrong: both are told.
        paths.retain(|found| *found == path || !path.starts_with(found));
        assert_eq!(paths, [path], "{limits}: {:?}", report.errors);
    }
    let mut app = with(json!({"cpuPinning": "exclusive"}));
    app["cpus"] = json!(1.5);
    let report = check_app_json(&app);
    assert_eq!(report.errors[0].path, "/resourceLimits/cpuPinning");
}
