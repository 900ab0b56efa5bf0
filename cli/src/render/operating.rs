//! Planned work for people.

use mezzo_api::proto::{MaintenanceStage, MaintenanceWindow};

use super::{Style, Table, clean};

/// `mezzo node maintenance list`.
pub(crate) fn windows(windows: &[MaintenanceWindow], now_ms: u64, style: Style) -> String {
    if windows.is_empty() {
        return "no maintenance is planned\n".to_owned();
    }
    let mut table = Table::new(&[
        "NAME", "STAGE", ">NODES", "STARTS", "DRAINS", "ENDS", "ANSWERS",
    ]);
    for window in windows {
        let stage = match window.stage() {
            MaintenanceStage::Scheduled => "scheduled",
            MaintenanceStage::Vacating => "vacating",
            MaintenanceStage::Draining => "draining",
            MaintenanceStage::Unspecified => "over",
        };
        let yes = |answer: Option<bool>| {
            let answers = window.answers.iter();
            answers.filter(|one| one.accepted == answer).count()
        };
        let answers = format!(
            "{} yes, {} no, {} open",
            yes(Some(true)),
            yes(Some(false)),
            yes(None)
        );
        table.row([
            clean(&window.name).into(),
            stage.into(),
            window.agent_ids.len().to_string().into(),
            until(window.starts_at_ms, now_ms).into(),
            until(window.drains_at_ms, now_ms).into(),
            window
                .ends_at_ms
                .map_or_else(|| "when cancelled".to_owned(), |at| until(at, now_ms))
                .into(),
            answers.into(),
        ]);
    }
    table.render(style, "")
}

fn until(at_ms: u64, now_ms: u64) -> String {
    if at_ms > now_ms {
        format!("in {}", super::age(now_ms, at_ms))
    } else {
        format!("{} ago", super::age(at_ms, now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_one_line_with_its_moments() {
        let window = MaintenanceWindow {
            name: "kernel\u{1b}[2J".into(),
            agent_ids: vec!["a".into(), "b".into()],
            starts_at_ms: 1_000_000,
            drains_at_ms: 1_600_000,
            stage: MaintenanceStage::Vacating.into(),
            ..MaintenanceWindow::default()
        };
        let text = windows(&[window], 1_060_000, Style { colour: false });
        for part in ["vacating", "ago", "in ", "when cancelled", "0 open"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
