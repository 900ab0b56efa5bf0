//! How a pass of the allocator grows with the agents: the points, as JSON, and a picture of milliseconds over agents, a line for
//! each number of frameworks. Both axes are logarithmic: what costs the same for each agent is a straight line.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::Measured;
use crate::bench::report;

/// Agents of the points, from one side of the picture to the other.
pub(super) const AGENTS: [u32; 6] = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000];

/// Frameworks of each line, and its colour.
pub(super) const LINES: [(u32, &str); 4] = [
    (1, "#8a8f98"),
    (50, "#2f6fde"),
    (200, "#d9822b"),
    (1_000, "#2e8b57"),
];

/// The driver's cases that are drawn, and the dashes of their lines: everything is free, and the same after refusals.
const CASES: [(&str, &str); 2] = [("fresh", ""), ("declined", "6 4")];

/// How long a pass may take if everything is free: agents, frameworks, milliseconds.
const AIMS: [(u32, u32, f64); 2] = [(10_000, 200, 50.0), (50_000, 1_000, 1_000.0)];

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = TOP + HEIGHT;

/// The medians of one case at one size.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    case: &'static str,
    agents: u32,
    frameworks: u32,
    millis: f64,
    cpu_millis: f64,
}

/// Those with so many frameworks. One alone has refused nothing: nobody else would be left.
pub(super) fn cases(frameworks: u32) -> &'static [(&'static str, &'static str)] {
    if frameworks > 1 { &CASES } else { &CASES[..1] }
}

/// Writes `target/bench/allocator-curve.json` and `.svg`.
pub(super) fn write(measured: &[Measured]) -> Result<()> {
    let points = points(measured);
    let values: Vec<Value> = points
        .iter()
        .map(|at| {
            json!({
                "case": at.case, "agents": at.agents, "frameworks": at.frameworks,
                "ms": at.millis, "cpu_ms": at.cpu_millis,
            })
        })
        .collect();
    let saved = report::save("allocator-curve", &values, &svg(&points))?;
    println!("\n{saved}");
    Ok(())
}

/// Of the cases that are drawn.
fn points(measured: &[Measured]) -> Vec<Point> {
    let point = |at: &Measured| {
        let mut cases = cases(at.frameworks).iter();
        let (case, _) = *cases.find(|(case, _)| at.case == *case)?;
        Some(Point {
            case,
            agents: at.agents,
            frameworks: at.frameworks,
            millis: report::median(&at.millis)?,
            cpu_millis: report::median(&at.cpu_millis)?,
        })
    };
    measured.iter().filter_map(point).collect()
}

fn svg(points: &[Point]) -> String {
    let Some(scale) = Scale::of(points) else {
        return String::new();
    };
    let mut body = String::new();
    grid(&mut body, &scale);
    for (frameworks, colour) in LINES {
        for (case, dashes) in cases(frameworks) {
            let of_line = |at: &&Point| at.case == *case && at.frameworks == frameworks;
            let line: Vec<&Point> = points.iter().filter(of_line).collect();
            draw(&mut body, &scale, &line, colour, dashes);
        }
    }
    aims(&mut body, &scale);
    legend(&mut body);
    report::framed(860.0, 580.0, &body)
}

/// Powers of ten milliseconds at the bottom and at the top.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    /// With room for all points and the aims. `None` without points.
    fn of(points: &[Point]) -> Option<Self> {
        let times = points.iter().map(|at| logarithm(at.millis));
        let least = times.clone().reduce(f64::min)?;
        let aims = AIMS.map(|(_, _, millis)| logarithm(millis));
        let most = times.chain(aims).fold(least, f64::max);
        Some(Self {
            low: least.floor() as i32,
            high: most.ceil() as i32,
        })
    }

    fn place(&self, agents: u32, millis: f64) -> (f64, f64) {
        let [first, .., last] = AGENTS;
        let (first, last) = (f64::from(first), f64::from(last));
        let x = (f64::from(agents) / first).log10() / (last / first).log10();
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let y = (logarithm(millis) - low) / (high - low);
        (LEFT + x * WIDTH, BOTTOM - y * HEIGHT)
    }
}

/// Of milliseconds. The driver tells microseconds, so nothing is less than one.
fn logarithm(millis: f64) -> f64 {
    millis.max(0.001).log10()
}

/// Both axes with their numbers and names.
fn grid(body: &mut String, scale: &Scale) {
    let _ = writeln!(
        body,
        r##"<text x="10" y="20" font-weight="bold">Milliseconds of a pass that offers all agents</text>
<text x="{}" y="{}" text-anchor="middle">agents</text>
<text x="20" y="{}" text-anchor="middle" transform="rotate(-90 20 {2})">milliseconds</text>"##,
        LEFT + WIDTH / 2.0,
        BOTTOM + 40.0,
        TOP + HEIGHT / 2.0,
    );
    for agents in AGENTS {
        let (x, _) = scale.place(agents, 1.0);
        let _ = writeln!(
            body,
            r##"<path d="M{x:.1} {TOP}V{BOTTOM}" stroke="#ddd"/>
<text x="{x:.1}" y="{}" text-anchor="middle">{agents}</text>"##,
            BOTTOM + 18.0
        );
    }
    let steps = (scale.low..scale.high)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)))
        .chain([10_f64.powi(scale.high)]);
    for millis in steps {
        let (_, y) = scale.place(AGENTS[0], millis);
        let _ = writeln!(
            body,
            r##"<path d="M{LEFT} {y:.1}h{WIDTH}" stroke="#ddd"/>
<text x="{}" y="{:.1}" text-anchor="end">{millis}</text>"##,
            LEFT - 8.0,
            y + 4.0
        );
    }
    let _ = writeln!(
        body,
        r##"<path d="M{LEFT} {TOP}V{BOTTOM}h{WIDTH}" fill="none" stroke="#333"/>"##
    );
}

