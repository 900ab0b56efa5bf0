//! The words of `mezzo task limit` as a change of limits.
//!
//! Pure. What contradicts the task or its machine, the agent says.

use mezzo_api::{
    model::{IoDevice, Scalar},
    proto,
};

use crate::{args::task::LimitArgs, failure::Failure};

/// Takes a limit away.
const NONE: &str = "none";

/// The change, without the task's id.
pub(crate) fn change(args: &LimitArgs) -> Result<proto::UpdateTaskRequest, Failure> {
    let mut request = proto::UpdateTaskRequest::default();
    let mut clear = Vec::new();
    request.cpu_limit = read(&args.cpu, "cpu_limit", &mut clear, |text| {
        cpus("--cpu", text).map(|limit| proto::Scalar {
            millis: limit.millis(),
        })
    })?;
    let memory = |text: &str| mebibytes("--memory", text);
    request.memory_limit_mb = read(&args.memory, "memory_limit_mb", &mut clear, memory)?;
    let high = |text: &str| mebibytes("--memory-high", text);
    request.memory_high_mb = read(&args.memory_high, "memory_high_mb", &mut clear, high)?;
    let low = |text: &str| mebibytes("--memory-low", text);
    request.memory_low_mb = read(&args.memory_low, "memory_low_mb", &mut clear, low)?;
    let swap = |text: &str| mebibytes("--swap", text);
    request.swap_mb = read(&args.swap, "swap_mb", &mut clear, swap)?;
    let pids = |text: &str| number("--pids", text);
    request.pids_limit = read(&args.pids, "pids_limit", &mut clear, pids)?;
    let weight = |text: &str| number("--io-weight", text);
    request.io_weight = read(&args.io_weight, "io_weight", &mut clear, weight)?;
    for text in &args.io_max {
        if text == NONE {
            clear.push("io_max".to_owned());
        } else {
            request.io_max.push(io_limit(text)?);
        }
    }
    for text in &args.huge_pages {
        if text == NONE {
            clear.push("huge_pages".to_owned());
        } else {
            request.huge_pages.push(huge_pages(text)?);
        }
    }
    request.clear = clear;
    if request == proto::UpdateTaskRequest::default() {
        return Err(Failure::usage(
            "name at least one limit, like --memory-high 100M (see mezzo task limit --help)"
                .to_owned(),
        ));
    }
    Ok(request)
}

fn read<T>(
    text: &Option<String>,
    field: &str,
    clear: &mut Vec<String>,
    parse: impl FnOnce(&str) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    match text.as_deref() {
        None => Ok(None),
        Some(NONE) => {
            clear.push(field.to_owned());
            Ok(None)
        }
        Some(text) => parse(text).map(Some),
    }
}

fn cpus(flag: &str, text: &str) -> Result<Scalar, Failure> {
    text.parse()
        .ok()
        .filter(|limit: &Scalar| limit.millis() > 0)
        .ok_or_else(|| {
            Failure::usage(format!(
                "{flag} `{text}`: give processors above 0 with at most three decimals, like 1.5, or none"
            ))
        })
}

fn number<T: std::str::FromStr>(flag: &str, text: &str) -> Result<T, Failure> {
    text.parse()
        .map_err(|_| Failure::usage(format!("{flag} `{text}`: give a whole number, or none")))
}

