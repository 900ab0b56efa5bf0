//! Amounts of a quota as typed: `cpus=4,mem=8G`.

use mezzo_api::{
    model::Scalar,
    proto::{self, update_quotas_request::Quota},
};

use crate::{args::cluster::QuotaSetArgs, failure::Failure};

/// Checks `mezzo role quota set`.
pub(crate) fn quota(args: &QuotaSetArgs) -> Result<Quota, Failure> {
    let quota = Quota {
        role: args.role.clone(),
        guarantees: amounts("--guarantee", &args.guarantee)?,
        limits: amounts("--limit", &args.limit)?,
    };
    if quota.guarantees.is_empty() && quota.limits.is_empty() {
        return Err(Failure::usage(
            "give --guarantee, --limit or both; `mezzo role quota clear ROLE` removes a quota",
        ));
    }
    Ok(quota)
}

pub(crate) fn amounts(flag: &str, text: &str) -> Result<Vec<proto::Resource>, Failure> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let wrong = |why: &str| {
                Failure::usage(format!(
                    "{flag} `{part}`: {why}; give NAME=AMOUNT, like cpus=4, mem=512 (MiB) or mem=8G"
                ))
            };
            let (name, amount) = part
                .split_once('=')
                .ok_or_else(|| wrong("there is no `=`"))?;
            if name.is_empty() {
                return Err(wrong("the name is missing"));
            }
            let in_mebibytes = ["mem", "disk"].contains(&name);
            let amount = if in_mebibytes {
                mebibytes(amount)
            } else {
                amount.parse().ok()
            };
            let amount = amount
                .filter(|amount| *amount >= Scalar::ZERO)
                .ok_or_else(|| wrong("the amount cannot be read"))?;
            Ok(proto::Resource {
                name: name.to_owned(),
                value: Some(proto::resource::Value::Scalar(amount.into())),
            })
        })
        .collect()
}

/// MiB, or with a unit that is a whole number of them or a part of one: exact or not at all.
pub(crate) fn mebibytes(text: &str) -> Option<Scalar> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (times, parts) = match text[number.len()..]
        .trim_end_matches("iB")
        .trim_end_matches('B')
    {
        "" if number.len() == text.len() => (1, 1),
        "K" | "k" => (1, 1024),
        "M" => (1, 1),
        "G" => (1024, 1),
        "T" => (1024 * 1024, 1),
        _ => return None,
    };
    let millis = number.parse::<Scalar>().ok()?.millis().checked_mul(times)?;
    (millis % parts == 0).then(|| Scalar::from_millis(millis / parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(guarantee: &str, limit: &str) -> QuotaSetArgs {
        QuotaSetArgs {
            role: "eng".into(),
            guarantee: guarantee.into(),
            limit: limit.into(),
            force: false,
        }
    }

    #[test]
    fn amounts_are_exact() {
        let read = |text: &str| {
            let quota = quota(&args(text, "")).ok()?;
            match quota.guarantees[0].value {
                Some(proto::resource::Value::Scalar(scalar)) => Some(scalar.millis),
                _ => None,
            }
        };
        for (text, millis) in [
            ("cpus=4", 4000),
            ("cpus=0.125", 125),
            ("cpus=0", 0),
            ("mem=512", 512_000),
            ("mem=8G", 8_192_000),
            ("mem=8GB", 8_192_000),
            ("mem=1.5GiB", 1_536_000),
            ("disk=1T", 1_048_576_000),
            ("mem=1024K", 1000),
        ] {
            assert_eq!(read(text), Some(millis), "{text}");
        }
        for text in [
            "cpus",
            "=4",
            "cpus=-1",
            "cpus=4G",
            "mem=x",
            "mem=1K",
            "mem=1B",
            "cpus=0.0001",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_quota_that_says_nothing_is_refused() {
        let told = quota(&args("", "")).unwrap_err().to_string();
        assert!(told.contains("role quota clear"), "{told}");
    }
}