/// One line, with a mark at each point that tells its numbers.
fn draw(body: &mut String, scale: &Scale, line: &[&Point], colour: &str, dashes: &str) {
    let mut path = String::new();
    for at in line {
        let (x, y) = scale.place(at.agents, at.millis);
        let _ = write!(
            path,
            "{}{x:.1} {y:.1}",
            if path.is_empty() { 'M' } else { 'L' }
        );
        let _ = writeln!(
            body,
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"><title>{}, {} agents, {} frameworks: {} ms</title></circle>"##,
            at.case, at.agents, at.frameworks, at.millis
        );
    }
    let _ = writeln!(
        body,
        r##"<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dashes}"/>"##
    );
}

fn aims(body: &mut String, scale: &Scale) {
    for (agents, frameworks, millis) in AIMS {
        let (x, y) = scale.place(agents, millis);
        let line = LINES.iter().find(|(line, _)| *line == frameworks);
        let (_, colour) = line.expect("aims are of lines");
        let _ = writeln!(
            body,
            r##"<path class="aim" d="M{x:.1} {:.1}l7 7l-7 7l-7 -7z" fill="white" stroke="{colour}" stroke-width="2"/>
<text x="{:.1}" y="{:.1}" text-anchor="end">aim with {frameworks} frameworks: {millis} ms</text>"##,
            y - 7.0,
            x - 12.0,
            y + 4.0
        );
    }
}

/// What colours and dashes stand for, at the top left, where no line comes.
fn legend(body: &mut String) {
    let frameworks = LINES.map(|(n, colour)| (format!("frameworks: {n}"), colour, ""));
    let cases = [
        ("everything is free", 0),
        ("after refusals (up to twenty for each agent)", 1),
    ]
    .map(|(words, at)| (words.to_owned(), "#333", CASES[at].1));
    for (at, (words, colour, dashes)) in frameworks.into_iter().chain(cases).enumerate() {
        let y = TOP + 20.0 + 20.0 * at as f64;
        let _ = writeln!(
            body,
            r##"<path d="M{} {}h30" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>
<text x="{}" y="{y}">{words}</text>"##,
            LEFT + 14.0,
            y - 4.0,
            LEFT + 52.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(case: &str, agents: u32, frameworks: u32, millis: f64) -> Measured {
        Measured {
            case: case.to_owned(),
            agents,
            frameworks,
            millis: vec![millis],
            cpu_millis: vec![millis],
        }
    }

    #[test]
    fn points_are_of_the_cases_that_are_drawn() {
        let drawn = points(&[
            measured("fresh", 1_000, 1, 2.0),
            measured("declined", 1_000, 1, 2.0),
            measured("declined", 1_000, 50, 3.0),
            measured("quota", 1_000, 50, 4.0),
        ]);
        let drawn: Vec<_> = drawn.iter().map(|at| (at.case, at.frameworks)).collect();
        assert_eq!(drawn, [("fresh", 1), ("declined", 50)]);
    }

    #[test]
    fn ten_times_the_time_is_as_far_everywhere() {
        let scale = Scale { low: 0, high: 3 };
        let (left, bottom) = scale.place(1_000, 1.0);
        let (right, top) = scale.place(50_000, 1_000.0);
        assert_eq!((left, bottom), (LEFT, BOTTOM));
        assert_eq!((right, top), (LEFT + WIDTH, TOP));
        let (_, y) = scale.place(1_000, 10.0);
        assert!((BOTTOM - y - HEIGHT / 3.0).abs() < 1e-6, "{y}");
    }

    #[test]
    fn the_picture_has_a_point_for_each_size_and_both_aims() {
        let mut all = Vec::new();
        for agents in AGENTS {
            for (frameworks, _) in LINES {
                for (case, _) in CASES {
                    all.push(measured(
                        case,
                        agents,
                        frameworks,
                        f64::from(agents) / 500.0,
                    ));
                }
            }
        }
        let picture = svg(&points(&all));
        // Four lines, and three dashed ones.
        assert_eq!(picture.matches("<circle").count(), 6 * 7);
        assert!(
            picture.contains("fresh, 20000 agents, 200 frameworks: 40 ms"),
            "{picture}"
        );
        assert_eq!(picture.matches(r#"class="aim""#).count(), 2);
        assert!(picture.contains("aim with 1000 frameworks: 1000 ms"));
        assert!(!picture.contains("NaN"), "{picture}");
    }

    #[test]
    fn no_points_give_no_picture() {
        assert!(svg(&points(&[measured("quota", 1_000, 50, 4.0)])).is_empty());
    }
}