/// `512K`, `100M`, `2G`, `1T`, with or without `iB`; a bare number is bytes.
fn size(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_end_matches("iB") {
        "" => 0,
        "K" | "k" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn mebibytes(flag: &str, text: &str) -> Result<u64, Failure> {
    size(text)
        .filter(|bytes| bytes % (1 << 20) == 0)
        .map(|bytes| bytes >> 20)
        .ok_or_else(|| {
            Failure::usage(format!(
                "{flag} `{text}`: give whole MiB, like 100M or 2G, or none"
            ))
        })
}

/// `DEVICE,wbps=10M,riops=500`.
fn io_limit(text: &str) -> Result<proto::IoLimit, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "--io-max `{text}`: {why}; give a device and rates, like /var/lib,wbps=10M,riops=500 or 8:0,rbps=1M, or none"
        ))
    };
    let (device, rates) = text
        .split_once(',')
        .ok_or_else(|| wrong("the rate is missing"))?;
    let device: IoDevice = device.parse().map_err(|error| wrong(&format!("{error}")))?;
    let mut limit = proto::IoLimit {
        device: device.to_string(),
        ..proto::IoLimit::default()
    };
    for rate in rates.split(',') {
        let (name, value) = rate
            .split_once('=')
            .ok_or_else(|| wrong(&format!("`{rate}` is no rate")))?;
        let value = size(value).ok_or_else(|| wrong(&format!("`{value}` is no number")))?;
        let field = match name {
            "rbps" => &mut limit.read_bytes_per_sec,
            "wbps" => &mut limit.write_bytes_per_sec,
            "riops" => &mut limit.reads_per_sec,
            "wiops" => &mut limit.writes_per_sec,
            _ => {
                return Err(wrong(&format!(
                    "`{name}` is none of rbps, wbps, riops, wiops"
                )));
            }
        };
        *field = Some(value);
    }
    Ok(limit)
}

/// `2M=64M`.
fn huge_pages(text: &str) -> Result<proto::HugePages, Failure> {
    text.split_once('=')
        .and_then(|(page, limit)| {
            let (page, limit) = (size(page)?, size(limit)?);
            (page % (1 << 10) == 0 && limit % (1 << 20) == 0).then_some(proto::HugePages {
                page_kb: page >> 10,
                limit_mb: limit >> 20,
            })
        })
        .ok_or_else(|| {
            Failure::usage(format!(
                "--huge-pages `{text}`: give a size of pages and whole MiB of them, like 2M=64M, or none"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(set: impl FnOnce(&mut LimitArgs)) -> LimitArgs {
        let mut args = LimitArgs {
            task: "t".into(),
            cpu: None,
            memory: None,
            memory_high: None,
            memory_low: None,
            swap: None,
            pids: None,
            io_weight: None,
            io_max: vec![],
            huge_pages: vec![],
        };
        set(&mut args);
        args
    }

    #[test]
    fn words_become_a_change() {
        let read = change(&args(|args| {
            args.cpu = Some("1.5".into());
            args.memory = Some("1G".into());
            args.memory_high = Some("100MiB".into());
            args.swap = Some("none".into());
            args.pids = Some("7".into());
            args.io_max = vec!["none".into(), "8:0,rbps=1M,wiops=9".into()];
            args.huge_pages = vec!["2M=64M".into()];
        }))
        .unwrap();
        assert_eq!(read.cpu_limit, Some(proto::Scalar { millis: 1500 }));
        assert_eq!(
            (read.memory_limit_mb, read.memory_high_mb, read.pids_limit),
            (Some(1024), Some(100), Some(7))
        );
        assert_eq!(read.clear, ["swap_mb", "io_max"]);
        assert_eq!(
            (
                read.io_max[0].read_bytes_per_sec,
                read.io_max[0].writes_per_sec
            ),
            (Some(1 << 20), Some(9))
        );
        assert_eq!(
            (read.huge_pages[0].page_kb, read.huge_pages[0].limit_mb),
            (2048, 64)
        );
    }

    #[test]
    fn each_mistake_names_its_flag() {
        let flag = |set: fn(&mut LimitArgs)| match change(&args(set)) {
            Err(Failure::Usage(message)) => message.split(' ').next().unwrap_or("").to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(flag(|args| args.cpu = Some("0".into())), "--cpu");
        assert_eq!(flag(|args| args.memory = Some("1.5G".into())), "--memory");
        assert_eq!(flag(|args| args.swap = Some("512K".into())), "--swap");
        assert_eq!(
            flag(|args| args.memory_high = Some("99999999999999G".into())),
            "--memory-high"
        );
        assert_eq!(flag(|args| args.pids = Some("-1".into())), "--pids");
        for bad in ["8:0", "sda,wbps=1", "8:0,wbps", "8:0,bps=1", "8:0,wbps=x"] {
            let error = io_limit(bad).unwrap_err();
            assert!(format!("{error:?}").contains("--io-max"), "{bad}");
        }
        assert_eq!(
            flag(|args| args.huge_pages = vec!["2M".into()]),
            "--huge-pages"
        );
        assert_eq!(flag(|_| ()), "name");
    }
}
