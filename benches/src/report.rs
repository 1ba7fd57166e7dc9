//! The table: median and spread of each guest, their ratio, and the goal.

/// Which way a number is good.
#[derive(Clone, Copy, Debug)]
pub enum Better {
    /// Such as requests in a second.
    More,
    /// Such as seconds until the first answer.
    Less,
}

/// One measurement of both guests.
pub struct Row {
    name: &'static str,
    unit: &'static str,
    better: Better,
    /// How many times as good as the other guest ours should be.
    goal: Option<f64>,
    /// Our runs.
    pub ours: Vec<f64>,
    /// The other guest's.
    pub theirs: Vec<f64>,
}

impl Row {
    /// An empty row.
    pub fn new(name: &'static str, unit: &'static str, better: Better, goal: Option<f64>) -> Self {
        Self {
            name,
            unit,
            better,
            goal,
            ours: Vec::new(),
            theirs: Vec::new(),
        }
    }

    fn times_as_good(&self) -> Option<f64> {
        let (ours, theirs) = (median(&self.ours)?, median(&self.theirs)?);
        Some(match self.better {
            Better::More => ours / theirs,
            Better::Less => theirs / ours,
        })
    }
}

/// Prints rows under a heading, which says whose numbers are on the left and on the right.
pub fn print(rows: &[Row], (ours, theirs): (&str, &str)) {
    println!(
        "\n{:<34} {:>26} {:>26} {:>9}  goal",
        "", ours, theirs, "times"
    );
    for row in rows {
        let times = row.times_as_good();
        let goal = match (row.goal, times) {
            (Some(goal), Some(times)) => {
                format!("{goal} {}", if times >= goal { "met" } else { "MISSED" })
            }
            (Some(goal), None) => format!("{goal}"),
            (None, _) => String::new(),
        };
        let times = times.map_or_else(|| "-".to_owned(), |times| format!("{times:.2}"));
        let name = format!("{} ({})", row.name, row.unit);
        println!(
            "{name:<34} {:>26} {:>26} {times:>9}  {goal}",
            with_spread(&row.ours),
            with_spread(&row.theirs)
        );
    }
    println!(
        "\nMedian, least and most of the runs; \"times\" is how many times as good the left one is."
    );
}

fn with_spread(runs: &[f64]) -> String {
    let Some(median) = median(runs) else {
        return "-".to_owned();
    };
    let least = runs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if runs.len() == 1 {
        short(median)
    } else {
        format!("{} ({} - {})", short(median), short(least), short(most))
    }
}

/// Three digits that count.
pub fn short(number: f64) -> String {
    match number.abs() {
        0.0..10.0 => format!("{number:.3}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// The one in the middle, or between the two there; `None` of none.
pub fn median(runs: &[f64]) -> Option<f64> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
