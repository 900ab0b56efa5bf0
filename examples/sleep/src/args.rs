//! The command line of `sleep` as data. Pure: words in, a `Plan` or one sentence about the first bad word out.

use std::time::Duration;

/// Shown after a bad command line.
pub(crate) const USAGE: &str = "usage: sleep [SECONDS] [--memory-mb N] [--cpu-ms N] [--exit-code 0..255] [--ignore-term] [--count FILE] [--serve] [--linger-ms N]";

/// What to do, in this order: count this start, serve, hold memory, use processor time, sleep, linger when told to stop, end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) length: Length,
    pub(crate) memory_mb: usize,
    pub(crate) cpu_ms: u32,
    pub(crate) exit_code: u8,
    pub(crate) ignore_term: bool,
    /// Files with a line for each start.
    pub(crate) count: Vec<String>,
    /// Whether to answer HTTP requests on `$PORT0`.
    pub(crate) serve: bool,
    /// How long to go on after it was told to stop: until those who send requests know.
    pub(crate) linger_ms: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Forever,
    For(Duration),
}

pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Plan, String> {
    let mut plan = Plan {
        length: Length::Forever,
        memory_mb: 0,
        cpu_ms: 0,
        exit_code: 0,
        ignore_term: false,
        count: Vec::new(),
        serve: false,
        linger_ms: 0,
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a number"))?;
            value
                .parse::<u32>()
                .map_err(|_| format!("{word} needs a number, not '{value}'"))
        };
        match word.as_str() {
            "--memory-mb" => plan.memory_mb = number()? as usize,
            "--cpu-ms" => plan.cpu_ms = number()?,
            "--exit-code" => {
                let code = number()?;
                plan.exit_code = u8::try_from(code)
                    .map_err(|_| format!("--exit-code {code} is more than 255"))?;
            }
            "--ignore-term" => plan.ignore_term = true,
            "--serve" => plan.serve = true,
            "--linger-ms" => plan.linger_ms = number()?,
            "--count" => {
                let file = words.next().ok_or("--count needs a file")?;
                plan.count.push(file);
            }
            seconds => {
                let length = seconds
                    .parse::<f64>()
                    .ok()
                    .and_then(|s| Duration::try_from_secs_f64(s).ok());
                let length = length.filter(|length| length.as_secs() <= u64::from(u32::MAX));
                plan.length = Length::For(
                    length.ok_or_else(|| format!("'{seconds}' is not a number of seconds"))?,
                );
            }
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Result<Plan, &str>) {
        let words = line.split_whitespace().map(str::to_owned);
        assert_eq!(parse(words), expected.map_err(str::to_owned), "{line}");
    }

    fn plan(length: Length) -> Plan {
        Plan {
            length,
            memory_mb: 0,
            cpu_ms: 0,
            exit_code: 0,
            ignore_term: false,
            count: Vec::new(),
            serve: false,
            linger_ms: 0,
        }
    }

    #[test]
    fn sleeps_for_ever_without_arguments() {
        check("", Ok(plan(Length::Forever)));
    }

    #[test]
    fn takes_seconds_and_flags_in_any_order() {
        check("1.5", Ok(plan(Length::For(Duration::from_millis(1500)))));
        check(
            "--cpu-ms 300 2 --memory-mb 64 --exit-code 7 --ignore-term --count /a --count b --serve --linger-ms 9",
            Ok(Plan {
                length: Length::For(Duration::from_secs(2)),
                memory_mb: 64,
                cpu_ms: 300,
                exit_code: 7,
                ignore_term: true,
                count: vec!["/a".to_owned(), "b".to_owned()],
                serve: true,
                linger_ms: 9,
            }),
        );
    }

    #[test]
    fn names_the_bad_word() {
        check("soon", Err("'soon' is not a number of seconds"));
        check("-1", Err("'-1' is not a number of seconds"));
        check("1e300", Err("'1e300' is not a number of seconds"));
        check("--cpu-ms", Err("--cpu-ms needs a number"));
        check(
            "--memory-mb many",
            Err("--memory-mb needs a number, not 'many'"),
        );
        check("--count", Err("--count needs a file"));
        check("--exit-code 256", Err("--exit-code 256 is more than 255"));
    }
}
