//! Launches with and without somebody who lists.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Size, launches::Bench, process::Process};

pub(super) async fn run(size: &Size) -> Result<()> {
    let n = size.tasks.first().copied().unwrap_or(0);
    let mut bench = Bench::start(size, size.listed + n * 2 * size.rounds)?;
    bench.launch(size.listed, size).await?;
    for round in 0..size.rounds {
        // In turns the one and the other first: a launch takes longer the more tasks there are.
        let first = if round % 2 == 0 {
            Some(bench.launch(n, size).await?)
        } else {
            None
        };
        let (master, listed) = (bench.address.to_string(), size.listed.to_string());
        let words = ["list".to_owned(), master, listed, size.every.to_string()];
        let mut reader = Process::start(&words)?;
        let read = bench.launch(n, size).await?;
        let cpu = reader.cpu()?;
        // Those that were over in time.
        let lists = reader.ask("lists")?;
        ensure!(lists["failed"].is_null(), "list: {}", lists["failed"]);
        drop(reader);
        let quiet = match first {
            Some(quiet) => quiet,
            None => bench.launch(n, size).await?,
        };
        for seconds in lists["seconds"].as_array().into_iter().flatten() {
            println!(
                "{}",
                json!({"case": "list", "tasks": size.listed, "seconds": seconds})
            );
        }
        println!(
            "{}",
            json!({
                "case": "reads", "agents": size.agents, "listed": size.listed, "every_ms": size.every,
                "without": quiet.json(), "with": read.json(), "reader_cpu_seconds": cpu,
            })
        );
    }
    Ok(())
}
